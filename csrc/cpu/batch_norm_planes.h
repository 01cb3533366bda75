// The passes of the operators with batch normalization over planes: [N, C, S] with S contiguous.
//
// The work of one channel is cut into blocks of about 4 Ki elements: some whole planes, or a piece
// of one. A block is small enough to stay in the cache between the two readings of its statistics.
#pragma once

#include "batch_norm_passes.h"

namespace trgl::cpu::batch_norm {

// Channel c's elements in block b: planes [n0, n1), of each the elements [i0, i1).
struct PlaneBlock {
  int64_t n0, n1, i0, i1;
};

struct Planes {
  int64_t batch, channels, size;  // N, C, S
  int64_t group = 1;              // whole planes in a block
  int64_t pieces = 1;             // blocks in a plane, where it is larger than a block
  int64_t piece = 0;              // elements of a plane in a block
  int64_t blocks = 0;             // blocks in a channel

  Planes(int64_t n, int64_t c, int64_t s) : batch(n), channels(c), size(s) {
    group = std::max<int64_t>(1, kBlock / size);
    pieces = divide_up(size, kBlock);
    piece = pieces == 1 ? size : kBlock;
    blocks = pieces == 1 ? divide_up(batch, group) : batch * pieces;
  }

  TRGL_INLINE PlaneBlock block(int64_t b) const {
    if (pieces == 1) {
      return {b * group, std::min(batch, (b + 1) * group), 0, size};
    }
    const int64_t i = b % pieces * piece;
    return {b / pieces, b / pieces + 1, i, std::min(size, i + piece)};
  }

  TRGL_INLINE int64_t at(int64_t n, int64_t c) const {
    return (n * channels + c) * size;
  }
};

// Count, mean and M2 = Σ(z − mean)² of blocks [first, last), numbered channel by channel.
template <class T>
struct PlaneStatistics {
  using A = Accumulator<T>;

  template <int BYTES>
  static TRGL_INLINE void run(
      const Forward<T>& a, const Planes& planes, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t c = unit / planes.blocks;
      const PlaneBlock b = planes.block(unit % planes.blocks);
      const int64_t count = (b.n1 - b.n0) * (b.i1 - b.i0);
      simd::Vector<A, W> total{}, odd{}, distance{}, squares{};
      double rest = 0.0, rest_squares = 0.0;
      for (int64_t n = b.n0; n < b.n1; ++n) {
        const T* z = a.z + planes.at(n, c);
        int64_t i = b.i0;
        for (; i + 2 * W <= b.i1; i += 2 * W) {  // an addition that waits for no other
          total += simd::load<W>(z + i);
          odd += simd::load<W>(z + i + W);
        }
        for (; i + W <= b.i1; i += W) {
          total += simd::load<W>(z + i);
        }
        for (; i < b.i1; ++i) {
          rest += static_cast<A>(z[i]);
        }
      }
      total += odd;
      const A near = static_cast<A>((simd::sum<A, W>(total) + rest) / static_cast<double>(count));
      rest = 0.0;
      for (int64_t n = b.n0; n < b.n1; ++n) {
        const T* z = a.z + planes.at(n, c);
        int64_t i = b.i0;
        for (; i + W <= b.i1; i += W) {
          const auto d = simd::load<W>(z + i) - near;
          distance += d;
          squares += d * d;
        }
        for (; i < b.i1; ++i) {
          const A d = static_cast<A>(z[i]) - near;
          rest += d;
          rest_squares += d * d;
        }
      }
      a.blocks[unit] = Moments::around(
          near, count, simd::sum<A, W>(distance) + rest, simd::sum<A, W>(squares) + rest_squares);
    }
  }
};

// y and the energy of planes [first, last), numbered channel by channel.
template <class T, Power P>
struct PlaneApply {
  using A = Accumulator<T>;

  template <int W>
  static TRGL_INLINE simd::Vector<A, W> element(
      const Forward<T>& a, int64_t at, A mean, A slope, A bias, A keep) {
    const auto q = ((simd::load<W>(a.z + at) - mean) * slope + bias) * keep;
    const auto u = simd::load<W>(a.x + at) + q;
    simd::store<W>(a.y + at, simd::at_least<A, W>(u, a.floor), a.streamed);
    if constexpr (P == Power::none) {
      return q;
    } else {
      return simd::power<P, A, W>(q, a.p);
    }
  }

  template <int BYTES>
  static TRGL_INLINE void run(
      const Forward<T>& a, const Planes& planes, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t c = unit / planes.batch, n = unit % planes.batch;
      const A mean = a.mean[c];
      const A slope = a.rstd[c] * (a.weight ? a.weight[c] : A(1));
      const A bias = a.bias ? a.bias[c] : A(0);
      const A keep = a.keep ? a.keep[n] : A(1);
      const int64_t base = planes.at(n, c);
      double energy = 0.0;
      for (int64_t begin = 0; begin < planes.size; begin += kFold) {
        const int64_t end = std::min(planes.size, begin + kFold);
        simd::Vector<A, W> total{};
        int64_t i = begin;
        while (i + 2 * W <= end) {
          const int64_t stop = std::min(end, i + kRun);
          simd::Vector<A, W> even{}, odd{};
          for (; i + 2 * W <= stop; i += 2 * W) {
            even += element<W>(a, base + i, mean, slope, bias, keep);
            odd += element<W>(a, base + i + W, mean, slope, bias, keep);
          }
          total += even + odd;
        }
        for (; i + W <= end; i += W) {
          total += element<W>(a, base + i, mean, slope, bias, keep);
        }
        for (; i < end; ++i) {
          energy += element<1>(a, base + i, mean, slope, bias, keep)[0];
        }
        energy += simd::sum<A, W>(total);
      }
      if constexpr (P != Power::none) {
        a.partial[unit] = static_cast<A>(energy);  // next to those that this thread writes
      }
    }
  }
};

// max(BN(z), 0) on planes [first, last), numbered channel by channel, or as they lie in memory.
template <class T, bool IN_MEMORY>
struct PlaneRectify {
  using A = Accumulator<T>;

  template <int W>
  static TRGL_INLINE void element(const Rectified<T>& a, int64_t at, A mean, A slope, A bias) {
    const simd::Vector<A, W> centred = simd::load<W>(a.z + at) - mean;
    simd::store<W>(
        a.y + at, simd::at_least<A, W>(normalized(centred, slope, bias), A(0)), a.streamed);
  }

  template <int BYTES>
  static TRGL_INLINE void run(
      const Rectified<T>& a, const Planes& planes, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t c = IN_MEMORY ? unit % planes.channels : unit / planes.batch;
      const int64_t n = IN_MEMORY ? unit / planes.channels : unit % planes.batch;
      const A mean = a.mean[c], bias = a.bias ? a.bias[c] : A(0);
      const A slope = a.weight ? a.rstd[c] * a.weight[c] : a.rstd[c];
      const int64_t base = planes.at(n, c);
      int64_t i = 0;
      for (; i + W <= planes.size; i += W) {
        element<W>(a, base + i, mean, slope, bias);
      }
      for (; i < planes.size; ++i) {
        element<1>(a, base + i, mean, slope, bias);
      }
    }
  }
};

// Runs a channel's passes one after the other on one thread, while its planes are in the cache;
// where there are too few channels for the threads, each pass runs on all of them. The arithmetic
// is the same.
template <class First, class Between, class Second>
void in_two_passes(
    const Planes& planes, const First& first, const Between& between, const Second& second) {
  const int64_t c = planes.channels, threads = thread_count();
  const int64_t per_channel = planes.batch * planes.size;
  if (c % threads == 0 || c >= 4 * threads) {
    parallel_for(c, per_channel, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        first(i * planes.blocks, (i + 1) * planes.blocks);
        between(i, i + 1);
        second(i * planes.batch, (i + 1) * planes.batch);
      }
    });
    return;
  }
  parallel_for(c * planes.blocks, per_channel / planes.blocks, first);
  between(0, c);
  parallel_for(c * planes.batch, planes.size, second);
}

}  // namespace trgl::cpu::batch_norm

// The passes of the operators with batch normalization over rows: [N·S, C] with C contiguous, which
// is channels_last, and [N, C].
//
// A block is some rows that stay in the cache; reductions go down its columns, some vectors of
// channels side by side: a single one, a cache line wide, would skip through memory.
#pragma once

#include "batch_norm_passes.h"

namespace trgl::cpu::batch_norm {

struct Rows {
  int64_t batch, size, channels;  // N, S, C
  int64_t rows;                   // N·S
  int64_t height;                 // rows in a block
  int64_t blocks;
  int64_t tile;   // rows of a sample that share a partial energy
  int64_t tiles;  // in a sample

  Rows(int64_t n, int64_t s, int64_t c) : batch(n), size(s), channels(c), rows(n * s) {
    height = std::clamp<int64_t>(4 * kBlock / channels, 128, 256);
    blocks = divide_up(rows, height);
    tile = std::min(size, std::clamp<int64_t>(4 * kBlock / channels, 1, 64));
    tiles = divide_up(size, tile);
  }
};

// Vectors of channels that a reduction takes down a block side by side, so that an addition does
// not wait for the one before. On an EPYC and a Xeon with AVX-512 four are faster than one by a
// fifth at C = 64 and beyond, and eight spill; on the Xeon two are by a tenth at C = 32.
constexpr int kSide = 4;

// Calls f(width, count, c) for all channels: kSide vectors of W at c, two, one, or one of 1.
template <int W, class F>
TRGL_INLINE void for_columns(int64_t channels, const F& f) {
  using std::integral_constant;
  int64_t c = 0;
  for (; c + kSide * W <= channels; c += kSide * W) {
    f(integral_constant<int, W>(), integral_constant<int, kSide>(), c);
  }
  if (c + 2 * W <= channels) {
    f(integral_constant<int, W>(), integral_constant<int, 2>(), c);
    c += 2 * W;
  }
  for (; c + W <= channels; c += W) {
    f(integral_constant<int, W>(), integral_constant<int, 1>(), c);
  }
  for (; c < channels; ++c) {
    f(integral_constant<int, 1>(), integral_constant<int, 1>(), c);
  }
}

// Moments of every channel in blocks [first, last).
template <class T>
struct RowStatistics {
  using A = Accumulator<T>;

  template <int W, int SIDE>
  static TRGL_INLINE void columns(
      const Forward<T>& a, const Rows& rows, int64_t block, int64_t begin, int64_t end, int64_t c) {
    simd::Vector<A, W> near[SIDE]{}, distance[SIDE]{}, squares[SIDE]{};
    for (int64_t row = begin; row < end; ++row) {
      for (int i = 0; i < SIDE; ++i) {
        near[i] += simd::load<W>(a.z + row * rows.channels + c + i * W);
      }
    }
    for (int i = 0; i < SIDE; ++i) {
      near[i] = near[i] / static_cast<A>(end - begin);
    }
    for (int64_t row = begin; row < end; ++row) {
      for (int i = 0; i < SIDE; ++i) {
        const auto d = simd::load<W>(a.z + row * rows.channels + c + i * W) - near[i];
        distance[i] += d;
        squares[i] += d * d;
      }
    }
    for (int i = 0; i < SIDE; ++i) {
      for (int lane = 0; lane < W; ++lane) {
        a.blocks[block * rows.channels + c + i * W + lane] =
            Moments::around(near[i][lane], end - begin, distance[i][lane], squares[i][lane]);
      }
    }
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Forward<T>& a, const Rows& rows, int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * rows.height;
      const int64_t end = std::min(rows.rows, begin + rows.height);
      for_columns<BYTES / sizeof(A)>(
          rows.channels, [&](auto width, auto side, int64_t c) TRGL_INLINE_LAMBDA {
            columns<width, side>(a, rows, block, begin, end, c);
          });
    }
  }
};

// y and the energy of tiles [first, last), numbered sample by sample.
template <class T, Power P>
struct RowApply {
  using A = Accumulator<T>;

  template <int W>
  static TRGL_INLINE simd::Vector<A, W> element(
      const Forward<T>& a, int64_t at, int64_t c, A keep) {
    auto q = (simd::load<W>(a.z + at) - simd::load<W>(a.mean + c)) * simd::load<W>(a.rstd + c);
    if (a.weight) {
      q = q * simd::load<W>(a.weight + c);
    }
    if (a.bias) {
      q = q + simd::load<W>(a.bias + c);
    }
    q = q * keep;
    const simd::Vector<A, W> u = simd::load<W>(a.x + at) + q;
    simd::store<W>(a.y + at, simd::at_least<A, W>(u, a.floor), a.streamed);
    if constexpr (P == Power::none) {
      return q;
    } else {
      return simd::power<P, A, W>(q, a.p);
    }
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Forward<T>& a, const Rows& rows, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t n = unit / rows.tiles, begin = unit % rows.tiles * rows.tile;
      const int64_t end = std::min(rows.size, begin + rows.tile);
      const A keep = a.keep ? a.keep[n] : A(1);
      simd::Vector<A, W> total{};
      double rest = 0.0;
      for (int64_t row = n * rows.size + begin; row < n * rows.size + end; ++row) {
        const int64_t base = row * rows.channels;
        simd::Vector<A, W> of_row{};
        int64_t c = 0;
        for (; c + W <= rows.channels; c += W) {
          of_row += element<W>(a, base + c, c, keep);
        }
        total += of_row;
        for (; c < rows.channels; ++c) {
          rest += element<1>(a, base + c, c, keep)[0];
        }
      }
      if constexpr (P != Power::none) {
        a.partial[unit] = static_cast<A>(simd::sum<A, W>(total) + rest);
      }
    }
  }
};

// max(BN(z), 0) in rows [first, last).
template <class T>
struct RowRectify {
  using A = Accumulator<T>;

  template <int W>
  static TRGL_INLINE void element(const Rectified<T>& a, int64_t at, int64_t c) {
    const simd::Vector<A, W> centred = simd::load<W>(a.z + at) - simd::load<W>(a.mean + c);
    auto slope = simd::load<W>(a.rstd + c);
    if (a.weight) {
      slope = slope * simd::load<W>(a.weight + c);
    }
    const auto bias = a.bias ? simd::load<W>(a.bias + c) : simd::Vector<A, W>{};
    simd::store<W>(
        a.y + at, simd::at_least<A, W>(normalized(centred, slope, bias), A(0)), a.streamed);
  }

  template <int BYTES>
  static TRGL_INLINE void run(
      const Rectified<T>& a, const Rows& rows, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    for (int64_t row = first; row < last; ++row) {
      const int64_t base = row * rows.channels;
      int64_t c = 0;
      for (; c + W <= rows.channels; c += W) {
        element<W>(a, base + c, c);
      }
      for (; c < rows.channels; ++c) {
        element<1>(a, base + c, c);
      }
    }
  }
};

}  // namespace trgl::cpu::batch_norm

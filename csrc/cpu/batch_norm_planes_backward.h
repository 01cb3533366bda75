// The passes of the gradient over planes.
#pragma once

#include "batch_norm_planes.h"

namespace trgl::cpu::batch_norm {

template <class T, class A = Accumulator<T>>
TRGL_INLINE Channel<A> channel_at(const Backward<T>& a, int64_t c) {
  return {a.mean[c], a.slope[c], a.bias[c], a.mean_g[c], a.mean_gd[c]};
}

// Σg and Σg·(z − μ) of blocks [first, last), and the gradient of x where a.grad_x is given.
template <class T, Power P, Mask MASK>
struct PlaneReduce {
  using A = Accumulator<T>;

  template <int BYTES>
  static TRGL_INLINE void run(
      const Backward<T>& a, const Planes& planes, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t c = unit / planes.blocks;
      const PlaneBlock b = planes.block(unit % planes.blocks);
      const Channel<A> channel = channel_at(a, c);
      Chain<W> even, odd;  // an addition waits for no other, and sums are half as long
      Sums total;
      int64_t summed = 0;
      const auto fold = [&]() TRGL_INLINE_LAMBDA {
        total.g += simd::sum<A, W>(even.g + odd.g);
        total.gd += simd::sum<A, W>(even.gd + odd.gd);
        even = odd = Chain<W>{};
        summed = 0;
      };
      for (int64_t n = b.n0; n < b.n1; ++n) {
        const Sample<P, A> sample(a, n);
        const int64_t base = planes.at(n, c);
        int64_t i = b.i0;
        while (i + W <= b.i1) {
          const int64_t begin = i, stop = std::min(b.i1, i + kRun);
          for (; i + 2 * W <= stop; i += 2 * W) {
            even.add(gradient<P, MASK, true, W>(a, base + i, channel, sample));
            odd.add(gradient<P, MASK, true, W>(a, base + i + W, channel, sample));
          }
          for (; i + W <= stop; i += W) {
            even.add(gradient<P, MASK, true, W>(a, base + i, channel, sample));
          }
          summed += i - begin;
          if (summed >= kRun) {
            fold();
          }
        }
        for (; i < b.i1; ++i) {
          const auto [g, centred] = gradient<P, MASK, true, 1>(a, base + i, channel, sample);
          total.g += g[0];
          total.gd += g[0] * centred[0];
        }
      }
      fold();
      a.blocks[unit] = total;
    }
  }

  // Σg and Σg·(z − μ), lane by lane.
  template <int W>
  struct Chain {
    simd::Vector<A, W> g{}, gd{};

    TRGL_INLINE void add(const std::pair<simd::Vector<A, W>, simd::Vector<A, W>>& of) {
      g += of.first;
      gd += of.first * of.second;
    }
  };
};

// The gradient of z on planes [first, last), numbered channel by channel, and that of x where
// a.grad_x is given.
template <class T, Power P, Mask MASK>
struct PlaneGradient {
  using A = Accumulator<T>;

  template <int W>
  static TRGL_INLINE void element(
      const Backward<T>& a, int64_t at, const Channel<A>& channel, const Sample<P, A>& sample) {
    const auto of = gradient<P, MASK, false, W>(a, at, channel, sample);
    store_gradient_of_z<W>(a, at, channel, of);
  }

  template <int BYTES>
  static TRGL_INLINE void run(
      const Backward<T>& a, const Planes& planes, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t c = unit / planes.batch, n = unit % planes.batch;
      const Channel<A> channel = channel_at(a, c);
      const Sample<P, A> sample(a, n);
      const int64_t base = planes.at(n, c);
      int64_t i = 0;
      for (; i + W <= planes.size; i += W) {
        element<W>(a, base + i, channel, sample);
      }
      for (; i < planes.size; ++i) {
        element<1>(a, base + i, channel, sample);
      }
    }
  }
};

}  // namespace trgl::cpu::batch_norm

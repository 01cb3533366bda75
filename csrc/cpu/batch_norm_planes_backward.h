// The passes of the gradient over planes.
#pragma once

#include "batch_norm_planes.h"

namespace trgl::cpu::batch_norm {

template <class T, class A = Accumulator<T>>
TRGL_INLINE Channel<A> channel_at(const Backward<T>& a, int64_t c) {
  return {a.mean[c], a.slope[c], a.bias[c], a.mean_g[c], a.mean_gd[c]};
}

// Σg and Σg·(z − μ) of blocks [first, last), and the gradient of x.
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
      simd::Vector<A, W> sum_g{}, sum_gd{};
      Sums total;
      int64_t summed = 0;
      for (int64_t n = b.n0; n < b.n1; ++n) {
        const Sample<P, A> sample(a, n);
        const int64_t base = planes.at(n, c);
        int64_t i = b.i0;
        while (i + W <= b.i1) {
          const int64_t begin = i;
          for (const int64_t stop = std::min(b.i1, i + kRun); i + W <= stop; i += W) {
            const auto [g, centred] = gradient<P, MASK, true, W>(a, base + i, channel, sample);
            sum_g += g;
            sum_gd += g * centred;
          }
          summed += i - begin;
          if (summed >= kRun) {
            total.g += simd::sum<A, W>(sum_g);
            total.gd += simd::sum<A, W>(sum_gd);
            sum_g = sum_gd = simd::Vector<A, W>{};
            summed = 0;
          }
        }
        for (; i < b.i1; ++i) {
          const auto [g, centred] = gradient<P, MASK, true, 1>(a, base + i, channel, sample);
          total.g += g[0];
          total.gd += g[0] * centred[0];
        }
      }
      total.g += simd::sum<A, W>(sum_g);
      total.gd += simd::sum<A, W>(sum_gd);
      a.blocks[unit] = total;
    }
  }
};

// The gradient of z on planes [first, last), numbered channel by channel.
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

// The backward pass of residual_energy_layer_norm on the CPU over a block of rows: each row's two
// means, then its gradients, while the row is in the cache. The equations stand in
// residual_energy_layer_norm_backward.cpp.
#pragma once

#include "residual_energy_layer_norm.h"

namespace trgl::cpu::layer_norm {

template <class T, class R, class A = Accumulator<T>>
struct Backward {
  const T* grad_y;       // [N, *, C] or null
  const T* grad_normed;  // [N, *, C] or null
  const A* grad_energy;  // [N] or null
  const T* y;            // [N, *, C]
  const R* r;            // [N, *, C] or null
  const T* x;            // [N, *, C] or null
  const A* weight;       // [C] or null
  const A* mean;         // [N, *]
  const A* rstd;         // [N, *]
  const A* scale;        // [C] or null
  const A* keep;         // [N] or null
  T* grad_x;             // [N, *, C] or null
  R* grad_r;             // [N, *, C] or null
  A* grad_weight;        // [blocks, C] or null
  A* grad_bias;          // [blocks, C] or null
  A* grad_scale;         // [blocks, C] or null
  A p;
  const Rows* rows;
  int64_t block;  // rows that share partial sums
  bool streamed;  // grad_x and grad_r are written past the caches
};

// What the gradient needs of a row.
template <class A>
struct Row {
  int64_t at;  // its first element
  A mean, rstd, keep, slope, mean_g, mean_gy;
};

template <int W, class A>
TRGL_INLINE void add_to(A* sums, const simd::Vector<A, W>& value) {
  simd::store<W>(sums, simd::load<W>(sums) + value);
}

template <class T, class R, Power P>
struct BackwardKernel {
  using A = Accumulator<T>;

  template <int W>
  static TRGL_INLINE std::pair<simd::Vector<A, W>, simd::Vector<A, W>> affine(
      const Backward<T, R>& a, const Row<A>& row, int64_t i) {
    const auto grad = simd::load<W>(a.grad_normed + row.at + i);
    return {grad, (simd::load<W>(a.y + row.at + i) - row.mean) * row.rstd};
  }

  // g and g·ŷ; adds to this block's sums for weight and bias.
  template <int W>
  static TRGL_INLINE std::pair<simd::Vector<A, W>, simd::Vector<A, W>> reduce(
      const Backward<T, R>& a, const Row<A>& row, int64_t i, A* to_weight, A* to_bias) {
    auto [g, y_hat] = affine<W>(a, row, i);
    if (to_weight) {
      add_to<W, A>(to_weight + i, g * y_hat);
    }
    if (to_bias) {
      add_to<W, A>(to_bias + i, g);
    }
    if (a.weight) {
      g = g * simd::load<W>(a.weight + i);
    }
    return {g, g * y_hat};
  }

  // mean(g) and mean(g·ŷ) of a row.
  template <int W>
  static TRGL_INLINE void reduce_row(
      const Backward<T, R>& a, Row<A>& row, A* to_weight, A* to_bias) {
    RowSum<A, W> sum_g, sum_gy;
    for_row<W>(
        a.rows->width,
        [&](int64_t i) TRGL_INLINE_LAMBDA {
          const auto [g, gy] = reduce<W>(a, row, i, to_weight, to_bias);
          sum_g.run += g;
          sum_gy.run += gy;
        },
        [&](int64_t i) TRGL_INLINE_LAMBDA {
          const auto [g, gy] = reduce<1>(a, row, i, to_weight, to_bias);
          sum_g.rest += g[0];
          sum_gy.rest += gy[0];
        },
        [&]() TRGL_INLINE_LAMBDA {
          sum_g.fold();
          sum_gy.fold();
        });
    row.mean_g = sum_g.value() / static_cast<A>(a.rows->width);
    row.mean_gy = sum_gy.value() / static_cast<A>(a.rows->width);
  }

  template <int W>
  static TRGL_INLINE void write(
      const Backward<T, R>& a, const Row<A>& row, int64_t i, A* to_scale) {
    const int64_t at = row.at + i;
    auto grad = a.grad_y ? simd::load<W>(a.grad_y + at) : simd::Vector<A, W>{};
    if (a.grad_normed) {
      auto [g, y_hat] = affine<W>(a, row, i);
      if (a.weight) {
        g = g * simd::load<W>(a.weight + i);
      }
      grad += (g - row.mean_g - y_hat * row.mean_gy) * row.rstd;
    }
    if (a.grad_x) {
      simd::store<W>(a.grad_x + at, grad, a.streamed);
    }
    if (!a.grad_r && !to_scale) {
      return;
    }
    auto factor = simd::broadcast<A, W>(row.keep);
    if (a.scale) {
      factor = factor * simd::load<W>(a.scale + i);
    }
    if constexpr (P != Power::none) {
      const simd::Vector<A, W> q = a.x ? simd::load<W>(a.y + at) - simd::load<W>(a.x + at)
                                       : simd::load<W>(a.r + at) * factor;
      grad += row.slope * simd::slope<P, A, W>(q, a.p);
    }
    if (a.grad_r) {
      simd::store<W>(a.grad_r + at, grad * factor, a.streamed);
    }
    if (to_scale) {
      add_to<W, A>(to_scale + i, grad * (simd::load<W>(a.r + at) * row.keep));
    }
  }

  // This block's sums, set to 0.
  static TRGL_INLINE A* zeros(A* sums, int64_t block, int64_t width) {
    if (sums) {
      sums += block * width;
      std::fill(sums, sums + width, A(0));
    }
    return sums;
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Backward<T, R>& a, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    const int64_t width = a.rows->width, count = a.rows->batch * a.rows->size;
    for (int64_t block = first; block < last; ++block) {
      A* to_weight = zeros(a.grad_weight, block, width);
      A* to_bias = zeros(a.grad_bias, block, width);
      A* to_scale = zeros(a.grad_scale, block, width);
      const int64_t end = std::min(count, (block + 1) * a.block);
      for (int64_t index = block * a.block; index < end; ++index) {
        const int64_t n = index / a.rows->size;
        Row<A> row{
            index * width,
            a.mean[index],
            a.rstd[index],
            a.keep ? a.keep[n] : A(1),
            P == Power::none ? A(0) : a.grad_energy[n],
            A(0),
            A(0)};
        if (a.grad_normed) {
          reduce_row<W>(a, row, to_weight, to_bias);
        }
        int64_t i = 0;
        for (; i + W <= width; i += W) {
          write<W>(a, row, i, to_scale);
        }
        for (; i < width; ++i) {
          write<1>(a, row, i, to_scale);
        }
      }
    }
  }
};

}  // namespace trgl::cpu::layer_norm

// The backward half that the operators with batch normalization share, with ẑ = (z − μ)·rstd, g the
// gradient at BN's output and M values per channel:
//
//   ∂L/∂γ = Σ g·ẑ,  ∂L/∂β = Σ g
//   ∂L/∂z = γ·rstd·(g − Σg/M − ẑ·Σ(g·ẑ)/M) in training, γ·rstd·g in evaluation
//
// Two passes over planes or over rows: the sums; the gradient of z.
#pragma once

#include <vector>

#include "batch_norm_layout.h"

namespace trgl::cpu::batch_norm {

// Channel c's Σg and Σg·ẑ become the gradients of β and γ, and the means that z's gradient needs.
template <class T, class A = Accumulator<T>>
void finish_sums(
    const Backward<T>& a, int64_t c, const Sums& sums, double count, A* grad_weight, A* grad_bias) {
  if (grad_weight) {
    grad_weight[c] = static_cast<A>(sums.gz);
  }
  if (grad_bias) {
    grad_bias[c] = static_cast<A>(sums.g);
  }
  a.mean_g[c] = static_cast<A>(sums.g / count);
  a.mean_gz[c] = static_cast<A>(sums.gz / count);
}

// FIRST and SECOND say what masks the gradient that either pass reads.
template <class T, Power P, Mask FIRST, Mask SECOND, class Finish>
void backward(const Backward<T>& a, const Planes& planes, const Finish& finish) {
  const auto reduce = [&](int64_t first, int64_t last) {
    simd::dispatch<PlaneReduce<T, P, FIRST>>(&a, &planes, first, last);
  };
  const auto between = [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      Sums sums;
      for (int64_t b = 0; b < planes.blocks; ++b) {
        sums.g += a.blocks[c * planes.blocks + b].g;
        sums.gz += a.blocks[c * planes.blocks + b].gz;
      }
      finish(c, sums);
    }
  };
  in_two_passes(planes, reduce, between, [&](int64_t first, int64_t last) {
    if (a.grad_z && !a.at_once) {
      simd::dispatch<PlaneGradient<T, P, SECOND>>(&a, &planes, first, last);
    }
  });
}

template <class T, Power P, Mask FIRST, Mask SECOND, class Finish>
void backward(const Backward<T>& a, const Rows& rows, const Finish& finish) {
  const int64_t channels = rows.channels;
  parallel_for(rows.blocks, rows.height * channels, [&](int64_t first, int64_t last) {
    simd::dispatch<RowReduce<T, P, FIRST>>(&a, &rows, first, last);
  });
  parallel_for(channels, rows.blocks, [&](int64_t first, int64_t last) {
    std::vector<Sums> sums(last - first);
    for (int64_t b = 0; b < rows.blocks; ++b) {
      for (int64_t c = first; c < last; ++c) {
        sums[c - first].g += a.blocks[b * channels + c].g;
        sums[c - first].gz += a.blocks[b * channels + c].gz;
      }
    }
    for (int64_t c = first; c < last; ++c) {
      finish(c, sums[c - first]);
    }
  });
  if (a.grad_z && !a.at_once) {
    parallel_for(rows.rows, channels, [&](int64_t first, int64_t last) {
      simd::dispatch<RowGradient<T, P, SECOND>>(&a, &rows, first, last);
    });
  }
}

}  // namespace trgl::cpu::batch_norm

// The backward half that the operators with batch normalization share, with ẑ = (z − μ)·rstd, g the
// gradient at BN's output and M values per channel:
//
//   ∂L/∂γ = Σ g·ẑ,  ∂L/∂β = Σ g
//   ∂L/∂z = γ·rstd·(g − Σg/M − ẑ·Σ(g·ẑ)/M) in training, γ·rstd·g in evaluation
//
// The factors rstd in ẑ are left to the ends: the sum is Σ g·(z − μ), and rstd² goes into its mean.
// Two passes over planes or over rows: the sums; the gradient of z.
#pragma once

#include <vector>

#include "batch_norm_layout.h"
#include "batch_norm_planes_backward.h"
#include "batch_norm_rows_backward.h"

namespace trgl::cpu::batch_norm {

// The small vectors that the passes read, and those between the passes, side by side.
template <class A>
struct ChannelVectors {
  int64_t channels;
  std::vector<A> values;  // [4, C]

  ChannelVectors(int64_t channels, const A* weight, const A* bias, const A* rstd)
      : channels(channels), values(4 * channels) {
    for (int64_t c = 0; c < channels; ++c) {
      values[c] = weight ? rstd[c] * weight[c] : rstd[c];
      values[channels + c] = bias ? bias[c] : A(0);
    }
  }

  template <class T>
  void give(Backward<T>& a) {
    a.slope = values.data();
    a.bias = a.slope + channels;
    a.mean_g = values.data() + 2 * channels;
    a.mean_gd = a.mean_g + channels;
  }
};

// Channel c's Σg and Σg·(z − μ) become the gradients of β and γ, and the means that z's gradient
// needs.
template <class T, class A = Accumulator<T>>
void finish_sums(
    const Backward<T>& a, int64_t c, const Sums& sums, double count, A* grad_weight, A* grad_bias) {
  if (grad_weight) {
    grad_weight[c] = static_cast<A>(sums.gd * a.rstd[c]);
  }
  if (grad_bias) {
    grad_bias[c] = static_cast<A>(sums.g);
  }
  a.mean_g[c] = static_cast<A>(sums.g / count);
  a.mean_gd[c] = static_cast<A>(sums.gd * a.rstd[c] * a.rstd[c] / count);
}

// `of_sums` and `of_z` are what the first and the second pass read and write; FIRST and SECOND say
// what masks the gradient that they read.
template <class T, Power P, Mask FIRST, Mask SECOND, class Finish>
void backward(
    const Backward<T>& of_sums,
    const Backward<T>& of_z,
    const Planes& planes,
    const Finish& finish) {
  const auto reduce = [&](int64_t first, int64_t last) {
    simd::dispatch<PlaneReduce<T, P, FIRST>>(of_sums, planes, first, last);
  };
  const auto between = [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      Sums sums;
      for (int64_t b = 0; b < planes.blocks; ++b) {
        sums.g += of_sums.blocks[c * planes.blocks + b].g;
        sums.gd += of_sums.blocks[c * planes.blocks + b].gd;
      }
      finish(c, sums);
    }
  };
  in_two_passes(planes, reduce, between, [&](int64_t first, int64_t last) {
    if (of_z.grad_z && !of_z.at_once) {
      simd::dispatch<PlaneGradient<T, P, SECOND>>(of_z, planes, first, last);
    }
  });
}

template <class T, Power P, Mask FIRST, Mask SECOND, class Finish>
void backward(
    const Backward<T>& of_sums, const Backward<T>& of_z, const Rows& rows, const Finish& finish) {
  const int64_t channels = rows.channels;
  parallel_for(rows.blocks, rows.height * channels, [&](int64_t first, int64_t last) {
    simd::dispatch<RowReduce<T, P, FIRST>>(of_sums, rows, first, last);
  });
  parallel_for(channels, rows.blocks, [&](int64_t first, int64_t last) {
    std::vector<Sums> sums(last - first);
    for (int64_t b = 0; b < rows.blocks; ++b) {
      for (int64_t c = first; c < last; ++c) {
        sums[c - first].g += of_sums.blocks[b * channels + c].g;
        sums[c - first].gd += of_sums.blocks[b * channels + c].gd;
      }
    }
    for (int64_t c = first; c < last; ++c) {
      finish(c, sums[c - first]);
    }
  });
  if (of_z.grad_z && !of_z.at_once) {
    parallel_for(rows.rows, channels, [&](int64_t first, int64_t last) {
      simd::dispatch<RowGradient<T, P, SECOND>>(of_z, rows, first, last);
    });
  }
}

}  // namespace trgl::cpu::batch_norm

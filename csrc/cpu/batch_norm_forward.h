// The forward half that the operators with batch normalization share: the small vectors beside the
// map, and the order of the passes. Partial results belong to blocks that depend on the shape alone
// and are merged in their order, so that results do not depend on the number of threads.
#pragma once

#include <ATen/ops/empty.h>

#include <vector>

#include "batch_norm_layout.h"

namespace trgl::cpu::batch_norm {

// A float32 (float64) vector that a kernel may write, and that is copied back where it had to be
// converted for that.
struct Writable {
  Tensor original, working;

  Writable(const OptionalTensor& t, at::ScalarType type) {
    if (t) {
      original = *t;
      working = as(*t, type, at::MemoryFormat::Contiguous);
    }
  }
  template <class A>
  A* data() {
    return working.defined() ? working.mutable_data_ptr<A>() : nullptr;
  }
  void finish() {
    if (original.defined() && !working.is_same(original)) {
      original.copy_(working);
    }
  }
};

// What BN reads, moves and returns besides its map, in the type of the sums.
struct Vectors {
  bool training;
  double eps;
  Tensor mean, rstd;                               // [C]
  OptionalTensor weight, bias;                     // [C]
  OptionalTensor evaluation_mean, evaluation_var;  // [C]
  Writable running_mean, running_var;              // [C], in training

  Vectors(
      const Tensor& z,                     // [N, C, *]
      const OptionalTensor& weight,        // [C]
      const OptionalTensor& bias,          // [C]
      const OptionalTensor& running_mean,  // [C]
      const OptionalTensor& running_var,   // [C]
      bool training,
      double eps,
      at::ScalarType type)
      : training(training),
        eps(eps),
        mean(at::empty({z.size(1)}, z.options().dtype(type))),
        rstd(at::empty({z.size(1)}, z.options().dtype(type))),
        weight(as_vector(weight, type)),
        bias(as_vector(bias, type)),
        evaluation_mean(training ? std::nullopt : running_mean),
        evaluation_var(training ? std::nullopt : as_vector(running_var, type)),
        running_mean(training ? running_mean : std::nullopt, type),
        running_var(training ? running_var : std::nullopt, type) {}

  // The kernels' arguments that these are. In evaluation mean and rstd are known at once, and
  // without a value in z they are those of nothing.
  template <class T>
  Forward<T> arguments(const Tensor& z, double momentum) {
    using A = Accumulator<T>;
    Forward<T> a{};
    a.mean = mean.mutable_data_ptr<A>();
    a.rstd = rstd.mutable_data_ptr<A>();
    a.weight = data_or_null<A>(weight);
    a.bias = data_or_null<A>(bias);
    a.running_mean = running_mean.data<A>();
    a.running_var = running_var.data<A>();
    a.momentum = momentum;
    a.eps = eps;
    if (!training) {
      mean.copy_(*evaluation_mean);
      const A* var = evaluation_var->const_data_ptr<A>();
      for (int64_t c = 0; c < mean.numel(); ++c) {
        a.rstd[c] = static_cast<A>(1.0 / std::sqrt(var[c] + eps));
      }
    } else if (z.numel() == 0) {
      mean.zero_();
      rstd.fill_(1.0 / std::sqrt(1.0 + eps));
    }
    return a;
  }

  void finish() {
    running_mean.finish();
    running_var.finish();
  }
};

// The statistics of the batch in training, then `apply(first, last)` on planes, channel by channel.
template <class T, class Apply>
void forward(const Forward<T>& a, const Planes& planes, bool training, const Apply& apply) {
  const auto statistics = [&](int64_t first, int64_t last) {
    if (training) {
      simd::dispatch<PlaneStatistics<T>>(a, planes, first, last);
    }
  };
  const auto finish = [&](int64_t first, int64_t last) {
    for (int64_t c = first; training && c < last; ++c) {
      Moments moments;
      for (int64_t b = 0; b < planes.blocks; ++b) {
        moments.merge(a.blocks[c * planes.blocks + b]);
      }
      finish_statistics(a, c, moments);
    }
  };
  in_two_passes(planes, statistics, finish, apply);
}

// The statistics of the batch over rows.
template <class T>
void row_statistics(const Forward<T>& a, const Rows& rows) {
  const int64_t channels = rows.channels;
  parallel_for(rows.blocks, rows.height * channels, [&](int64_t first, int64_t last) {
    simd::dispatch<RowStatistics<T>>(a, rows, first, last);
  });
  parallel_for(channels, rows.blocks, [&](int64_t first, int64_t last) {
    std::vector<Moments> moments(last - first);
    for (int64_t b = 0; b < rows.blocks; ++b) {
      for (int64_t c = first; c < last; ++c) {
        moments[c - first].merge(a.blocks[b * channels + c]);
      }
    }
    for (int64_t c = first; c < last; ++c) {
      finish_statistics(a, c, moments[c - first]);
    }
  });
}

}  // namespace trgl::cpu::batch_norm

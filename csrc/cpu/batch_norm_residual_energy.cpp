// batch_norm_residual_energy on the CPU.
//
//   q = keep·(γ·(z − μ)/√(σ² + eps) + β),  y = act(x + q),  e_i = Σ_d |q_id|^p
//
// Two passes over planes or over rows: statistics; y and the energy. Partial results belong to
// blocks that depend on the shape alone and are merged in their order, so that results do not
// depend on the number of threads.

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "batch_norm_planes.h"
#include "batch_norm_rows.h"

namespace trgl::cpu {
namespace {

using namespace batch_norm;

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

template <class T, Power P>
void forward(const Forward<T>& a, const Planes& planes, bool training) {
  const auto statistics = [&](int64_t first, int64_t last) {
    if (training) {
      simd::dispatch<PlaneStatistics<T>>(&a, &planes, first, last);
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
  in_two_passes(planes, statistics, finish, [&](int64_t first, int64_t last) {
    simd::dispatch<PlaneApply<T, P>>(&a, &planes, first, last);
  });
}

template <class T, Power P>
void forward(const Forward<T>& a, const Rows& rows, bool training) {
  const int64_t channels = rows.channels;
  if (training) {
    parallel_for(rows.blocks, rows.height * channels, [&](int64_t first, int64_t last) {
      simd::dispatch<RowStatistics<T>>(&a, &rows, first, last);
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
  parallel_for(rows.batch * rows.tiles, rows.tile * channels, [&](int64_t first, int64_t last) {
    simd::dispatch<RowApply<T, P>>(&a, &rows, first, last);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_residual_energy(
    const Tensor& z,                     // [N, C, *]
    const Tensor& x,                     // [N, C, *]
    const OptionalTensor& weight,        // [C]
    const OptionalTensor& bias,          // [C]
    const OptionalTensor& running_mean,  // [C]
    const OptionalTensor& running_var,   // [C]
    bool training,
    double momentum,
    double eps,
    std::string_view activation,
    const OptionalTensor& keep,  // [N]
    double p,
    bool with_energy) {
  constexpr const char* op = "batch_norm_residual_energy";
  check_pair(op, z, x, "z", "x");
  check_options(op, z, activation, keep, p);
  check_batch_norm(op, z, weight, bias, running_mean, running_var, training, momentum, eps);
  const auto format = memory_format(z);
  const auto type = c10::promoteTypes(z.scalar_type(), x.scalar_type());
  const auto sums = accumulator_type(type);
  const auto options = z.options().dtype(sums);
  const int64_t n = z.size(0), c = z.size(1);
  const int64_t s = n * c == 0 ? 0 : z.numel() / (n * c);
  const Tensor zs = as(z, type, format), xs = as(x, type, format);
  const OptionalTensor weights = as_vector(weight, sums), biases = as_vector(bias, sums);
  const OptionalTensor keeps = as_vector(keep, sums);
  Tensor y = at::empty_like(zs, zs.options(), format);
  Tensor energy = at::empty({with_energy ? n : 0}, options);
  Tensor mean = at::empty({c}, options), rstd = at::empty({c}, options);
  Writable moving_mean(training ? running_mean : std::nullopt, sums);
  Writable moving_var(training ? running_var : std::nullopt, sums);
  for_type(type, [&](auto t) {
    using T = decltype(t);
    using A = Accumulator<T>;
    Forward<T> a{};
    a.mean = mean.mutable_data_ptr<A>();
    a.rstd = rstd.mutable_data_ptr<A>();
    if (!training) {
      const Tensor var = as(*running_var, sums, at::MemoryFormat::Contiguous);
      mean.copy_(*running_mean);
      for (int64_t i = 0; i < c; ++i) {
        a.rstd[i] = static_cast<A>(1.0 / std::sqrt(var.const_data_ptr<A>()[i] + eps));
      }
    }
    if (z.numel() == 0) {
      energy.zero_();
      if (training) {
        mean.zero_();
        rstd.fill_(1.0 / std::sqrt(1.0 + eps));
      }
      return;
    }
    a.z = zs.const_data_ptr<T>();
    a.x = xs.const_data_ptr<T>();
    a.y = y.mutable_data_ptr<T>();
    a.weight = data_or_null<A>(weights);
    a.bias = data_or_null<A>(biases);
    a.keep = data_or_null<A>(keeps);
    a.running_mean = moving_mean.data<A>();
    a.running_var = moving_var.data<A>();
    a.momentum = momentum;
    a.eps = eps;
    a.p = static_cast<A>(p);
    a.floor = activation_floor<A>(activation);
    const auto run = [&](const auto& layout, int64_t blocks, int64_t parts) {
      std::vector<Moments> moments(training ? blocks * c : 0);
      std::vector<A> partial(with_energy ? n * parts : 0);
      a.blocks = moments.data();
      a.partial = partial.data();
      for_power(with_energy, p, [&](auto power) { forward<T, power()>(a, layout, training); });
      for (int64_t i = 0; with_energy && i < n; ++i) {
        double total = 0.0;
        for (int64_t j = 0; j < parts; ++j) {
          total += partial[i * parts + j];
        }
        energy.mutable_data_ptr<A>()[i] = static_cast<A>(total);
      }
    };
    if (by_rows(z, format)) {
      const Rows rows(n, s, c);
      run(rows, rows.blocks, rows.tiles);
    } else {
      const Planes planes(n, c, s);
      run(planes, planes.blocks, c);
    }
  });
  moving_mean.finish();
  moving_var.finish();
  return {y, energy, mean, rstd};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("batch_norm_residual_energy", &batch_norm_residual_energy);
}

}  // namespace trgl::cpu

// The gradient of batch_norm_residual_energy on the CPU, with ẑ = (z − μ)·rstd and M values per
// channel:
//
//   g = keep·(∂L/∂u + ∂L/∂e_i · p |q|^(p-1) sign(q)),  ∂L/∂γ = Σ g·ẑ,  ∂L/∂β = Σ g
//   ∂L/∂z = γ·rstd·(g − Σg/M − ẑ·Σ(g·ẑ)/M) in training, γ·rstd·g in evaluation
//
// Two passes over planes or over rows: the sums, and the gradient of x; the gradient of z.

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "batch_norm_planes.h"
#include "batch_norm_rows.h"

namespace trgl::cpu {
namespace {

using namespace batch_norm;

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
  a.mean_g[c] = count == 0.0 ? A(0) : static_cast<A>(sums.g / count);
  a.mean_gz[c] = count == 0.0 ? A(0) : static_cast<A>(sums.gz / count);
}

template <class T, Power P, bool MASKED, class Finish>
void backward(const Backward<T>& a, const Planes& planes, bool again, const Finish& finish) {
  const auto reduce = [&](int64_t first, int64_t last) {
    simd::dispatch<PlaneReduce<T, P, MASKED>>(&a, &planes, first, last);
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
    if (!a.grad_z) {
      return;
    }
    if (again) {
      simd::dispatch<PlaneGradient<T, P, MASKED>>(&a, &planes, first, last);
    } else {
      simd::dispatch<PlaneGradient<T, P, false>>(&a, &planes, first, last);
    }
  });
}

template <class T, Power P, bool MASKED, class Finish>
void backward(const Backward<T>& a, const Rows& rows, bool again, const Finish& finish) {
  const int64_t channels = rows.channels;
  parallel_for(rows.blocks, rows.height * channels, [&](int64_t first, int64_t last) {
    simd::dispatch<RowReduce<T, P, MASKED>>(&a, &rows, first, last);
  });
  for (int64_t c = 0; c < channels; ++c) {
    Sums sums;
    for (int64_t b = 0; b < rows.blocks; ++b) {
      sums.g += a.blocks[b * channels + c].g;
      sums.gz += a.blocks[b * channels + c].gz;
    }
    finish(c, sums);
  }
  if (!a.grad_z) {
    return;
  }
  parallel_for(rows.rows, channels, [&](int64_t first, int64_t last) {
    if (again) {
      simd::dispatch<RowGradient<T, P, MASKED>>(&a, &rows, first, last);
    } else {
      simd::dispatch<RowGradient<T, P, false>>(&a, &rows, first, last);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_residual_energy_backward(
    const OptionalTensor& grad_y,       // [N, C, *]
    const OptionalTensor& grad_energy,  // [N]
    const Tensor& z,                    // [N, C, *]
    const OptionalTensor& y,            // [N, C, *], only with a ReLU
    const OptionalTensor& weight,       // [C]
    const OptionalTensor& bias,         // [C]
    const Tensor& mean,                 // [C]
    const Tensor& rstd,                 // [C]
    bool training,
    std::string_view,
    const OptionalTensor& keep,  // [N]
    double p,
    at::ScalarType x_type,
    std::array<bool, 4> output_mask) {
  TORCH_CHECK_VALUE(
      (!grad_y || grad_y->sizes() == z.sizes()) && (!y || y->sizes() == z.sizes()) &&
          (!grad_energy || grad_energy->sizes() == at::IntArrayRef{z.size(0)}) &&
          mean.numel() == z.size(1) && rstd.numel() == z.size(1),
      "batch_norm_residual_energy_backward: grad_y and y must have the shape of z, grad_energy its "
      "batch, mean and rstd its channels; received z of shape ",
      shape_of(z), ". Call batch_norm_residual_energy, and autograd calls this operator.");
  const auto format = memory_format(z);
  const auto type = c10::promoteTypes(z.scalar_type(), x_type);
  const auto sums = accumulator_type(type);
  const auto options = z.options().dtype(sums);
  const int64_t n = z.size(0), c = z.size(1);
  const int64_t s = n * c == 0 ? 0 : z.numel() / (n * c);
  const Tensor zs = as(z, type, format);
  const Tensor grad = grad_y ? as(*grad_y, type, format) : at::zeros_like(zs);
  const OptionalTensor mask = y ? OptionalTensor(as(*y, type, format)) : std::nullopt;
  const OptionalTensor weights = as_vector(weight, sums), biases = as_vector(bias, sums);
  const OptionalTensor keeps = as_vector(keep, sums), energies = as_vector(grad_energy, sums);
  const auto like = [&](bool wants) {
    return wants ? at::empty_like(zs, zs.options(), format) : at::empty({0}, z.options());
  };
  const auto vector = [&](bool wants) {
    return wants ? at::empty({c}, options) : at::empty({0}, z.options());
  };
  Tensor grad_z = like(output_mask[0]), grad_x = like(output_mask[1]);
  const bool wants_weight = output_mask[2] && weight, wants_bias = output_mask[3] && bias;
  Tensor grad_weight = vector(wants_weight), grad_bias = vector(wants_bias);
  for_type(type, [&](auto t) {
    using T = decltype(t);
    using A = Accumulator<T>;
    A* weight_out = wants_weight ? grad_weight.mutable_data_ptr<A>() : nullptr;
    A* bias_out = wants_bias ? grad_bias.mutable_data_ptr<A>() : nullptr;
    if (z.numel() == 0) {
      grad_weight.zero_();
      grad_bias.zero_();
      return;
    }
    Backward<T> a{};
    a.grad_y = grad.const_data_ptr<T>();
    a.grad_energy = data_or_null<A>(energies);
    a.z = zs.const_data_ptr<T>();
    a.y = data_or_null<T>(mask);
    a.weight = data_or_null<A>(weights);
    a.bias = data_or_null<A>(biases);
    a.mean = mean.const_data_ptr<A>();
    a.rstd = rstd.const_data_ptr<A>();
    a.keep = data_or_null<A>(keeps);
    a.grad_z = output_mask[0] ? grad_z.mutable_data_ptr<T>() : nullptr;
    a.grad_x = output_mask[1] ? grad_x.mutable_data_ptr<T>() : nullptr;
    // behind a ReLU the gradient of x is that of the sum: the second pass needs no mask again
    a.grad_u = a.grad_x ? a.grad_x : a.grad_y;
    a.p = static_cast<A>(p);
    std::vector<A> means(2 * c);
    a.mean_g = means.data();
    a.mean_gz = means.data() + c;
    const double count = training ? static_cast<double>(n * s) : 0.0;
    const auto finish = [&](int64_t channel, const Sums& totals) {
      finish_sums(a, channel, totals, count, weight_out, bias_out);
    };
    const auto run = [&](const auto& layout, int64_t blocks) {
      std::vector<Sums> partial(blocks * c);
      a.blocks = partial.data();
      for_power(energies.has_value(), p, [&](auto power) {
        if (mask) {
          backward<T, power(), true>(a, layout, a.grad_x == nullptr, finish);
        } else {
          backward<T, power(), false>(a, layout, false, finish);
        }
      });
    };
    if (by_rows(z, format)) {
      const Rows rows(n, s, c);
      run(rows, rows.blocks);
    } else {
      const Planes planes(n, c, s);
      run(planes, planes.blocks);
    }
  });
  return {
      output_mask[0] ? grad_z.to(z.scalar_type()) : grad_z,
      output_mask[1] ? grad_x.to(x_type) : grad_x,
      wants_weight ? grad_weight.to(weight->scalar_type()) : grad_weight,
      wants_bias ? grad_bias.to(bias->scalar_type()) : grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("batch_norm_residual_energy_backward", &batch_norm_residual_energy_backward);
}

}  // namespace trgl::cpu

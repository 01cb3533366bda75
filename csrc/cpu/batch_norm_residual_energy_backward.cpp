// The gradient of batch_norm_residual_energy on the CPU: at BN's output it is
//
//   g = keep·(∂L/∂u + ∂L/∂e_i · p |q|^(p-1) sign(q))
//
// and the rest is in batch_norm_backward.h.

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "batch_norm_backward.h"

namespace trgl::cpu {
namespace {

using namespace batch_norm;

// Which pass writes the gradient of x. The first, as a rule: the second reads it in place of grad_y
// and the mask. Planes written past the caches would have to come back for that, where grad_y and
// the mask still are in the cache if a thread does a channel's passes one after the other.
template <class T>
bool gradient_of_x_in_second_pass(const Backward<T>& a, const Planes&) {
  return a.streamed && a.grad_z && !a.at_once;
}

template <class T>
bool gradient_of_x_in_second_pass(const Backward<T>&, const Rows&) {
  return false;
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
  constexpr const char* op = "batch_norm_residual_energy_backward";
  check_normalized(op, z, weight, bias, mean, rstd);
  check_map(op, "grad_y", grad_y, "z", z);
  check_map(op, "y", y, "z", z);
  check_sample_vector(op, "grad_energy", grad_energy, z);
  check_sample_vector(op, "keep", keep, z);
  const auto format = memory_format(z);
  const auto type = c10::promoteTypes(z.scalar_type(), x_type);
  const auto sums = accumulator_type(type);
  const auto options = z.options().dtype(sums);
  const int64_t c = z.size(1);
  const Tensor zs = as(z, type, format);
  const Tensor grad = grad_y ? as(*grad_y, type, format) : at::zeros_like(zs);
  const OptionalTensor mask = y ? OptionalTensor(as(*y, type, format)) : std::nullopt;
  const OptionalTensor weights = as_vector(weight, sums), biases = as_vector(bias, sums);
  const OptionalTensor means = as_vector(mean, sums), rstds = as_vector(rstd, sums);
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
    a.mean = data_or_null<A>(means);
    a.rstd = data_or_null<A>(rstds);
    a.keep = data_or_null<A>(keeps);
    a.grad_z = output_mask[0] ? grad_z.mutable_data_ptr<T>() : nullptr;
    a.grad_x = output_mask[1] ? grad_x.mutable_data_ptr<T>() : nullptr;
    a.p = static_cast<A>(p);
    a.at_once = a.grad_z && !training;
    a.streamed = streamed(zs, format);
    ChannelVectors<A> of_channels(c, data_or_null<A>(weights), data_or_null<A>(biases), a.rstd);
    of_channels.give(a);
    const double count = static_cast<double>(z.numel() / c);
    const auto finish = [&](int64_t channel, const Sums& totals) {
      finish_sums(a, channel, totals, count, weight_out, bias_out);
    };
    for_layout(z, format, [&](const auto& layout) {
      std::vector<Sums> partial(layout.blocks * c);
      a.blocks = partial.data();
      Backward<T> of_z = a;
      if (gradient_of_x_in_second_pass(a, layout)) {
        a.grad_x = nullptr;
      } else if (a.grad_x) {  // the gradient behind the mask
        of_z.grad_y = a.grad_x;
        of_z.grad_x = nullptr;
      }
      for_power(energies.has_value(), p, [&](auto power) {
        if (mask && a.grad_x) {
          backward<T, power(), Mask::output, Mask::none>(a, of_z, layout, finish);
        } else if (mask) {
          backward<T, power(), Mask::output, Mask::output>(a, of_z, layout, finish);
        } else {
          backward<T, power(), Mask::none, Mask::none>(a, of_z, layout, finish);
        }
      });
    });
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

// The gradient of batch_norm_relu on the CPU: at BN's output it is that of y where
// γ·(z − μ)·rstd + β, computed again, is not ≤ 0. The rest is in batch_norm_backward.h.

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "batch_norm_backward.h"

namespace trgl::cpu {
namespace {

using namespace batch_norm;

std::tuple<Tensor, Tensor, Tensor> batch_norm_relu_backward(
    const Tensor& grad_y,          // [N, C, *]
    const Tensor& z,               // [N, C, *]
    const OptionalTensor& weight,  // [C]
    const OptionalTensor& bias,    // [C]
    const Tensor& mean,            // [C]
    const Tensor& rstd,            // [C]
    bool training,
    std::array<bool, 3> output_mask) {
  check_normalized("batch_norm_relu_backward", z, weight, bias, mean, rstd);
  check_map("batch_norm_relu_backward", "grad_y", grad_y, "z", z);
  const auto format = memory_format(z);
  const auto type = z.scalar_type(), sums = accumulator_type(type);
  const int64_t c = z.size(1);
  const Tensor zs = z.contiguous(format), grad = as(grad_y, type, format);
  const OptionalTensor weights = as_vector(weight, sums), biases = as_vector(bias, sums);
  const OptionalTensor means = as_vector(mean, sums), rstds = as_vector(rstd, sums);
  const bool wants_weight = output_mask[1] && weight, wants_bias = output_mask[2] && bias;
  const auto vector = [&](bool wants) {
    return wants ? at::empty({c}, z.options().dtype(sums)) : at::empty({0}, z.options());
  };
  Tensor grad_z = output_mask[0] ? at::empty_like(zs, zs.options(), format) : vector(false);
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
    a.z = zs.const_data_ptr<T>();
    a.mean = data_or_null<A>(means);
    a.rstd = data_or_null<A>(rstds);
    a.grad_z = output_mask[0] ? grad_z.mutable_data_ptr<T>() : nullptr;
    a.at_once = a.grad_z && !training;
    a.streamed = streamed(zs, format);
    ChannelVectors<A> of_channels(c, data_or_null<A>(weights), data_or_null<A>(biases), a.rstd);
    of_channels.give(a);
    const double count = static_cast<double>(z.numel() / c);
    for_layout(z, format, [&](const auto& layout) {
      std::vector<Sums> partial(layout.blocks * c);
      a.blocks = partial.data();
      backward<T, Power::none, Mask::again, Mask::again>(
          a, a, layout, [&](int64_t channel, const Sums& totals) {
            finish_sums(a, channel, totals, count, weight_out, bias_out);
          });
    });
  });
  return {
      grad_z, wants_weight ? grad_weight.to(weight->scalar_type()) : grad_weight,
      wants_bias ? grad_bias.to(bias->scalar_type()) : grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("batch_norm_relu_backward", &batch_norm_relu_backward);
}

}  // namespace trgl::cpu

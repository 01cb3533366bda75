#include "shim.h"

#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty_like.h>

#include <array>
#include <tuple>
#include <vector>

namespace trgl::autograd {
namespace {

using Apply = Tensor(
    const Tensor&, const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&);
using BatchNormBackward = std::tuple<Tensor, Tensor, Tensor>(
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const Tensor&,
    const Tensor&,
    bool,
    std::array<bool, 3>);

// conv(active), which saves z instead of `active` and has the gradients of both layers.
struct Convolution : torch::autograd::Function<Convolution> {
  static Tensor forward(
      AutogradContext* ctx,
      const Tensor& z,                  // [N, C, H, W]
      const OptionalTensor& bn_weight,  // [C]
      const OptionalTensor& bn_bias,    // [C]
      const Tensor& mean,               // [C]
      const Tensor& rstd,               // [C]
      const Tensor& active,             // [N, C, H, W]
      const Tensor& weight,             // [C', C / groups, kH, kW]
      const OptionalTensor& bias,       // [C']
      bool training,
      at::IntArrayRef stride,
      at::IntArrayRef padding,
      at::IntArrayRef dilation,
      int64_t groups) {
    ctx->save_for_backward({z, undefined_or(bn_weight), undefined_or(bn_bias), mean, rstd, weight});
    ctx->saved_data["training"] = training;
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->saved_data["stride"] = stride.vec();
    ctx->saved_data["padding"] = padding.vec();
    ctx->saved_data["dilation"] = dilation.vec();
    ctx->saved_data["groups"] = groups;
    at::AutoDispatchBelowADInplaceOrView below;
    return at::conv2d(active, weight, bias, stride, padding, dilation, groups);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("batch_norm_relu_convolution", "the layers one after the other");
    static const auto apply = c10::Dispatcher::singleton()
                                  .findSchemaOrThrow("trgl::batch_norm_relu_apply", "")
                                  .typed<Apply>();
    static const auto normalization_backward =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow("trgl::batch_norm_relu_backward", "")
            .typed<BatchNormBackward>();
    const auto saved = ctx->get_saved_variables();
    const auto& [z, weight] = std::tie(saved[0], saved[5]);
    const OptionalTensor bn_weight = optional(saved[1]), bn_bias = optional(saved[2]);
    auto& data = ctx->saved_data;

    Inputs inputs;  // numbered in the order of forward
    const int64_t of_z = inputs.add(z);
    const int64_t of_bn_weight = inputs.add(bn_weight), of_bn_bias = inputs.add(bn_bias);
    inputs.add(saved[3]);
    inputs.add(saved[4]);
    inputs.add(z);  // active
    const int64_t of_weight = inputs.add(weight);
    const std::array<bool, 3> mask{
        Inputs::wanted(ctx, of_z), Inputs::wanted(ctx, of_bn_weight),
        Inputs::wanted(ctx, of_bn_bias)};
    const bool any = mask[0] || mask[1] || mask[2], has_bias = data["has_bias"].toBool();
    const std::array<bool, 3> of_convolution{
        any, Inputs::wanted(ctx, of_weight), has_bias && ctx->needs_input_grad(of_weight + 1)};

    at::AutoDispatchBelowADInplaceOrView below;
    // its values are read for the weight's gradient alone
    Tensor active =
        of_convolution[1]
            ? apply.call(z, bn_weight, bn_bias, saved[3], saved[4]).to(weight.scalar_type())
            : at::empty_like(z, z.options().dtype(weight.scalar_type()));
    const std::array<c10::SymInt, 1> bias_sizes{weight.sym_size(0)};
    auto [grad_active, grad_weight, grad_bias] = at::convolution_backward_symint(
        grads[0], active, weight,
        has_bias ? at::OptionalSymIntArrayRef(bias_sizes) : at::OptionalSymIntArrayRef(),
        c10::fromIntArrayRefSlow(data["stride"].toIntVector()),
        c10::fromIntArrayRefSlow(data["padding"].toIntVector()),
        c10::fromIntArrayRefSlow(data["dilation"].toIntVector()), false,
        std::array<c10::SymInt, 2>{0, 0}, data["groups"].toInt(), of_convolution);
    active.reset();
    variable_list wanted(13);
    if (any) {
      auto [grad_z, grad_bn_weight, grad_bn_bias] = normalization_backward.call(
          grad_active.to(z.scalar_type()), z, bn_weight, bn_bias, saved[3], saved[4],
          data["training"].toBool(), mask);
      wanted[0] = mask[0] ? grad_z : Tensor();
      wanted[1] = mask[1] ? grad_bn_weight : Tensor();
      wanted[2] = mask[2] ? grad_bn_bias : Tensor();
    }
    wanted[6] = of_convolution[1] ? grad_weight : Tensor();
    wanted[7] = of_convolution[2] ? grad_bias : Tensor();
    return wanted;
  }
};

Tensor convolution(
    const Tensor& z,                  // [N, C, H, W]
    const OptionalTensor& bn_weight,  // [C]
    const OptionalTensor& bn_bias,    // [C]
    const Tensor& mean,               // [C]
    const Tensor& rstd,               // [C]
    const Tensor& active,             // [N, C, H, W]
    const Tensor& weight,             // [C', C / groups, kH, kW]
    const OptionalTensor& bias,       // [C']
    bool training,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    int64_t groups) {
  refuse_forward_mode("batch_norm_relu", {z, bn_weight, bn_bias, weight, bias});
  return Convolution::apply(
      z, bn_weight, bn_bias, mean, rstd, active, weight, bias, training, stride, padding, dilation,
      groups);
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, Autograd, m) {
  m.impl("_batch_norm_relu_convolution", &convolution);
}

}  // namespace trgl::autograd

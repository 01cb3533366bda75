#include "shim.h"

#include <array>
#include <tuple>

namespace trgl::autograd {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor>;
using Forward = Outputs(
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    bool,
    double,
    double);
using Backward = Outputs(
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const Tensor&,
    const Tensor&,
    bool,
    std::array<bool, 3>);

Outputs call(
    const Tensor& z,                     // [N, C, *]
    const OptionalTensor& weight,        // [C]
    const OptionalTensor& bias,          // [C]
    const OptionalTensor& running_mean,  // [C]
    const OptionalTensor& running_var,   // [C]
    bool training,
    double momentum,
    double eps) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("trgl::batch_norm_relu", "").typed<Forward>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(z, weight, bias, running_mean, running_var, training, momentum, eps);
}

struct BatchNormRelu : torch::autograd::Function<BatchNormRelu> {
  static Tensor forward(  // [N, C, *]
      AutogradContext* ctx,
      const Tensor& z,                     // [N, C, *]
      const OptionalTensor& weight,        // [C]
      const OptionalTensor& bias,          // [C]
      const OptionalTensor& running_mean,  // [C]
      const OptionalTensor& running_var,   // [C]
      bool training,
      double momentum,
      double eps,
      Statistics* statistics) {
    auto [y, mean, rstd] =
        call(z, weight, bias, running_mean, running_var, training, momentum, eps);
    ctx->save_for_backward({z, undefined_or(weight), undefined_or(bias), mean, rstd});
    ctx->saved_data["training"] = training;
    ctx->set_materialize_grads(false);
    *statistics = {mean, rstd};
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("batch_norm_relu");
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("trgl::batch_norm_relu_backward", "")
                               .typed<Backward>();
    variable_list wanted(9);
    if (!grads[0].defined()) {
      return wanted;
    }
    const auto saved = ctx->get_saved_variables();
    Inputs inputs;
    const int64_t z = inputs.add(saved[0]);
    const int64_t weight = inputs.add(saved[1]), bias = inputs.add(saved[2]);
    const std::array<bool, 3> mask{
        Inputs::wanted(ctx, z), Inputs::wanted(ctx, weight), Inputs::wanted(ctx, bias)};
    at::AutoDispatchBelowADInplaceOrView below;
    auto [grad_z, grad_weight, grad_bias] = op.call(
        grads[0], saved[0], optional(saved[1]), optional(saved[2]), saved[3], saved[4],
        ctx->saved_data["training"].toBool(), mask);
    wanted[0] = mask[0] ? grad_z : Tensor();
    wanted[1] = mask[1] ? grad_weight : Tensor();
    wanted[2] = mask[2] ? grad_bias : Tensor();
    return wanted;
  }
};

Outputs batch_norm_relu(
    const Tensor& z,                     // [N, C, *]
    const OptionalTensor& weight,        // [C]
    const OptionalTensor& bias,          // [C]
    const OptionalTensor& running_mean,  // [C]
    const OptionalTensor& running_var,   // [C]
    bool training,
    double momentum,
    double eps) {
  if (training) {
    count_change(running_mean);
    count_change(running_var);
  }
  refuse_forward_mode("batch_norm_relu", {z, weight, bias});
  const bool recorded = c10::GradMode::is_enabled() &&
                        (z.requires_grad() || requires_grad(weight) || requires_grad(bias));
  if (!recorded) {
    return call(z, weight, bias, running_mean, running_var, training, momentum, eps);
  }
  Statistics of;
  const Tensor y = BatchNormRelu::apply(
      z, weight, bias, running_mean, running_var, training, momentum, eps, &of);
  return {y, of.mean, of.rstd};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, Autograd, m) {
  m.impl("batch_norm_relu", &batch_norm_relu);
}

}  // namespace trgl::autograd

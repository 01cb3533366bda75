#include "shim.h"

#include <array>
#include <string>
#include <tuple>

namespace trgl::autograd {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Forward = Outputs(
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    bool,
    double,
    double,
    std::string_view,
    const OptionalTensor&,
    double,
    bool);
using Backward = Outputs(
    const OptionalTensor&,
    const OptionalTensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const Tensor&,
    const Tensor&,
    bool,
    std::string_view,
    const OptionalTensor&,
    double,
    at::ScalarType,
    std::array<bool, 4>);

// What forward takes besides x and z and BN's γ and β.
struct Options {
  bool training;
  double momentum, eps;
  std::string_view activation;
  double p;
  bool with_energy;
};

Outputs call(
    const Tensor& z,                     // [N, C, *]
    const Tensor& x,                     // [N, C, *]
    const OptionalTensor& weight,        // [C]
    const OptionalTensor& bias,          // [C]
    const OptionalTensor& running_mean,  // [C]
    const OptionalTensor& running_var,   // [C]
    const OptionalTensor& keep,          // [N]
    const Options& o) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("trgl::batch_norm_residual_energy", "")
                             .typed<Forward>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(
      z, x, weight, bias, running_mean, running_var, o.training, o.momentum, o.eps, o.activation,
      keep, o.p, o.with_energy);
}

struct BatchNormResidualEnergy : torch::autograd::Function<BatchNormResidualEnergy> {
  static variable_list forward(
      AutogradContext* ctx,
      const Tensor& z,                     // [N, C, *]
      const Tensor& x,                     // [N, C, *]
      const OptionalTensor& weight,        // [C]
      const OptionalTensor& bias,          // [C]
      const OptionalTensor& running_mean,  // [C]
      const OptionalTensor& running_var,   // [C]
      const OptionalTensor& keep,          // [N]
      const Options& options,
      Statistics* statistics) {
    auto [y, energy, mean, rstd] =
        call(z, x, weight, bias, running_mean, running_var, keep, options);
    const bool relu = options.activation == "relu";
    ctx->save_for_backward(
        {z, relu ? saved_output(y) : Tensor(), undefined_or(weight), undefined_or(bias), mean, rstd,
         undefined_or(keep)});
    Inputs inputs;
    inputs.add(z);
    inputs.add(x);
    ctx->saved_data["weight"] = inputs.add(weight);
    ctx->saved_data["bias"] = inputs.add(bias);
    ctx->saved_data["training"] = options.training;
    ctx->saved_data["relu"] = relu;
    ctx->saved_data["p"] = options.p;
    ctx->saved_data["x_type"] = static_cast<int64_t>(x.scalar_type());
    ctx->set_materialize_grads(false);
    if (!options.with_energy) {
      ctx->mark_non_differentiable({energy});
    }
    *statistics = {mean, rstd};
    return {y, energy};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("batch_norm_residual_energy");
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("trgl::batch_norm_residual_energy_backward", "")
                               .typed<Backward>();
    const auto saved = ctx->get_saved_variables();
    const auto x_type = static_cast<at::ScalarType>(ctx->saved_data["x_type"].toInt());
    const bool relu = ctx->saved_data["relu"].toBool();
    // the energy does not depend on x
    const bool wants_x = grads[0].defined() && ctx->needs_input_grad(1);
    const bool wants_z = ctx->needs_input_grad(0);
    const bool wants_weight = Inputs::wanted(ctx, ctx->saved_data["weight"].toInt());
    const bool wants_bias = Inputs::wanted(ctx, ctx->saved_data["bias"].toInt());
    const bool passes = passes_through(grads[0], relu, x_type);
    at::AutoDispatchBelowADInplaceOrView below;
    auto [grad_z, grad_x, grad_weight, grad_bias] = op.call(
        optional(grads[0]), optional(grads[1]), saved[0], optional(saved[1]), optional(saved[2]),
        optional(saved[3]), saved[4], saved[5], ctx->saved_data["training"].toBool(),
        relu ? "relu" : "none", optional(saved[6]), ctx->saved_data["p"].toDouble(), x_type,
        {wants_z, wants_x && !passes, wants_weight, wants_bias});
    return {
        wants_z ? grad_z : Tensor(),
        wants_x ? (passes ? grads[0] : grad_x) : Tensor(),
        wants_weight ? grad_weight : Tensor(),
        wants_bias ? grad_bias : Tensor(),
        Tensor(),
        Tensor(),
        Tensor(),
        Tensor(),
        Tensor()};
  }
};

Outputs batch_norm_residual_energy(
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
  if (training) {
    count_change(running_mean);
    count_change(running_var);
  }
  const Options options{training, momentum, eps, activation, p, with_energy};
  refuse_forward_mode("batch_norm_residual_energy", {z, x, weight, bias});
  const bool recorded = c10::GradMode::is_enabled() &&
                        (z.requires_grad() || x.requires_grad() || requires_grad(weight) ||
                         requires_grad(bias) || requires_grad(keep));
  if (!recorded) {
    return call(z, x, weight, bias, running_mean, running_var, keep, options);
  }
  Statistics of;
  auto outputs = BatchNormResidualEnergy::apply(
      z, x, weight, bias, running_mean, running_var, keep, options, &of);
  return {outputs[0], outputs[1], of.mean, of.rstd};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, Autograd, m) {
  m.impl("batch_norm_residual_energy", &batch_norm_residual_energy);
}

}  // namespace trgl::autograd

#include "shim.h"

#include <array>
#include <tuple>

namespace trgl::autograd {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using Forward = Outputs(
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    double,
    const OptionalTensor&,
    const OptionalTensor&,
    double,
    bool,
    bool);
using Backward = Outputs(
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const Tensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    double,
    at::ScalarType,
    at::ScalarType,
    std::array<bool, 5>);

Outputs call(
    const Tensor& x,               // [N, *, C]
    const Tensor& r,               // [N, *, C]
    const OptionalTensor& weight,  // [C]
    const OptionalTensor& bias,    // [C]
    double eps,
    const OptionalTensor& scale,  // [C]
    const OptionalTensor& keep,   // [N]
    double p,
    bool with_energy,
    bool recover) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("trgl::residual_energy_layer_norm", "")
                             .typed<Forward>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, r, weight, bias, eps, scale, keep, p, with_energy, recover);
}

struct ResidualEnergyLayerNorm : torch::autograd::Function<ResidualEnergyLayerNorm> {
  static variable_list forward(
      AutogradContext* ctx,
      const Tensor& x,               // [N, *, C]
      const Tensor& r,               // [N, *, C]
      const OptionalTensor& weight,  // [C]
      const OptionalTensor& bias,    // [C]
      double eps,
      const OptionalTensor& scale,  // [C]
      const OptionalTensor& keep,   // [N]
      double p,
      bool with_energy,
      bool recover) {
    auto [y, normed, energy, mean, rstd] =
        call(x, r, weight, bias, eps, scale, keep, p, with_energy, recover);
    const auto type = r.scalar_type();
    const bool wants_scale = requires_grad(scale);
    const bool reads_q = wants_scale || (with_energy && r.requires_grad());
    const bool recovers = recover && p == 2.0 && !wants_scale && x.scalar_type() == type &&
                          (type == at::kFloat || type == at::kDouble);
    ctx->save_for_backward(
        {saved_output(y), reads_q && !recovers ? r : Tensor(), reads_q && recovers ? x : Tensor(),
         undefined_or(weight), undefined_or(bias), mean, rstd, undefined_or(scale),
         undefined_or(keep)});
    Inputs inputs;
    inputs.add(x);
    inputs.add(r);
    ctx->saved_data["weight"] = inputs.add(weight);
    ctx->saved_data["bias"] = inputs.add(bias);
    ctx->saved_data["scale"] = inputs.add(scale);
    ctx->saved_data["p"] = p;
    ctx->saved_data["x_type"] = static_cast<int64_t>(x.scalar_type());
    ctx->saved_data["r_type"] = static_cast<int64_t>(type);
    ctx->set_materialize_grads(false);
    if (with_energy) {
      ctx->mark_non_differentiable({mean, rstd});
    } else {
      ctx->mark_non_differentiable({mean, rstd, energy});
    }
    return {y, normed, energy, mean, rstd};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("residual_energy_layer_norm");
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("trgl::residual_energy_layer_norm_backward", "")
                               .typed<Backward>();
    const auto saved = ctx->get_saved_variables();
    const auto x_type = static_cast<at::ScalarType>(ctx->saved_data["x_type"].toInt());
    const auto r_type = static_cast<at::ScalarType>(ctx->saved_data["r_type"].toInt());
    const Tensor &grad_y = grads[0], &grad_normed = grads[1], &grad_energy = grads[2];
    const Tensor &scale = saved[7], &keep = saved[8];
    const bool normalizes = grad_normed.defined();
    const auto wanted = [&](const char* name) {
      return Inputs::wanted(ctx, ctx->saved_data[name].toInt());
    };
    // the energy does not depend on x
    const bool wants_x = ctx->needs_input_grad(0) && (normalizes || grad_y.defined());
    const bool wants_r = ctx->needs_input_grad(1), wants_scale = wanted("scale");
    const bool wants_weight = normalizes && wanted("weight");
    const bool wants_bias = normalizes && wanted("bias");
    // without a normalization the gradient of x is that of y, as it is
    const bool passes = !normalizes && passes_through(grad_y, false, x_type);
    // and that of r is that of x where nothing else is between
    const bool same =
        !grad_energy.defined() && !scale.defined() && !keep.defined() && x_type == r_type;
    at::AutoDispatchBelowADInplaceOrView below;
    auto [grad_x, grad_r, grad_weight, grad_bias, grad_scale] = op.call(
        optional(grad_y), optional(grad_normed), optional(grad_energy), saved[0],
        optional(saved[1]), optional(saved[2]), optional(saved[3]), optional(saved[4]), saved[5],
        saved[6], optional(scale), optional(keep), ctx->saved_data["p"].toDouble(), x_type, r_type,
        {(wants_x || (wants_r && same)) && !passes, wants_r && !same, wants_weight, wants_bias,
         wants_scale});
    if (passes) {
      grad_x = grad_y;
    }
    if (same) {
      grad_r = grad_x;
    }
    return {
        wants_x ? grad_x : Tensor(),
        wants_r ? grad_r : Tensor(),
        wants_weight ? grad_weight : Tensor(),
        wants_bias ? grad_bias : Tensor(),
        Tensor(),
        wants_scale ? grad_scale : Tensor(),
        Tensor(),
        Tensor(),
        Tensor(),
        Tensor()};
  }
};

Outputs residual_energy_layer_norm(
    const Tensor& x,               // [N, *, C]
    const Tensor& r,               // [N, *, C]
    const OptionalTensor& weight,  // [C]
    const OptionalTensor& bias,    // [C]
    double eps,
    const OptionalTensor& scale,  // [C]
    const OptionalTensor& keep,   // [N]
    double p,
    bool with_energy,
    bool recover) {
  refuse_forward_mode("residual_energy_layer_norm", {x, r, weight, bias, scale});
  const bool recorded = c10::GradMode::is_enabled() &&
                        (x.requires_grad() || r.requires_grad() || requires_grad(weight) ||
                         requires_grad(bias) || requires_grad(scale) || requires_grad(keep));
  if (!recorded) {
    return call(x, r, weight, bias, eps, scale, keep, p, with_energy, recover);
  }
  auto outputs =
      ResidualEnergyLayerNorm::apply(x, r, weight, bias, eps, scale, keep, p, with_energy, recover);
  return {outputs[0], outputs[1], outputs[2], outputs[3], outputs[4]};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, Autograd, m) {
  m.impl("residual_energy_layer_norm", &residual_energy_layer_norm);
}

}  // namespace trgl::autograd

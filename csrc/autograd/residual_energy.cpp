#include "shim.h"

#include <array>
#include <string>
#include <tuple>

namespace trgl::autograd {
namespace {

using Forward = std::tuple<Tensor, Tensor>(
    const Tensor&,
    const Tensor&,
    std::string_view,
    const OptionalTensor&,
    const OptionalTensor&,
    double,
    bool,
    bool);
using Backward = std::tuple<Tensor, Tensor, Tensor>(
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const Tensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    const OptionalTensor&,
    std::string_view,
    double,
    at::ScalarType,
    std::array<bool, 3>);

std::tuple<Tensor, Tensor> call(
    const Tensor& x,  // [N, C, *]
    const Tensor& r,  // [N, C, *]
    std::string_view activation,
    const OptionalTensor& scale,  // [C]
    const OptionalTensor& keep,   // [N]
    double p,
    bool with_energy,
    bool recover) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("trgl::residual_energy", "").typed<Forward>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, r, activation, scale, keep, p, with_energy, recover);
}

// Whether q = y − x may stand for keep·scale·r in backward, as the schema's file says.
bool recoverable(
    const Tensor& x,  // [N, C, *]
    const Tensor& r,  // [N, C, *]
    std::string_view activation,
    const OptionalTensor& scale,  // [C]
    double p) {
  const auto type = x.scalar_type();
  return activation == "none" && p == 2.0 && type == r.scalar_type() &&
         (type == at::kFloat || type == at::kDouble) && !requires_grad(scale);
}

struct ResidualEnergy : torch::autograd::Function<ResidualEnergy> {
  static variable_list forward(
      AutogradContext* ctx,
      const Tensor& x,  // [N, C, *]
      const Tensor& r,  // [N, C, *]
      const std::string& activation,
      const OptionalTensor& scale,  // [C]
      const OptionalTensor& keep,   // [N]
      double p,
      bool with_energy,
      bool recover) {
    auto [y, energy] = call(x, r, activation, scale, keep, p, with_energy, recover);
    const bool relu = activation == "relu";
    // r is read for the energy and for scale; behind a ReLU the output has its shape and type
    const bool reads_r = with_energy || scale || !relu || r.scalar_type() != y.scalar_type();
    const bool recovers = recover && recoverable(x, r, activation, scale, p);
    ctx->save_for_backward(
        {relu ? saved_output(y) : Tensor(), reads_r && !recovers ? r : saved_output(y),
         with_energy && recovers ? x : Tensor(), undefined_or(scale), undefined_or(keep)});
    Inputs inputs;
    inputs.add(x);
    inputs.add(r);
    ctx->saved_data["scale"] = inputs.add(scale);
    ctx->saved_data["relu"] = relu;
    ctx->saved_data["p"] = p;
    ctx->saved_data["x_type"] = static_cast<int64_t>(x.scalar_type());
    ctx->set_materialize_grads(false);
    if (!with_energy) {
      ctx->mark_non_differentiable({energy});
    }
    return {y, energy};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("residual_energy");
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("trgl::residual_energy_backward", "")
                               .typed<Backward>();
    const auto saved = ctx->get_saved_variables();
    const auto x_type = static_cast<at::ScalarType>(ctx->saved_data["x_type"].toInt());
    const bool relu = ctx->saved_data["relu"].toBool();
    // the energy does not depend on x
    const bool wants_x = grads[0].defined() && ctx->needs_input_grad(0);
    const bool wants_r = ctx->needs_input_grad(1);
    const bool wants_scale = Inputs::wanted(ctx, ctx->saved_data["scale"].toInt());
    const bool passes = passes_through(grads[0], relu, x_type);
    at::AutoDispatchBelowADInplaceOrView below;
    auto [grad_x, grad_r, grad_scale] = op.call(
        optional(grads[0]), optional(grads[1]), optional(saved[0]), saved[1], optional(saved[2]),
        optional(saved[3]), optional(saved[4]), relu ? "relu" : "none",
        ctx->saved_data["p"].toDouble(), x_type, {wants_x && !passes, wants_r, wants_scale});
    return {
        wants_x ? (passes ? grads[0] : grad_x) : Tensor(),
        wants_r ? grad_r : Tensor(),
        Tensor(),
        wants_scale ? grad_scale : Tensor(),
        Tensor(),
        Tensor(),
        Tensor(),
        Tensor()};
  }
};

std::tuple<Tensor, Tensor> residual_energy(
    const Tensor& x,  // [N, C, *]
    const Tensor& r,  // [N, C, *]
    std::string_view activation,
    const OptionalTensor& scale,  // [C]
    const OptionalTensor& keep,   // [N]
    double p,
    bool with_energy,
    bool recover) {
  refuse_forward_mode("residual_energy", {x, r, scale});
  const bool recorded =
      c10::GradMode::is_enabled() &&
      (x.requires_grad() || r.requires_grad() || requires_grad(scale) || requires_grad(keep));
  if (!recorded) {
    return call(x, r, activation, scale, keep, p, with_energy, recover);
  }
  auto outputs =
      ResidualEnergy::apply(x, r, std::string(activation), scale, keep, p, with_energy, recover);
  return {outputs[0], outputs[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, Autograd, m) {
  m.impl("residual_energy", &residual_energy);
}

}  // namespace trgl::autograd

#include "shim.h"

#include <array>
#include <tuple>

namespace trgl::autograd {
namespace {

using Forward = Tensor(const Tensor&, const Tensor&, double);
using Backward = std::tuple<Tensor, Tensor>(
    const Tensor&, const Tensor&, const Tensor&, double, std::array<bool, 2>);

Tensor call(
    const Tensor& x,  // [N, *]
    const Tensor& y,  // [N, *]
    double p) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("trgl::displacement_energy", "")
                             .typed<Forward>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, y, p);
}

struct DisplacementEnergy : torch::autograd::Function<DisplacementEnergy> {
  static Tensor forward(
      AutogradContext* ctx,
      const Tensor& x,  // [N, C, *]
      const Tensor& y,  // [N, C, *]
      double p) {
    ctx->save_for_backward({x, y});
    ctx->saved_data["p"] = p;
    ctx->set_materialize_grads(false);
    return call(x, y, p);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("displacement_energy");
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("trgl::displacement_energy_backward", "")
                               .typed<Backward>();
    if (!grads[0].defined()) {
      return {Tensor(), Tensor(), Tensor()};
    }
    const auto saved = ctx->get_saved_variables();
    const bool wants_x = ctx->needs_input_grad(0), wants_y = ctx->needs_input_grad(1);
    at::AutoDispatchBelowADInplaceOrView below;
    auto [grad_x, grad_y] =
        op.call(grads[0], saved[0], saved[1], ctx->saved_data["p"].toDouble(), {wants_x, wants_y});
    return {wants_x ? grad_x : Tensor(), wants_y ? grad_y : Tensor(), Tensor()};
  }
};

Tensor displacement_energy(
    const Tensor& x,  // [N, C, *]
    const Tensor& y,  // [N, C, *]
    double p) {
  refuse_forward_mode("displacement_energy", {x, y});
  const bool recorded = c10::GradMode::is_enabled() && (x.requires_grad() || y.requires_grad());
  return recorded ? DisplacementEnergy::apply(x, y, p) : call(x, y, p);
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, Autograd, m) {
  m.impl("displacement_energy", &displacement_energy);
}

}  // namespace trgl::autograd

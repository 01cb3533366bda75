#include "shim.h"

#include <ATen/ops/mul.h>

#include <vector>

namespace trgl::autograd {
namespace {

using Forward = Tensor(at::TensorList, at::ArrayRef<double>);
using Backward = std::vector<Tensor>(const Tensor&, c10::SymIntArrayRef, at::ArrayRef<double>);

// Linear: it saves nothing, and its backward can be differentiated.
struct TotalEnergy : torch::autograd::Function<TotalEnergy> {
  static Tensor forward(
      AutogradContext* ctx,
      at::TensorList energies,  // each [N]
      at::ArrayRef<double> weights) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("trgl::_total_energy", "").typed<Forward>();
    std::vector<c10::SymInt> sizes;
    for (const Tensor& energy : energies) {
      sizes.push_back(energy.sym_size(0));
    }
    ctx->saved_data["sizes"] = sizes;
    ctx->saved_data["weights"] = weights.vec();
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(energies, weights);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto sizes = ctx->saved_data["sizes"].toSymIntVector();
    const auto weights = ctx->saved_data["weights"].toDoubleVector();
    variable_list wanted;
    // on the CPU one operator is faster than two and a copy for every block; it cannot be batched
    const at::DispatchKeySet keys = grads[0].key_set();
    const bool batched =
        keys.has(c10::DispatchKey::Batched) || keys.has(c10::DispatchKey::FuncTorchBatched);
    if (c10::GradMode::is_enabled() || !grads[0].is_cpu() || batched) {
      Tensor each;  // most blocks have the share of the one before
      for (size_t m = 0; m < weights.size(); ++m) {
        if (m == 0 || weights[m] != weights[m - 1] || sizes[m] != sizes[m - 1]) {
          const c10::SymFloat share = c10::SymFloat(weights[m]) / c10::SymFloat(sizes[m]);
          each = grads[0].mul(at::Scalar(share));
        }
        wanted.push_back(each.expand_symint({sizes[m]}));
      }
    } else {
      static const auto op = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("trgl::_total_energy_backward", "")
                                 .typed<Backward>();
      at::AutoDispatchBelowADInplaceOrView below;
      wanted = op.call(grads[0], sizes, weights);
    }
    wanted.emplace_back();
    return wanted;
  }
};

Tensor total_energy(
    at::TensorList energies,  // each [N]
    at::ArrayRef<double> weights) {
  for (const Tensor& energy : energies) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        !energy._fw_grad(0).defined(),
        "total: it has no forward-mode derivative; received a dual tensor. Add the collector's "
        "energies up, each divided by its features.");
  }
  return TotalEnergy::apply(energies, weights);
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, Autograd, m) {
  m.impl("_total_energy", &total_energy);
}

}  // namespace trgl::autograd

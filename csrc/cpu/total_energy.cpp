// The weighted sum of mean energies on the CPU, C = Σ_m w_m · mean_i e_{m,i} in double precision,
// and the gradients of the energies, ∂L/∂e_{m,i} = ∂L/∂C · w_m / N_m.

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "engine.h"

namespace trgl::cpu {
namespace {

template <class A>
double mean_of(const Tensor& energy) {
  const Tensor contiguous = energy.contiguous();
  const A* values = contiguous.const_data_ptr<A>();
  double total = 0.0;
  for (int64_t i = 0; i < contiguous.numel(); ++i) {
    total += values[i];
  }
  return total / static_cast<double>(contiguous.numel());
}

Tensor total_energy(
    at::TensorList energies,  // each [N]
    at::ArrayRef<double> weights) {
  TORCH_CHECK_VALUE(
      !energies.empty() && energies.size() == weights.size(),
      "_total_energy: there must be a weight for every energy, and one energy at least; received ",
      energies.size(), " energies and ", weights.size(),
      " weights. Call total() of the collector.");
  double total = 0.0;
  auto type = energies[0].scalar_type();
  for (size_t m = 0; m < energies.size(); ++m) {
    check_type("_total_energy", "an energy", energies[m]);
    type = c10::promoteTypes(type, energies[m].scalar_type());
    for_type(energies[m].scalar_type(), [&](auto t) {
      total += weights[m] * mean_of<decltype(t)>(energies[m]);
    });
  }
  Tensor cost = at::empty({}, energies[0].options().dtype(type));
  for_type(type, [&](auto t) {
    using T = decltype(t);
    *cost.mutable_data_ptr<T>() = static_cast<T>(total);
  });
  return cost;
}

std::vector<Tensor> total_energy_backward(
    const Tensor& grad,  // []
    at::IntArrayRef sizes,
    at::ArrayRef<double> weights) {
  check_type("_total_energy_backward", "grad", grad);
  std::vector<Tensor> grads;  // each [N]
  for_type(grad.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const double value = *grad.const_data_ptr<T>();
    for (size_t m = 0; m < weights.size(); ++m) {
      const double share = value * (weights[m] / static_cast<double>(sizes[m]));
      grads.push_back(at::empty({sizes[m]}, grad.options()));
      std::fill_n(grads[m].template mutable_data_ptr<T>(), sizes[m], static_cast<T>(share));
    }
  });
  return grads;
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("_total_energy", &total_energy);
  m.impl("_total_energy_backward", &total_energy_backward);
}

}  // namespace trgl::cpu

// batch_norm_residual_energy on the CPU.
//
//   q = keep·(γ·(z − μ)/√(σ² + eps) + β),  y = act(x + q),  e_i = Σ_d |q_id|^p
//
// Two passes over planes or over rows: statistics; y and the energy.

#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "batch_norm_forward.h"
#include "partial_sums.h"

namespace trgl::cpu {
namespace {

using namespace batch_norm;

template <class T, Power P>
void run(const Forward<T>& a, const Planes& planes, bool training) {
  forward(a, planes, training, [&](int64_t first, int64_t last) {
    simd::dispatch<PlaneApply<T, P>>(a, planes, first, last);
  });
}

template <class T, Power P>
void run(const Forward<T>& a, const Rows& rows, bool training) {
  if (training) {
    row_statistics(a, rows);
  }
  parallel_for(
      rows.batch * rows.tiles, rows.tile * rows.channels,
      [&](int64_t first, int64_t last) { simd::dispatch<RowApply<T, P>>(a, rows, first, last); });
}

// How many partial energies a sample has, and their sum: one of each channel, or of each tile.
int64_t parts(const Planes& planes) {
  return planes.channels;
}

int64_t parts(const Rows& rows) {
  return rows.tiles;
}

template <class A>
void add_energies(const Planes& planes, const A* partial, A* energy) {  // [C, N] → [N]
  add_rows(partial, planes.channels, planes.batch, energy);
}

template <class A>
void add_energies(const Rows& rows, const A* partial, A* energy) {  // [N, tiles] → [N]
  add_parts(partial, rows.batch, rows.tiles, energy);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_residual_energy(
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
  constexpr const char* op = "batch_norm_residual_energy";
  check_pair(op, z, x, "z", "x");
  check_options(op, z, activation, keep, p);
  check_batch_norm(op, z, weight, bias, running_mean, running_var, training, momentum, eps);
  const auto format = memory_format(z);
  const auto type = c10::promoteTypes(z.scalar_type(), x.scalar_type());
  const auto sums = accumulator_type(type);
  const int64_t n = z.size(0);
  const Tensor zs = as(z, type, format), xs = as(x, type, format);
  const OptionalTensor keeps = as_vector(keep, sums);
  Tensor y = at::empty_like(zs, zs.options(), format);
  Tensor energy = at::empty({with_energy ? n : 0}, z.options().dtype(sums));
  Vectors vectors(z, weight, bias, running_mean, running_var, training, eps, sums);
  for_type(type, [&](auto t) {
    using T = decltype(t);
    using A = Accumulator<T>;
    Forward<T> a = vectors.arguments<T>(z, momentum);
    if (z.numel() == 0) {
      energy.zero_();
      return;
    }
    a.z = zs.const_data_ptr<T>();
    a.x = xs.const_data_ptr<T>();
    a.y = y.mutable_data_ptr<T>();
    a.keep = data_or_null<A>(keeps);
    a.p = static_cast<A>(p);
    a.floor = activation_floor<A>(activation);
    a.streamed = streamed(y, format);
    for_layout(z, format, [&](const auto& layout) {
      std::vector<Moments> moments(training ? layout.blocks * layout.channels : 0);
      std::vector<A> partial(with_energy ? n * parts(layout) : 0);
      a.blocks = moments.data();
      a.partial = partial.data();
      for_power(with_energy, p, [&](auto power) { run<T, power()>(a, layout, training); });
      if (with_energy) {
        add_energies(layout, partial.data(), energy.mutable_data_ptr<A>());
      }
    });
  });
  vectors.finish();
  return {y, energy, vectors.mean, vectors.rstd};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("batch_norm_residual_energy", &batch_norm_residual_energy);
}

}  // namespace trgl::cpu

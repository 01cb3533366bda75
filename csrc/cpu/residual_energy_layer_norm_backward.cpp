// The gradient of residual_energy_layer_norm on the CPU, with q = keep·scale·r or y − x,
// ŷ = (y − mean)·rstd and g = weight·∂L/∂normed:
//
//   u = ∂L/∂y + rstd·(g − mean(g) − ŷ·mean(g·ŷ)),  ∂L/∂x = u
//   h = keep·(u + ∂L/∂e_i · p |q|^(p-1) sign(q)),  ∂L/∂r = scale·h,  ∂L/∂scale = Σ r·h
//   ∂L/∂weight = Σ ∂L/∂normed·ŷ,  ∂L/∂bias = Σ ∂L/∂normed, the sums over all rows

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "partial_sums.h"
#include "residual_energy_layer_norm_backward.h"

namespace trgl::cpu {
namespace {

using namespace layer_norm;

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Outputs residual_energy_layer_norm_backward(
    const OptionalTensor& grad_y,       // [N, *, C]
    const OptionalTensor& grad_normed,  // [N, *, C]
    const OptionalTensor& grad_energy,  // [N]
    const Tensor& y,                    // [N, *, C]
    const OptionalTensor& r,            // [N, *, C], for the energy and for scale
    const OptionalTensor& x,            // [N, *, C], in place of r
    const OptionalTensor& weight,       // [C]
    const OptionalTensor& bias,         // [C]
    const Tensor& mean,                 // [N, *]
    const Tensor& rstd,                 // [N, *]
    const OptionalTensor& scale,        // [C]
    const OptionalTensor& keep,         // [N]
    double p,
    at::ScalarType x_type,
    at::ScalarType r_type,
    std::array<bool, 5> output_mask) {
  const bool wants_weight = output_mask[2] && weight, wants_bias = output_mask[3] && bias;
  const bool wants_scale = output_mask[4] && scale;
  const bool with_energy = grad_energy && (output_mask[1] || wants_scale);
  constexpr const char* op = "residual_energy_layer_norm_backward";
  check_type(op, "y", y);
  check_rank(op, "y", y);
  check_map(op, "grad_y", grad_y, "y", y);
  check_map(op, "grad_normed", grad_normed, "y", y);
  check_map(op, "r", r, "y", y);
  check_map(op, "x", x, "y", y);
  check_sample_vector(op, "grad_energy", grad_energy, y);
  check_sample_vector(op, "keep", keep, y);
  check_feature_vector(op, "weight", weight, y, 1);
  check_feature_vector(op, "bias", bias, y, 1);
  check_feature_vector(op, "scale", scale, y, y.dim());
  check_row_vector(op, "mean", mean, y);
  check_row_vector(op, "rstd", rstd, y);
  TORCH_CHECK_VALUE(
      (r || !wants_scale) && (r || x || !with_energy), op,
      ": the gradient of the energy needs r or x, and that of scale r; received ",
      x ? "x" : "neither", ". Call residual_energy_layer_norm, and autograd calls this operator.");
  constexpr auto format = at::MemoryFormat::Contiguous;
  const auto type = y.scalar_type();
  const auto sums = accumulator_type(type);
  const auto residue = residue_type(type, r_type);
  const auto map = [&](const OptionalTensor& t, at::ScalarType of) {
    return t ? OptionalTensor(as(*t, of, format)) : std::nullopt;
  };
  const Tensor ys = as(y, type, format);
  const OptionalTensor grad_ys = map(grad_y, type), grad_normeds = map(grad_normed, type);
  const OptionalTensor rs = map(r, residue), xs = map(x, type);
  const Tensor means = as(mean, sums, format), rstds = as(rstd, sums, format);
  const OptionalTensor weights = as_vector(weight, sums), scales = as_vector(scale, sums);
  const OptionalTensor keeps = as_vector(keep, sums), slopes = as_vector(grad_energy, sums);
  const Rows rows(y);
  const int64_t count = rows.batch * rows.size;
  // of nearly one height, so that threads get even shares
  const int64_t fewest = std::max<int64_t>(1, divide_up(count, rows.height(4 * kTile)));
  const int64_t block = std::max<int64_t>(1, divide_up(count, fewest));
  const int64_t blocks = divide_up(count, block);
  const auto options = y.options().dtype(sums);
  const auto wanted = [&](bool wants, at::ScalarType of) {
    return at::empty(wants ? y.sizes() : at::IntArrayRef{0}, y.options().dtype(of));
  };
  Tensor grad_x = wanted(output_mask[0], type), grad_r = wanted(output_mask[1], residue);
  const std::array<bool, 3> wants{wants_weight, wants_bias, wants_scale};
  const std::array<const OptionalTensor*, 3> vectors{&weight, &bias, &scale};
  std::array<Tensor, 3> gradients, partial;
  for (int i = 0; i < 3; ++i) {
    gradients[i] = at::empty(wants[i] ? (*vectors[i])->sizes() : at::IntArrayRef{0}, options);
    partial[i] = wants[i] && blocks != 1 ? at::empty({blocks, rows.width}, options) : gradients[i];
  }
  for_types(type, residue, [&](auto t, auto u) {
    using T = decltype(t);
    using R = decltype(u);
    using A = Accumulator<T>;
    const auto sums_of = [&](int i) {
      return wants[i] ? partial[i].template mutable_data_ptr<A>() : nullptr;
    };
    const Backward<T, R> args{
        data_or_null<T>(grad_ys),
        data_or_null<T>(grad_normeds),
        data_or_null<A>(slopes),
        ys.const_data_ptr<T>(),
        data_or_null<R>(rs),
        data_or_null<T>(xs),
        data_or_null<A>(weights),
        means.const_data_ptr<A>(),
        rstds.const_data_ptr<A>(),
        data_or_null<A>(scales),
        data_or_null<A>(keeps),
        output_mask[0] ? grad_x.mutable_data_ptr<T>() : nullptr,
        output_mask[1] ? grad_r.mutable_data_ptr<R>() : nullptr,
        sums_of(0),
        sums_of(1),
        sums_of(2),
        static_cast<A>(p),
        &rows,
        block,
        streamed(ys, rows.width)};
    for_power(with_energy, p, [&](auto power) {
      parallel_for(blocks, block * rows.width, [&](int64_t first, int64_t last) {
        simd::dispatch<BackwardKernel<T, R, power()>>(args, first, last);
      });
    });
    for (int i = 0; i < 3; ++i) {
      if (wants[i] && blocks != 1) {
        add_rows(sums_of(i), blocks, rows.width, gradients[i].template mutable_data_ptr<A>());
      }
    }
  });
  const auto finished = [&](int i) {
    return wants[i] ? gradients[i].to((*vectors[i])->scalar_type()) : gradients[i];
  };
  return {
      output_mask[0] ? grad_x.to(x_type) : grad_x, output_mask[1] ? grad_r.to(r_type) : grad_r,
      finished(0), finished(1), finished(2)};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("residual_energy_layer_norm_backward", &residual_energy_layer_norm_backward);
}

}  // namespace trgl::cpu

// The arguments that several operators share, made of the checks, in the words of
// trgl_kernels/arguments.py.
#pragma once

#include "checks.h"

namespace trgl {

// The statistics that batch normalization may use.
inline void check_batch_norm(
    const char* op,
    const Tensor& z,                     // [N, C, *]
    const OptionalTensor& weight,        // [C]
    const OptionalTensor& bias,          // [C]
    const OptionalTensor& running_mean,  // [C]
    const OptionalTensor& running_var,   // [C]
    bool training,
    double momentum,
    double eps) {
  check_channel_vector(op, "weight", weight, z);
  check_channel_vector(op, "bias", bias, z);
  check_channel_vector(op, "running_mean", running_mean, z);
  check_channel_vector(op, "running_var", running_var, z);
  int64_t values = 1;  // per channel
  for (int64_t d = 0; d < z.dim(); ++d) {
    values *= d == 1 ? 1 : z.size(d);
  }
  TORCH_CHECK_VALUE(
      running_mean.has_value() == running_var.has_value(), op,
      ": running_mean and running_var must be given together; received only one of them. "
      "Pass both, or None for both.");
  TORCH_CHECK_VALUE(
      training || running_mean, op,
      ": evaluation needs running statistics; received running_mean=None with training=False. "
      "Pass them, or use training=True for the statistics of the batch.");
  TORCH_CHECK_VALUE(
      !training || values != 1, op,
      ": training needs more than one value per channel; received z of shape ", shape_of(z),
      ". Use a larger batch, or training=False.");
  TORCH_CHECK_VALUE(
      std::isfinite(momentum), op, ": momentum must be finite; received ", number(momentum),
      ". momentum=None is handled by the block, which knows how many batches it has seen.");
  check_eps(op, eps);
}

// What the backward operators with batch normalization take besides gradients and outputs.
inline void check_normalized(
    const char* op,
    const Tensor& z,               // [N, C, *]
    const OptionalTensor& weight,  // [C]
    const OptionalTensor& bias,    // [C]
    const Tensor& mean,            // [C]
    const Tensor& rstd) {          // [C]
  check_type(op, "z", z);
  check_rank(op, "z", z);
  check_channel_vector(op, "weight", weight, z);
  check_channel_vector(op, "bias", bias, z);
  check_channel_vector(op, "mean", mean, z);
  check_channel_vector(op, "rstd", rstd, z);
}

// Arguments of residual_energy_layer_norm.
inline void check_residual_energy_layer_norm(
    const Tensor& x,               // [N, *, C]
    const Tensor& r,               // [N, *, C]
    const OptionalTensor& weight,  // [C]
    const OptionalTensor& bias,    // [C]
    double eps,
    const OptionalTensor& scale,  // [C]
    const OptionalTensor& keep,   // [N]
    double p) {
  constexpr const char* op = "residual_energy_layer_norm";
  check_pair(op, x, r, "x", "r");
  check_options(op, x, "none", keep, p);
  check_eps(op, eps);
  check_feature_vector(op, "weight", weight, x, 1);
  check_feature_vector(op, "bias", bias, x, 1);
  check_feature_vector(op, "scale", scale, x, x.dim());  // its leading dimensions may be of size 1
}

}  // namespace trgl

// What the operators accept: the invariant, what came, and the remedy, in the words of
// trgl_kernels/checks.py.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>

namespace trgl {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline bool is_floating(const Tensor& t) {
  return at::isFloatingType(t.scalar_type());
}

// The types that the operators compute with.
inline bool is_supported(const Tensor& t) {
  const auto type = t.scalar_type();
  return type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf;
}

// As Python prints it: (2, 3), (2,).
inline std::string shape_of(const Tensor& t) {
  std::string text = "(";
  for (int64_t d = 0; d < t.dim(); ++d) {
    text += (d == 0 ? "" : ", ") + std::to_string(t.size(d));
  }
  return text + (t.dim() == 1 ? ",)" : ")");
}

// As Python prints it: torch.float32.
inline std::string type_of(const Tensor& t) {
  return "torch." + std::string(c10::getDtypeNames(t.scalar_type()).first);
}

// As Python prints it: 1.0, 0.5, inf.
inline std::string number(double value) {
  char text[32];
  std::string printed(text, std::to_chars(text, text + sizeof(text), value).ptr);
  return printed.find_first_of(".en") == std::string::npos ? printed + ".0" : printed;
}

// One of the floating-point types that the operators compute with.
inline void check_type(const char* op, const char* name, const Tensor& t) {
  TORCH_CHECK_VALUE(
      is_supported(t), op, ": ", name, " must be float32, float64, bfloat16 or float16; received ",
      type_of(t), ". Convert it with .float().");
}

// Rank 2 or more.
inline void check_rank(const char* op, const char* name, const Tensor& t) {
  TORCH_CHECK_VALUE(
      t.dim() >= 2, op, ": ", name,
      " must have a batch and a feature dimension, [N, C, *]; received shape ", shape_of(t),
      ". Add the missing dimension with .unsqueeze().");
}

// Two floating-point tensors of one shape, one device and rank 2 or more.
inline void check_pair(
    const char* op,
    const Tensor& first,   // [N, C, *]
    const Tensor& second,  // [N, C, *]
    const char* first_name,
    const char* second_name) {
  check_type(op, first_name, first);
  check_type(op, second_name, second);
  check_rank(op, first_name, first);
  TORCH_CHECK_VALUE(
      first.sizes() == second.sizes(), op, ": ", first_name, " and ", second_name,
      " must have the same shape; received ", shape_of(first), " and ", shape_of(second),
      ". Project or expand one of them before the call.");
  TORCH_CHECK_VALUE(
      first.device() == second.device(), op, ": ", first_name, " and ", second_name,
      " must be on the same device; received ", first.device(), " and ", second.device(),
      ". Move one of them with .to().");
}

// A small vector beside the tensor that it belongs to.
inline void check_device(
    const char* op, const char* name, const Tensor& vector, const Tensor& tensor) {
  TORCH_CHECK_VALUE(
      vector.device() == tensor.device(), op, ": ", name,
      " must be on the device of the inputs; received ", vector.device(), " beside ",
      tensor.device(), ". Move it with .to().");
}

// What a backward operator takes for a map of its forward: the shape and device of another one.
inline void check_map(
    const char* op,
    const char* name,
    const OptionalTensor& map,  // [N, C, *]
    const char* other_name,
    const Tensor& other) {  // [N, C, *]
  if (!map) {
    return;
  }
  check_type(op, name, *map);
  TORCH_CHECK_VALUE(
      map->sizes() == other.sizes(), op, ": ", name, " must have the shape of ", other_name,
      "; received ", shape_of(*map), " beside ", shape_of(other),
      ". Pass what forward returned or took.");
  check_device(op, name, *map, other);
}

// One floating-point value per sample, or nothing.
inline void check_sample_vector(
    const char* op,
    const char* name,
    const OptionalTensor& vector,  // [N]
    const Tensor& x) {             // [N, C, *]
  if (!vector) {
    return;
  }
  TORCH_CHECK_VALUE(
      vector->dim() == 1 && vector->size(0) == x.size(0) && is_floating(*vector), op, ": ", name,
      " must hold one floating-point value per sample, (", x.size(0), ",); received ",
      type_of(*vector), " of shape ", shape_of(*vector), ". Samples are the first dimension.");
  check_device(op, name, *vector, x);
}

// What a normalization adds to the variance.
inline void check_eps(const char* op, double eps) {
  TORCH_CHECK_VALUE(
      std::isfinite(eps) && eps >= 0.0, op, ": eps must be finite and not negative; received ",
      number(eps), ". PyTorch's default is 1e-5.");
}

// The exponent of the energy.
inline void check_exponent(const char* op, double p) {
  TORCH_CHECK_VALUE(
      std::isfinite(p) && p >= 1.0, op, ": the exponent p must be finite and at least 1; received ",
      number(p), ". The transport cost of the paper is p = 2.");
}

// The options that every operator with a residue shares.
inline void check_options(
    const char* op,
    const Tensor& x,  // [N, C, *]
    std::string_view activation,
    const OptionalTensor& keep,  // [N]
    double p) {
  TORCH_CHECK_VALUE(
      activation == "none" || activation == "relu", op,
      ": activation must be one of none, relu; received '", activation,
      "'. Apply another activation to the output, with activation='none'.");
  check_exponent(op, p);
  if (!keep) {
    return;
  }
  TORCH_CHECK_VALUE(
      keep->dim() == 1 && keep->size(0) == x.size(0) && is_floating(*keep), op,
      ": keep must hold one floating-point factor per sample, shape (", x.size(0), ",); received ",
      type_of(*keep), " of shape ", shape_of(*keep),
      ". Draw it with torch.bernoulli(...) / keep_prob, one value per sample.");
  TORCH_CHECK_VALUE(
      !keep->requires_grad(), op,
      ": keep is a random factor and gets no gradient; received a tensor that requires grad. "
      "Pass keep.detach().");
  check_device(op, "keep", *keep, x);
}

// Dimension of x along which `scale` varies: a vector (C,) belongs to dimension 1 of rank 4 and
// more and to the last dimension of rank 2 and 3; other shapes are read as broadcasting reads them.
inline int64_t scale_dim(
    const char* op,
    const Tensor& x,        // [N, C, *]
    const Tensor& scale) {  // [C], or one wide dimension
  bool valid = is_floating(scale) && scale.dim() >= 1 && scale.dim() <= x.dim();
  int64_t dim = 1;
  if (valid && scale.dim() == 1) {
    dim = x.dim() >= 4 ? 1 : x.dim() - 1;
  } else if (valid) {
    int64_t wide = 0;
    for (int64_t i = 0; i < scale.dim(); ++i) {
      if (scale.size(i) != 1) {
        dim = x.dim() - scale.dim() + i;
        ++wide;
      }
    }
    valid = wide <= 1;
  }
  valid = valid && dim >= 1 && scale.numel() == x.size(dim);
  TORCH_CHECK_VALUE(
      valid, op, ": scale must hold one floating-point factor per channel; received ",
      type_of(scale), " of shape ", shape_of(scale), " for x of shape ", shape_of(x),
      ". Give a vector (C,), with channels in dimension 1 of rank 4 and more and in the last "
      "dimension of rank 2 and 3, or a broadcastable shape such as (C, 1, 1).");
  check_device(op, "scale", scale, x);
  return dim;
}

// One floating-point value per channel, or nothing.
inline void check_channel_vector(
    const char* op,
    const char* name,
    const OptionalTensor& vector,  // [C]
    const Tensor& z) {             // [N, C, *]
  if (!vector) {
    return;
  }
  TORCH_CHECK_VALUE(
      vector->dim() == 1 && vector->size(0) == z.size(1) && is_floating(*vector), op, ": ", name,
      " must hold one floating-point value per channel, (", z.size(1), ",); received ",
      type_of(*vector), " of shape ", shape_of(*vector), ". Channels are dimension 1 of z.");
  check_device(op, name, *vector, z);
}

// One floating-point value per feature of a row, of at most the given rank, or nothing.
inline void check_feature_vector(
    const char* op,
    const char* name,
    const OptionalTensor& vector,  // [C], or with leading dimensions of size 1
    const Tensor& x,               // [N, *, C]
    int64_t rank) {
  if (!vector) {
    return;
  }
  const int64_t features = x.size(-1);
  TORCH_CHECK_VALUE(
      vector->dim() >= 1 && vector->dim() <= rank && vector->size(-1) == features &&
          vector->numel() == features && is_floating(*vector),
      op, ": ", name, " must hold one floating-point value per feature, (", features,
      ",); received ", type_of(*vector), " of shape ", shape_of(*vector),
      ". Features are the last dimension of x.");
  check_device(op, name, *vector, x);
}

// One floating-point value per row, [N, *].
inline void check_row_vector(
    const char* op,
    const char* name,
    const Tensor& vector,  // [N, *]
    const Tensor& y) {     // [N, *, C]
  const auto rows = y.sizes().slice(0, y.dim() - 1);
  TORCH_CHECK_VALUE(
      vector.sizes() == rows && is_floating(vector), op, ": ", name,
      " must hold one floating-point value per row of y; received ", type_of(vector), " of shape ",
      shape_of(vector), " beside ", shape_of(y), ". Pass what forward returned.");
  check_device(op, name, vector, y);
}

}  // namespace trgl

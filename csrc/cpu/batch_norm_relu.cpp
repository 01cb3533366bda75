// batch_norm_relu on the CPU, and its output again from the vectors that it returned.
//
//   y = max(γ·(z − μ)/√(σ² + eps) + β, 0)
//
// Two passes over planes or over rows: statistics; y.

#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "batch_norm_forward.h"

namespace trgl::cpu {
namespace {

using namespace batch_norm;

template <class T>
void rectify(const Rectified<T>& a, const Planes& planes) {
  parallel_for(planes.batch * planes.channels, planes.size, [&](int64_t first, int64_t last) {
    simd::dispatch<PlaneRectify<T, true>>(a, planes, first, last);
  });
}

template <class T>
void rectify(const Rectified<T>& a, const Rows& rows) {
  parallel_for(rows.rows, rows.channels, [&](int64_t first, int64_t last) {
    simd::dispatch<RowRectify<T>>(a, rows, first, last);
  });
}

template <class T>
void train(const Forward<T>& a, const Rectified<T>& out, const Planes& planes) {
  forward(a, planes, true, [&](int64_t first, int64_t last) {
    simd::dispatch<PlaneRectify<T, false>>(out, planes, first, last);
  });
}

template <class T>
void train(const Forward<T>& a, const Rectified<T>& out, const Rows& rows) {
  row_statistics(a, rows);
  rectify(out, rows);
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_relu(
    const Tensor& z,                     // [N, C, *]
    const OptionalTensor& weight,        // [C]
    const OptionalTensor& bias,          // [C]
    const OptionalTensor& running_mean,  // [C]
    const OptionalTensor& running_var,   // [C]
    bool training,
    double momentum,
    double eps) {
  constexpr const char* op = "batch_norm_relu";
  check_type(op, "z", z);
  check_rank(op, "z", z);
  check_batch_norm(op, z, weight, bias, running_mean, running_var, training, momentum, eps);
  const auto format = memory_format(z);
  const auto type = z.scalar_type();
  const Tensor zs = z.contiguous(format);
  Tensor y = at::empty_like(zs, zs.options(), format);
  Vectors vectors(
      z, weight, bias, running_mean, running_var, training, eps, accumulator_type(type));
  for_type(type, [&](auto t) {
    using T = decltype(t);
    Forward<T> a = vectors.arguments<T>(z, momentum);
    if (z.numel() == 0) {
      return;
    }
    a.z = zs.const_data_ptr<T>();
    const Rectified<T> out{a.z,    y.mutable_data_ptr<T>(), a.weight, a.bias, a.mean,
                           a.rstd, streamed(y, format)};
    for_layout(z, format, [&](const auto& layout) {
      if (!training) {
        return rectify(out, layout);
      }
      std::vector<Moments> moments(layout.blocks * layout.channels);
      a.blocks = moments.data();
      train(a, out, layout);
    });
  });
  vectors.finish();
  return {y, vectors.mean, vectors.rstd};
}

Tensor batch_norm_relu_apply(
    const Tensor& z,               // [N, C, *]
    const OptionalTensor& weight,  // [C]
    const OptionalTensor& bias,    // [C]
    const Tensor& mean,            // [C]
    const Tensor& rstd) {          // [C]
  check_normalized("batch_norm_relu_apply", z, weight, bias, mean, rstd);
  const auto format = memory_format(z);
  const auto sums = accumulator_type(z.scalar_type());
  const Tensor zs = z.contiguous(format);
  const OptionalTensor weights = as_vector(weight, sums), biases = as_vector(bias, sums);
  const OptionalTensor means = as_vector(mean, sums), rstds = as_vector(rstd, sums);
  Tensor y = at::empty_like(zs, zs.options(), format);
  if (z.numel() > 0) {
    for_type(z.scalar_type(), [&](auto t) {
      using T = decltype(t);
      using A = Accumulator<T>;
      const Rectified<T> a{zs.const_data_ptr<T>(),   y.mutable_data_ptr<T>(),
                           data_or_null<A>(weights), data_or_null<A>(biases),
                           data_or_null<A>(means),   data_or_null<A>(rstds),
                           streamed(y, format)};
      for_layout(z, format, [&](const auto& layout) { rectify(a, layout); });
    });
  }
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("batch_norm_relu", &batch_norm_relu);
  m.impl("batch_norm_relu_apply", &batch_norm_relu_apply);
}

}  // namespace trgl::cpu

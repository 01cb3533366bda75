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
#include "residual_energy_layer_norm.h"

namespace trgl::cpu {
namespace {

using namespace layer_norm;

template <class T, class A = Accumulator<T>>
struct Backward {
  const T* grad_y;       // [N, *, C] or null
  const T* grad_normed;  // [N, *, C] or null
  const A* grad_energy;  // [N] or null
  const T* y;            // [N, *, C]
  const T* r;            // [N, *, C] or null
  const T* x;            // [N, *, C] or null
  const A* weight;       // [C] or null
  const A* mean;         // [N, *]
  const A* rstd;         // [N, *]
  const A* scale;        // [C] or null
  const A* keep;         // [N] or null
  T* grad_x;             // [N, *, C] or null
  T* grad_r;             // [N, *, C] or null
  A* grad_weight;        // [blocks, C] or null
  A* grad_bias;          // [blocks, C] or null
  A* grad_scale;         // [blocks, C] or null
  A p;
  const Rows* rows;
  int64_t block;  // rows that share partial sums
};

// What the gradient needs of a row.
template <class A>
struct Row {
  int64_t at;  // its first element
  A mean, rstd, keep, slope, mean_g, mean_gy;
};

template <int W, class A>
TRGL_INLINE void add_to(A* sums, const simd::Vector<A, W>& value) {
  simd::store<W>(sums, simd::load<W>(sums) + value);
}

template <class T, Power P>
struct BackwardKernel {
  using A = Accumulator<T>;

  template <int W>
  static TRGL_INLINE std::pair<simd::Vector<A, W>, simd::Vector<A, W>> affine(
      const Backward<T>& a, const Row<A>& row, int64_t i) {
    const auto grad = simd::load<W>(a.grad_normed + row.at + i);
    return {grad, (simd::load<W>(a.y + row.at + i) - row.mean) * row.rstd};
  }

  // g and g·ŷ; adds to this block's sums for weight and bias.
  template <int W>
  static TRGL_INLINE std::pair<simd::Vector<A, W>, simd::Vector<A, W>> reduce(
      const Backward<T>& a, const Row<A>& row, int64_t i, A* to_weight, A* to_bias) {
    auto [g, y_hat] = affine<W>(a, row, i);
    if (to_weight) {
      add_to<W, A>(to_weight + i, g * y_hat);
    }
    if (to_bias) {
      add_to<W, A>(to_bias + i, g);
    }
    if (a.weight) {
      g = g * simd::load<W>(a.weight + i);
    }
    return {g, g * y_hat};
  }

  // mean(g) and mean(g·ŷ) of a row.
  template <int W>
  static TRGL_INLINE void reduce_row(const Backward<T>& a, Row<A>& row, A* to_weight, A* to_bias) {
    RowSum<A, W> sum_g, sum_gy;
    for_row<W>(
        a.rows->width,
        [&](int64_t i) TRGL_INLINE_LAMBDA {
          const auto [g, gy] = reduce<W>(a, row, i, to_weight, to_bias);
          sum_g.run += g;
          sum_gy.run += gy;
        },
        [&](int64_t i) TRGL_INLINE_LAMBDA {
          const auto [g, gy] = reduce<1>(a, row, i, to_weight, to_bias);
          sum_g.rest += g[0];
          sum_gy.rest += gy[0];
        },
        [&]() TRGL_INLINE_LAMBDA {
          sum_g.fold();
          sum_gy.fold();
        });
    row.mean_g = sum_g.value() / static_cast<A>(a.rows->width);
    row.mean_gy = sum_gy.value() / static_cast<A>(a.rows->width);
  }

  template <int W>
  static TRGL_INLINE void write(const Backward<T>& a, const Row<A>& row, int64_t i, A* to_scale) {
    const int64_t at = row.at + i;
    auto grad = a.grad_y ? simd::load<W>(a.grad_y + at) : simd::Vector<A, W>{};
    if (a.grad_normed) {
      auto [g, y_hat] = affine<W>(a, row, i);
      if (a.weight) {
        g = g * simd::load<W>(a.weight + i);
      }
      grad += (g - row.mean_g - y_hat * row.mean_gy) * row.rstd;
    }
    if (a.grad_x) {
      simd::store<W>(a.grad_x + at, grad);
    }
    if (!a.grad_r && !to_scale) {
      return;
    }
    auto factor = simd::broadcast<A, W>(row.keep);
    if (a.scale) {
      factor = factor * simd::load<W>(a.scale + i);
    }
    if constexpr (P != Power::none) {
      const simd::Vector<A, W> q = a.x ? simd::load<W>(a.y + at) - simd::load<W>(a.x + at)
                                       : simd::load<W>(a.r + at) * factor;
      grad += row.slope * simd::slope<P, A, W>(q, a.p);
    }
    if (a.grad_r) {
      simd::store<W>(a.grad_r + at, grad * factor);
    }
    if (to_scale) {
      add_to<W, A>(to_scale + i, grad * (simd::load<W>(a.r + at) * row.keep));
    }
  }

  // This block's sums, set to 0.
  static TRGL_INLINE A* zeros(A* sums, int64_t block, int64_t width) {
    if (sums) {
      sums += block * width;
      std::fill(sums, sums + width, A(0));
    }
    return sums;
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Backward<T>* args, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    const Backward<T>& a = *args;
    const int64_t width = a.rows->width, count = a.rows->batch * a.rows->size;
    for (int64_t block = first; block < last; ++block) {
      A* to_weight = zeros(a.grad_weight, block, width);
      A* to_bias = zeros(a.grad_bias, block, width);
      A* to_scale = zeros(a.grad_scale, block, width);
      const int64_t end = std::min(count, (block + 1) * a.block);
      for (int64_t index = block * a.block; index < end; ++index) {
        const int64_t n = index / a.rows->size;
        Row<A> row{
            index * width,
            a.mean[index],
            a.rstd[index],
            a.keep ? a.keep[n] : A(1),
            P == Power::none ? A(0) : a.grad_energy[n],
            A(0),
            A(0)};
        if (a.grad_normed) {
          reduce_row<W>(a, row, to_weight, to_bias);
        }
        int64_t i = 0;
        for (; i + W <= width; i += W) {
          write<W>(a, row, i, to_scale);
        }
        for (; i < width; ++i) {
          write<1>(a, row, i, to_scale);
        }
      }
    }
  }
};

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
  const auto map = [&](const OptionalTensor& t) {
    return t ? OptionalTensor(as(*t, type, format)) : std::nullopt;
  };
  const Tensor ys = as(y, type, format);
  const OptionalTensor grad_ys = map(grad_y), grad_normeds = map(grad_normed);
  const OptionalTensor rs = map(r), xs = map(x);
  const Tensor means = as(mean, sums, format), rstds = as(rstd, sums, format);
  const OptionalTensor weights = as_vector(weight, sums), scales = as_vector(scale, sums);
  const OptionalTensor keeps = as_vector(keep, sums), slopes = as_vector(grad_energy, sums);
  const Rows rows(y);
  const int64_t block = rows.height(4 * kTile);
  const int64_t blocks = divide_up(rows.batch * rows.size, block);
  const auto options = y.options().dtype(sums);
  const auto wanted = [&](bool wants) {
    return wants ? at::empty(y.sizes(), y.options()) : at::empty({0}, y.options());
  };
  Tensor grad_x = wanted(output_mask[0]), grad_r = wanted(output_mask[1]);
  const std::array<bool, 3> wants{wants_weight, wants_bias, wants_scale};
  const std::array<const OptionalTensor*, 3> vectors{&weight, &bias, &scale};
  std::array<Tensor, 3> gradients, partial;
  for (int i = 0; i < 3; ++i) {
    gradients[i] = at::empty(wants[i] ? (*vectors[i])->sizes() : at::IntArrayRef{0}, options);
    partial[i] = wants[i] && blocks != 1 ? at::empty({blocks, rows.width}, options) : gradients[i];
  }
  for_type(type, [&](auto t) {
    using T = decltype(t);
    using A = Accumulator<T>;
    const auto sums_of = [&](int i) {
      return wants[i] ? partial[i].template mutable_data_ptr<A>() : nullptr;
    };
    const Backward<T> args{
        data_or_null<T>(grad_ys),
        data_or_null<T>(grad_normeds),
        data_or_null<A>(slopes),
        ys.const_data_ptr<T>(),
        data_or_null<T>(rs),
        data_or_null<T>(xs),
        data_or_null<A>(weights),
        means.const_data_ptr<A>(),
        rstds.const_data_ptr<A>(),
        data_or_null<A>(scales),
        data_or_null<A>(keeps),
        output_mask[0] ? grad_x.mutable_data_ptr<T>() : nullptr,
        output_mask[1] ? grad_r.mutable_data_ptr<T>() : nullptr,
        sums_of(0),
        sums_of(1),
        sums_of(2),
        static_cast<A>(p),
        &rows,
        block};
    for_power(with_energy, p, [&](auto power) {
      parallel_for(blocks, block * rows.width, [&](int64_t first, int64_t last) {
        simd::dispatch<BackwardKernel<T, power()>>(&args, first, last);
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

// The gradient of residual_energy on the CPU, with q = keep·scale·r:
//
//   g = ∂L/∂y where y is not ≤ 0 (everywhere without a ReLU),  ∂L/∂x = g
//   h = g + ∂L/∂e_i · p |q|^(p-1) sign(q),  ∂L/∂r = keep·scale·h,  ∂L/∂scale_c = Σ keep·r·h
//
// Where the output was kept instead of r, q = y − x.

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "partial_sums.h"
#include "residual_energy.h"

namespace trgl::cpu {
namespace {

template <class T, class R, class A = Accumulator<T>>
struct Backward {
  const T* grad_y;       // [N, D]
  const A* grad_energy;  // [N]
  const T* y;            // [N, D], only with a ReLU
  const R* r;            // [N, D]; the output where x is read
  const T* x;            // [N, D], only where q is recovered
  const A* scale;        // [C]
  const A* keep;         // [N]
  T* grad_x;             // [N, D] or null
  R* grad_r;             // [N, D] or null
  A* grad_scale;         // [N, tiles, C] or null
  A p;
  bool streamed;  // grad_x and grad_r are written past the caches
  const Geometry* geometry;
};

// What lies between the output and q: nothing, a ReLU, or a subtraction in place of keep·scale·r.
enum class Way { plain, masked, recovered };

template <class T, class R, Power P, Way WAY>
struct BackwardKernel {
  using A = Accumulator<T>;

  // Writes the gradients of x and r; returns that of keep·scale·r times keep·r, scale's part.
  template <int W, class Factor>
  static TRGL_INLINE simd::Vector<A, W> element(
      const Backward<T, R>& a, int64_t at, int64_t i, const Factor& factor, A keep, A weight) {
    auto grad = simd::load<W>(a.grad_y + at);
    if constexpr (WAY == Way::masked) {
      grad = simd::mask<A, W>(grad, simd::load<W>(a.y + at));
    }
    if (a.grad_x) {
      simd::store<W>(a.grad_x + at, grad, a.streamed);
    }
    const auto r = simd::load<W>(a.r + at);
    const auto f = factor.template at<W>(i);
    if constexpr (WAY == Way::recovered) {
      grad += weight * simd::slope<P, A, W>(r - simd::load<W>(a.x + at), a.p);
    } else if constexpr (P != Power::none) {
      grad += weight * simd::slope<P, A, W>(r * f, a.p);
    }
    if (a.grad_r) {
      simd::store<W>(a.grad_r + at, grad * f, a.streamed);
    }
    return grad * (r * keep);
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Backward<T, R>& a, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    const Geometry& g = *a.geometry;
    for_tiles(
        g, first, last,
        [&](int64_t unit, int64_t n, int64_t begin, int64_t end) TRGL_INLINE_LAMBDA {
          const int64_t base = n * g.features;
          const A keep = a.keep ? a.keep[n] : A(1);
          const A weight = P == Power::none ? A(0) : a.grad_energy[n];
          A* sums = a.grad_scale ? a.grad_scale + unit * g.channels : nullptr;
          if (sums) {
            std::fill(sums, sums + g.channels, A(0));
          }
          for_segments(
              g, a.scale, keep, begin, end,
              [&](int64_t from, int64_t to, auto factor, int64_t channel) TRGL_INLINE_LAMBDA {
                double row = 0.0;
                const bool lanes = sums && g.kind == Scale::lane;
                int64_t i = from;
                while (i + W <= to) {
                  simd::Vector<A, W> total{};
                  for (const int64_t stop = std::min(to, i + kRun); i + W <= stop; i += W) {
                    const auto part = element<W>(a, base + i, i - from, factor, keep, weight);
                    total += part;
                    if (lanes) {
                      simd::store<W>(sums + i - from, simd::load<W>(sums + i - from) + part);
                    }
                  }
                  row += simd::sum<A, W>(total);
                }
                for (; i < to; ++i) {
                  const A part = element<1>(a, base + i, i - from, factor, keep, weight)[0];
                  row += part;
                  if (lanes) {
                    sums[i - from] += part;
                  }
                }
                if (sums && g.kind == Scale::row) {
                  sums[channel] += static_cast<A>(row);
                }
              });
        });
  }
};

std::tuple<Tensor, Tensor, Tensor> residual_energy_backward(
    const OptionalTensor& grad_y,       // [N, C, *]
    const OptionalTensor& grad_energy,  // [N]
    const OptionalTensor& y,            // [N, C, *], only with a ReLU
    const Tensor& r,                    // [N, C, *]; the output where x is given
    const OptionalTensor& x,            // [N, C, *], only where y − x stands for the residue
    const OptionalTensor& scale,        // [C]
    const OptionalTensor& keep,         // [N]
    std::string_view,
    double p,
    at::ScalarType x_type,
    std::array<bool, 3> output_mask) {
  constexpr const char* op = "residual_energy_backward";
  check_type(op, "r", r);
  check_rank(op, "r", r);
  check_map(op, "grad_y", grad_y, "r", r);
  check_map(op, "y", y, "r", r);
  check_map(op, "x", x, "r", r);
  check_sample_vector(op, "grad_energy", grad_energy, r);
  check_sample_vector(op, "keep", keep, r);
  TORCH_CHECK_VALUE(
      !x || (!y && !output_mask[2]),
      "residual_energy_backward: y − x is the residue only where no ReLU follows, and it gives no "
      "gradient of scale; received ",
      y ? "x beside a ReLU's output" : "x with a gradient of scale wanted",
      ". Call residual_energy, and autograd calls this operator.");
  const auto format = memory_format(r);
  const Geometry g(r, format, scale);
  const auto type = c10::promoteTypes(x_type, r.scalar_type());
  const auto sums = accumulator_type(type);
  const auto residue = x ? type : residue_type(type, r.scalar_type());  // r is the output with x
  const Tensor rs = as(r, residue, format);
  const Tensor grad =
      grad_y ? as(*grad_y, type, format) : at::zeros_like(rs, rs.options().dtype(type), format);
  const OptionalTensor mask = y ? OptionalTensor(as(*y, type, format)) : std::nullopt;
  const bool recovers = x && grad_energy;  // without an energy no gradient depends on q
  const OptionalTensor xs = recovers ? OptionalTensor(as(*x, type, format)) : std::nullopt;
  const OptionalTensor scales = as_vector(scale, sums), keeps = as_vector(keep, sums);
  const OptionalTensor weights = as_vector(grad_energy, sums);
  const auto wanted = [&](bool wants, at::ScalarType of) {
    return wants ? at::empty_like(rs, rs.options().dtype(of), format)
                 : at::empty({0}, r.options().dtype(of));
  };
  Tensor grad_x = wanted(output_mask[0], type), grad_r = wanted(output_mask[1], residue);
  const bool wants_scale = output_mask[2] && scale;
  Tensor grad_scale = at::empty({0}, r.options());
  Tensor partial;
  if (wants_scale) {
    grad_scale = at::empty(scale->sizes(), r.options().dtype(sums));
    partial = at::empty({g.batch * g.tiles, g.channels}, grad_scale.options());
  }
  for_types(type, residue, [&](auto t, auto u) {
    using T = decltype(t);
    using R = decltype(u);
    using A = Accumulator<T>;
    const Backward<T, R> args{
        grad.const_data_ptr<T>(),
        data_or_null<A>(weights),
        data_or_null<T>(mask),
        rs.const_data_ptr<R>(),
        data_or_null<T>(xs),
        data_or_null<A>(scales),
        data_or_null<A>(keeps),
        output_mask[0] ? grad_x.mutable_data_ptr<T>() : nullptr,
        output_mask[1] ? grad_r.mutable_data_ptr<R>() : nullptr,
        wants_scale ? partial.mutable_data_ptr<A>() : nullptr,
        static_cast<A>(p),
        streamed(grad, g),
        &g};
    for_power(weights.has_value(), p, [&](auto power) {
      parallel_for(g.batch * g.tiles, g.tile, [&](int64_t first, int64_t last) {
        if (mask) {
          simd::dispatch<BackwardKernel<T, R, power(), Way::masked>>(args, first, last);
        } else if constexpr (power() == Power::none) {
          simd::dispatch<BackwardKernel<T, R, power(), Way::plain>>(args, first, last);
        } else {
          if constexpr (std::is_same_v<T, R>) {
            if (recovers) {
              simd::dispatch<BackwardKernel<T, R, power(), Way::recovered>>(args, first, last);
              return;
            }
          }
          simd::dispatch<BackwardKernel<T, R, power(), Way::plain>>(args, first, last);
        }
      });
    });
    if (wants_scale) {
      add_rows(args.grad_scale, g.batch * g.tiles, g.channels, grad_scale.mutable_data_ptr<A>());
    }
  });
  return {
      output_mask[0] ? grad_x.to(x_type) : grad_x,
      output_mask[1] ? grad_r.to(r.scalar_type()) : grad_r,
      wants_scale ? grad_scale.to(scale->scalar_type()) : grad_scale};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("residual_energy_backward", &residual_energy_backward);
}

}  // namespace trgl::cpu

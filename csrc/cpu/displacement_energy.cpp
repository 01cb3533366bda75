// displacement_energy on the CPU, forward and backward.
//
//   q = y − x,  e_i = Σ_d |q_id|^p,  ∂L/∂y = ∂L/∂e_i · p |q|^(p-1) sign(q) = −∂L/∂x

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "residual_energy.h"

namespace trgl::cpu {
namespace {

template <class T, class A = Accumulator<T>>
struct Displacement {
  const T* x;  // [N, D]
  const T* y;  // [N, D]
  A p;
  const Geometry* geometry;
  A* partial = nullptr;            // [N, tiles]
  const A* grad_energy = nullptr;  // [N]
  T* grad_x = nullptr;             // [N, D] or null
  T* grad_y = nullptr;             // [N, D] or null
  bool streamed = false;           // grad_x and grad_y are written past the caches

  template <int W>
  TRGL_INLINE simd::Vector<A, W> at(int64_t i) const {
    return simd::load<W>(y + i) - simd::load<W>(x + i);
  }
};

template <class T, Power P>
struct ForwardKernel {
  using A = Accumulator<T>;

  template <int BYTES>
  static TRGL_INLINE void run(const Displacement<T>& a, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    const Geometry& g = *a.geometry;
    for_tiles(
        g, first, last,
        [&](int64_t unit, int64_t n, int64_t begin, int64_t end) TRGL_INLINE_LAMBDA {
          TileSum<A, W> energy;
          energy.add(
              n * g.features + begin, n * g.features + end,
              [&](auto lanes, int64_t i) TRGL_INLINE_LAMBDA {
                return simd::power<P, A, lanes()>(a.template at<lanes()>(i), a.p);
              });
          a.partial[unit] = energy.value();
        });
  }
};

template <class T, Power P>
struct BackwardKernel {
  using A = Accumulator<T>;

  template <int W>
  static TRGL_INLINE void element(const Displacement<T>& a, int64_t i, A weight) {
    const auto grad = weight * simd::slope<P, A, W>(a.template at<W>(i), a.p);
    if (a.grad_x) {
      simd::store<W>(a.grad_x + i, -grad, a.streamed);
    }
    if (a.grad_y) {
      simd::store<W>(a.grad_y + i, grad, a.streamed);
    }
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Displacement<T>& a, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    const Geometry& g = *a.geometry;
    for_tiles(
        g, first, last, [&](int64_t, int64_t n, int64_t begin, int64_t end) TRGL_INLINE_LAMBDA {
          const A weight = a.grad_energy[n];
          const int64_t stop = n * g.features + end;
          int64_t i = n * g.features + begin;
          for (; i + W <= stop; i += W) {
            element<W>(a, i, weight);
          }
          for (; i < stop; ++i) {
            element<1>(a, i, weight);
          }
        });
  }
};

// Both tensors as the kernels read them.
struct Pair {
  at::MemoryFormat format;
  at::ScalarType type;
  Tensor x, y;
  Geometry geometry;

  Pair(const Tensor& from, const Tensor& to)
      : format(memory_format(from)),
        type(c10::promoteTypes(from.scalar_type(), to.scalar_type())),
        x(as(from, type, format)),
        y(as(to, type, format)),
        geometry(x, format, std::nullopt) {}

  template <class T>
  Displacement<T> arguments(double p) const {
    return {
        x.const_data_ptr<T>(), y.const_data_ptr<T>(), static_cast<Accumulator<T>>(p), &geometry};
  }
};

Tensor displacement_energy(
    const Tensor& x,  // [N, C, *]
    const Tensor& y,  // [N, C, *]
    double p) {
  check_pair("displacement_energy", x, y, "x", "y");
  check_exponent("displacement_energy", p);
  const Pair pair(x, y);
  const Geometry& g = pair.geometry;
  Tensor energy = at::empty({g.batch}, x.options().dtype(accumulator_type(pair.type)));
  Tensor partial = partial_energies(energy, g);
  for_type(pair.type, [&](auto t) {
    using T = decltype(t);
    using A = Accumulator<T>;
    auto args = pair.arguments<T>(p);
    args.partial = partial.mutable_data_ptr<A>();
    for_power(true, p, [&](auto power) {
      if constexpr (power() != Power::none) {
        parallel_for(g.batch * g.tiles, g.tile, [&](int64_t first, int64_t last) {
          simd::dispatch<ForwardKernel<T, power()>>(args, first, last);
        });
      }
    });
    add_energies<A>(partial, g, energy);
  });
  return energy;
}

std::tuple<Tensor, Tensor> displacement_energy_backward(
    const Tensor& grad_energy,  // [N]
    const Tensor& x,            // [N, C, *]
    const Tensor& y,            // [N, C, *]
    double p,
    std::array<bool, 2> output_mask) {
  check_pair("displacement_energy_backward", x, y, "x", "y");
  check_sample_vector("displacement_energy_backward", "grad_energy", grad_energy, x);
  const Pair pair(x, y);
  const Geometry& g = pair.geometry;
  const Tensor weights = as(grad_energy, accumulator_type(pair.type), at::MemoryFormat::Contiguous);
  const auto wanted = [&](bool wants) {
    return wants ? at::empty_like(pair.x, pair.x.options(), pair.format)
                 : at::empty({0}, x.options());
  };
  Tensor grad_x = wanted(output_mask[0]), grad_y = wanted(output_mask[1]);
  for_type(pair.type, [&](auto t) {
    using T = decltype(t);
    auto args = pair.arguments<T>(p);
    args.grad_energy = weights.const_data_ptr<Accumulator<T>>();
    args.grad_x = output_mask[0] ? grad_x.mutable_data_ptr<T>() : nullptr;
    args.grad_y = output_mask[1] ? grad_y.mutable_data_ptr<T>() : nullptr;
    args.streamed = streamed(pair.x, g);
    for_power(true, p, [&](auto power) {
      if constexpr (power() != Power::none) {
        parallel_for(g.batch * g.tiles, g.tile, [&](int64_t first, int64_t last) {
          simd::dispatch<BackwardKernel<T, power()>>(args, first, last);
        });
      }
    });
  });
  return {
      output_mask[0] ? grad_x.to(x.scalar_type()) : grad_x,
      output_mask[1] ? grad_y.to(y.scalar_type()) : grad_y};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("displacement_energy", &displacement_energy);
  m.impl("displacement_energy_backward", &displacement_energy_backward);
}

}  // namespace trgl::cpu

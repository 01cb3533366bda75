// residual_energy on the CPU.
//
//   q = keep·scale·r,  y = act(x + q),  e_i = Σ_d |q_id|^p

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>

#include "partial_sums.h"
#include "residual_energy.h"

namespace trgl::cpu {
namespace {

template <class T, class R, class A = Accumulator<T>>
struct Forward {
  const T* x;      // [N, D]
  const R* r;      // [N, D]
  T* y;            // [N, D]
  const A* scale;  // [C]
  const A* keep;   // [N]
  A* partial;      // [N, tiles]
  A p;
  A floor;
  bool streamed;  // y is written past the caches
  const Geometry* geometry;
};

template <class T, class R, Power P>
struct ForwardKernel {
  using A = Accumulator<T>;

  template <int W, class Factor>
  static TRGL_INLINE simd::Vector<A, W> element(
      const Forward<T, R>& a, int64_t at, int64_t i, const Factor& factor) {
    const auto q = simd::load<W>(a.r + at) * factor.template at<W>(i);
    const auto u = simd::load<W>(a.x + at) + q;
    simd::store<W>(a.y + at, simd::at_least<A, W>(u, a.floor), a.streamed);
    if constexpr (P == Power::none) {
      return q;
    } else {
      return simd::power<P, A, W>(q, a.p);
    }
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Forward<T, R>& a, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    const Geometry& g = *a.geometry;
    for_tiles(
        g, first, last,
        [&](int64_t unit, int64_t n, int64_t begin, int64_t end) TRGL_INLINE_LAMBDA {
          const int64_t base = n * g.features;
          TileSum<A, W> energy;
          for_segments(
              g, a.scale, a.keep ? a.keep[n] : A(1), begin, end,
              [&](int64_t from, int64_t to, auto factor, int64_t) TRGL_INLINE_LAMBDA {
                energy.add(from, to, [&](auto lanes, int64_t i) TRGL_INLINE_LAMBDA {
                  return element<lanes()>(a, base + i, i - from, factor);
                });
              });
          if constexpr (P != Power::none) {
            a.partial[unit] = energy.value();
          }
        });
  }
};

std::tuple<Tensor, Tensor> residual_energy(
    const Tensor& x,  // [N, C, *]
    const Tensor& r,  // [N, C, *]
    std::string_view activation,
    const OptionalTensor& scale,  // [C]
    const OptionalTensor& keep,   // [N]
    double p,
    bool with_energy,
    bool) {
  check_pair("residual_energy", x, r, "x", "r");
  check_options("residual_energy", x, activation, keep, p);
  const auto format = memory_format(x);
  const Geometry g(x, format, scale);
  const auto type = c10::promoteTypes(x.scalar_type(), r.scalar_type());
  const auto sums = accumulator_type(type);
  const auto residue = residue_type(type, r.scalar_type());
  const Tensor xs = as(x, type, format), rs = as(r, residue, format);
  const OptionalTensor scales = as_vector(scale, sums), keeps = as_vector(keep, sums);
  Tensor y = at::empty_like(xs, xs.options(), format);
  Tensor energy = at::empty({with_energy ? g.batch : 0}, x.options().dtype(sums));
  Tensor partial = partial_energies(energy, g);
  for_types(type, residue, [&](auto t, auto u) {
    using T = decltype(t);
    using R = decltype(u);
    using A = Accumulator<T>;
    const Forward<T, R> args{xs.const_data_ptr<T>(),  rs.const_data_ptr<R>(),
                             y.mutable_data_ptr<T>(), data_or_null<A>(scales),
                             data_or_null<A>(keeps),  partial.mutable_data_ptr<A>(),
                             static_cast<A>(p),       activation_floor<A>(activation),
                             streamed(y, g),          &g};
    for_power(with_energy, p, [&](auto power) {
      parallel_for(g.batch * g.tiles, g.tile, [&](int64_t first, int64_t last) {
        simd::dispatch<ForwardKernel<T, R, power()>>(args, first, last);
      });
    });
    add_energies<A>(partial, g, energy);
  });
  return {y, energy};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("residual_energy", &residual_energy);
}

}  // namespace trgl::cpu

// residual_energy_layer_norm on the CPU.
//
//   q = keep·scale·r,  y = x + q,  e_i = Σ_d |q_id|^p
//   normed = weight·(y − mean)·rstd + bias, with the mean and rstd of each row of y

#include "residual_energy_layer_norm.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "partial_sums.h"

namespace trgl::cpu {
namespace {

using namespace layer_norm;

template <class T, class R, class A = Accumulator<T>>
struct Forward {
  const T* x;       // [N, *, C]
  const R* r;       // [N, *, C]
  T* y;             // [N, *, C]
  T* normed;        // [N, *, C]
  const A* weight;  // [C] or null
  const A* bias;    // [C] or null
  const A* scale;   // [C] or null
  const A* keep;    // [N] or null
  A* mean;          // [N, *]
  A* rstd;          // [N, *]
  A* partial;       // [N, tiles]
  A p;
  double eps;
  const Rows* rows;
  int64_t tile;   // rows that share a partial energy
  int64_t tiles;  // in a sample
  bool streamed;  // y and normed are written past the caches
};

template <class T, class R, Power P>
struct ForwardKernel {
  using A = Accumulator<T>;

  template <int W>
  struct Energy {
    simd::Vector<A, W> total{};
    double rest = 0.0;
  };

  // Writes y; returns q's share of the energy and adds y to its row's sum.
  template <int W, class Factor>
  static TRGL_INLINE simd::Vector<A, W> add(
      const Forward<T, R>& a,
      int64_t at,
      int64_t i,
      const Factor& factor,
      T* y,  // [C], the row
      simd::Vector<A, W>& sum) {
    const auto q = simd::load<W>(a.r + at + i) * factor.template at<W>(i);
    const simd::Vector<A, W> u = simd::load<W>(a.x + at + i) + q;
    simd::store<W>(y + i, u);
    sum += u;
    if constexpr (P == Power::none) {
      return q;
    } else {
      return simd::power<P, A, W>(q, a.p);
    }
  }

  // Writes a row of y; returns its sum but for the rounding to y's type.
  template <int W, class Factor>
  static TRGL_INLINE A
  add_row(const Forward<T, R>& a, int64_t at, const Factor& factor, T* y, Energy<W>& energy) {
    RowSum<A, W> sum;
    simd::Vector<A, W> run{};
    for_row<W>(
        a.rows->width,
        [&](int64_t i) TRGL_INLINE_LAMBDA { run += add<W>(a, at, i, factor, y, sum.run); },
        [&](int64_t i) TRGL_INLINE_LAMBDA {
          simd::Vector<A, 1> one{};
          energy.rest += add<1>(a, at, i, factor, y, one)[0];
          sum.rest += one[0];
        },
        [&]() TRGL_INLINE_LAMBDA {
          sum.fold();
          energy.total += run;
          run = simd::Vector<A, W>{};
        });
    return sum.value();
  }

  // Mean and variance of a row of y from its distances to `near`, the mean but for its rounding.
  template <int W>
  static TRGL_INLINE std::pair<A, double> moments(const T* y, int64_t width, A near) {
    RowSum<A, W> distance, squares;
    for_row<W>(
        width,
        [&](int64_t i) TRGL_INLINE_LAMBDA {
          const simd::Vector<A, W> d = simd::load<W>(y + i) - near;
          distance.run += d;
          squares.run += d * d;
        },
        [&](int64_t i) TRGL_INLINE_LAMBDA {
          const A d = simd::load<1>(y + i)[0] - near;
          distance.rest += d;
          squares.rest += d * d;
        },
        [&]() TRGL_INLINE_LAMBDA {
          distance.fold();
          squares.fold();
        });
    const double count = static_cast<double>(width), moved = distance.value();
    const double shift = moved / count;
    const double var = (squares.value() - moved * shift) / count;
    return {static_cast<A>(near + shift), var < 0.0 ? 0.0 : var};  // NaN stays
  }

  // Writes the row's normed, and y where it is not there yet.
  template <int W>
  static TRGL_INLINE void normalize(
      const Forward<T, R>& a, int64_t at, int64_t i, const T* y, A mean, A rstd) {
    const auto u = simd::load<W>(y + i);
    if (a.streamed) {
      simd::store<W>(a.y + at + i, u, true);
    }
    simd::Vector<A, W> v = (u - mean) * rstd;
    if (a.weight) {
      v = v * simd::load<W>(a.weight + i);
    }
    if (a.bias) {
      v = v + simd::load<W>(a.bias + i);
    }
    simd::store<W>(a.normed + at + i, v, a.streamed);
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Forward<T, R>& a, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    const int64_t width = a.rows->width;
    // a row of y that goes past the caches waits here until it has been normalized
    std::vector<T> waiting(a.streamed ? width : 0);
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t n = unit / a.tiles, begin = unit % a.tiles * a.tile;
      const int64_t end = std::min(begin + a.tile, a.rows->size);
      const A keep = a.keep ? a.keep[n] : A(1);
      Energy<W> energy;
      for (int64_t row = n * a.rows->size + begin; row < n * a.rows->size + end; ++row) {
        const int64_t at = row * width;
        T* y = a.streamed ? waiting.data() : a.y + at;
        const A sum = a.scale ? add_row<W>(a, at, PerLane<A>{a.scale, keep}, y, energy)
                              : add_row<W>(a, at, Uniform<A>{keep}, y, energy);
        const auto [mean, var] = moments<W>(y, width, sum / static_cast<A>(width));
        const A rstd = static_cast<A>(1.0 / std::sqrt(var + a.eps));
        a.mean[row] = mean;
        a.rstd[row] = rstd;
        int64_t i = 0;
        for (; i + W <= width; i += W) {
          normalize<W>(a, at, i, y, mean, rstd);
        }
        for (; i < width; ++i) {
          normalize<1>(a, at, i, y, mean, rstd);
        }
      }
      if constexpr (P != Power::none) {
        a.partial[unit] = static_cast<A>(simd::sum<A, W>(energy.total) + energy.rest);
      }
    }
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> residual_energy_layer_norm(
    const Tensor& x,               // [N, *, C]
    const Tensor& r,               // [N, *, C]
    const OptionalTensor& weight,  // [C]
    const OptionalTensor& bias,    // [C]
    double eps,
    const OptionalTensor& scale,  // [C]
    const OptionalTensor& keep,   // [N]
    double p,
    bool with_energy,
    bool) {
  check_residual_energy_layer_norm(x, r, weight, bias, eps, scale, keep, p);
  constexpr auto format = at::MemoryFormat::Contiguous;
  const Rows rows(x);
  const auto type = c10::promoteTypes(x.scalar_type(), r.scalar_type());
  const auto sums = accumulator_type(type);
  const auto options = x.options().dtype(sums);
  const auto residue = residue_type(type, r.scalar_type());
  const Tensor xs = as(x, type, format), rs = as(r, residue, format);
  const OptionalTensor weights = as_vector(weight, sums), biases = as_vector(bias, sums);
  const OptionalTensor scales = as_vector(scale, sums), keeps = as_vector(keep, sums);
  Tensor y = at::empty(x.sizes(), xs.options()), normed = at::empty(x.sizes(), xs.options());
  const auto heads = x.sizes().slice(0, x.dim() - 1);
  Tensor mean = at::empty(heads, options), rstd = at::empty(heads, options);
  Tensor energy = at::empty({with_energy ? rows.batch : 0}, options);
  const int64_t tile = std::clamp<int64_t>(rows.size, 1, rows.height(kTile));
  const int64_t tiles = divide_up(rows.size, tile);
  const bool direct = tiles == 1;  // a sample's only partial sum is its energy
  Tensor partial = direct || !with_energy ? energy : at::empty({rows.batch, tiles}, options);
  for_types(type, residue, [&](auto t, auto u) {
    using T = decltype(t);
    using R = decltype(u);
    using A = Accumulator<T>;
    const Forward<T, R> args{
        xs.const_data_ptr<T>(),
        rs.const_data_ptr<R>(),
        y.mutable_data_ptr<T>(),
        normed.mutable_data_ptr<T>(),
        data_or_null<A>(weights),
        data_or_null<A>(biases),
        data_or_null<A>(scales),
        data_or_null<A>(keeps),
        mean.mutable_data_ptr<A>(),
        rstd.mutable_data_ptr<A>(),
        partial.mutable_data_ptr<A>(),
        static_cast<A>(p),
        eps,
        &rows,
        tile,
        tiles,
        streamed(y, rows.width)};
    for_power(with_energy, p, [&](auto power) {
      parallel_for(rows.batch * tiles, tile * rows.width, [&](int64_t first, int64_t last) {
        simd::dispatch<ForwardKernel<T, R, power()>>(args, first, last);
      });
    });
    if (with_energy && !direct) {
      add_parts(args.partial, rows.batch, tiles, energy.mutable_data_ptr<A>());
    }
  });
  return {y, normed, energy, mean, rstd};
}

}  // namespace

TORCH_LIBRARY_IMPL(trgl, CPU, m) {
  m.impl("residual_energy_layer_norm", &residual_energy_layer_norm);
}

}  // namespace trgl::cpu

// residual_energy on the CPU.
//
//   q = keep·scale·r,  y = act(x + q),  e_i = Σ_d |q_id|^p
//
// A sample is cut into tiles of about 16 Ki elements, whatever the number of threads: a tile is the
// unit of work, and its part of the energy is added up in the order of the tiles, so that results
// do not depend on how threads share them.

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "engine.h"

namespace trgl::cpu {
namespace {

constexpr int64_t kTile = 16384;
constexpr int64_t kRows = 256;  // of a tile whose channels are added up one by one

// Where the scale of an element of a sample is found.
enum class Scale { none, row, lane };

// A sample in memory: rows of `length` elements; row i has scale i % channels, or, with one
// channel after the other in memory, element j of a row has scale j.
struct Geometry {
  int64_t batch = 0, features = 0, channels = 1, length = 1, tile = 0, tiles = 0;
  Scale kind = Scale::none;

  Geometry(const Tensor& x, at::MemoryFormat format, const OptionalTensor& scale) {
    batch = x.size(0);
    features = batch == 0 ? 0 : x.numel() / batch;
    length = features;
    tile = kTile;
    if (scale) {
      const int64_t dim = scale_dim("residual_energy", x, *scale);
      channels = scale->numel();
      length = 1;
      const bool last = format != at::MemoryFormat::Contiguous;  // memory order N, *, C
      for (int64_t d = 1; d < x.dim(); ++d) {
        const bool inside = last && dim == 1 ? false : last ? d > dim || d == 1 : d > dim;
        length *= inside ? x.size(d) : 1;
      }
      kind = length == 1 ? Scale::lane : Scale::row;
      if (kind == Scale::lane) {
        length = channels;
        tile = std::clamp<int64_t>(kTile / std::max<int64_t>(1, channels), 1, kRows) * channels;
      }
    }
    tile = std::max<int64_t>(1, std::min(tile, features));
    tiles = divide_up(features, tile);
  }
};

// The factor of r: one for a whole segment, or one per lane.
template <class A>
struct Uniform {
  A factor;
  template <int W>
  TRGL_INLINE simd::Vector<A, W> at(int64_t) const {
    return simd::broadcast<A, W>(factor);
  }
};

template <class A>
struct PerLane {
  const A* scale;
  A keep;
  template <int W>
  TRGL_INLINE simd::Vector<A, W> at(int64_t i) const {
    return simd::load<W>(scale + i) * keep;
  }
};

// Calls segment(begin, end, factor, keep, channel) on the parts of tile [begin, end) of a sample
// that share a row, with the factor keep·scale that belongs there.
template <class A, class F>
TRGL_INLINE void for_segments(
    const Geometry& g, const A* scale, A keep, int64_t begin, int64_t end, const F& segment) {
  if (g.kind == Scale::none) {
    segment(begin, end, Uniform<A>{keep}, keep, int64_t{0});
    return;
  }
  while (begin < end) {
    const int64_t row = begin / g.length;
    const int64_t stop = std::min(end, (row + 1) * g.length);
    if (g.kind == Scale::lane) {
      segment(begin, stop, PerLane<A>{scale, keep}, keep, int64_t{0});
    } else {
      const int64_t channel = row % g.channels;
      segment(begin, stop, Uniform<A>{keep * scale[channel]}, keep, channel);
    }
    begin = stop;
  }
}

template <class T, class A = Accumulator<T>>
struct Forward {
  const T* x;      // [N, D]
  const T* r;      // [N, D]
  T* y;            // [N, D]
  const A* scale;  // [C]
  const A* keep;   // [N]
  A* partial;      // [N, tiles]
  A p;
  A floor;
  const Geometry* geometry;
};

template <class T, Power P>
struct ForwardKernel {
  using A = Accumulator<T>;

  template <int W, class Factor>
  static TRGL_INLINE simd::Vector<A, W> element(
      const Forward<T>& a, int64_t at, int64_t i, const Factor& factor) {
    const auto q = simd::load<W>(a.r + at) * factor.template at<W>(i);
    const auto u = simd::load<W>(a.x + at) + q;
    simd::store<W>(a.y + at, simd::at_least<A, W>(u, a.floor));
    if constexpr (P == Power::none) {
      return q;
    } else {
      return simd::power<P, A, W>(q, a.p);
    }
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Forward<T>* args, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    const Forward<T>& a = *args;
    const Geometry& g = *a.geometry;
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t n = unit / g.tiles, begin = unit % g.tiles * g.tile;
      const int64_t end = std::min(begin + g.tile, g.features);
      const int64_t base = n * g.features;
      const A keep = a.keep ? a.keep[n] : A(1);
      simd::Vector<A, W> total{};
      double rest = 0.0;
      for_segments(
          g, a.scale, keep, begin, end,
          [&](int64_t from, int64_t to, auto factor, A, int64_t) TRGL_INLINE_LAMBDA {
            int64_t i = from;
            while (i + 2 * W <= to) {
              simd::Vector<A, W> even{}, odd{};
              for (const int64_t stop = std::min(to, i + kRun); i + 2 * W <= stop; i += 2 * W) {
                even += element<W>(a, base + i, i - from, factor);
                odd += element<W>(a, base + i + W, i + W - from, factor);
              }
              total += even + odd;
            }
            for (; i + W <= to; i += W) {
              total += element<W>(a, base + i, i - from, factor);
            }
            for (; i < to; ++i) {
              rest += element<1>(a, base + i, i - from, factor)[0];
            }
          });
      if constexpr (P != Power::none) {
        a.partial[unit] = static_cast<A>(simd::sum<A, W>(total) + rest);
      }
    }
  }
};

template <class T, class A = Accumulator<T>>
struct Backward {
  const T* grad_y;       // [N, D]
  const A* grad_energy;  // [N]
  const T* y;            // [N, D], only with a ReLU
  const T* r;            // [N, D]
  const A* scale;        // [C]
  const A* keep;         // [N]
  T* grad_x;             // [N, D] or null
  T* grad_r;             // [N, D] or null
  A* grad_scale;         // [N, tiles, C] or null
  A p;
  const Geometry* geometry;
};

template <class T, Power P, bool MASKED>
struct BackwardKernel {
  using A = Accumulator<T>;

  // Writes the gradients of x and r; returns that of keep·scale·r times keep·r, scale's part.
  template <int W, class Factor>
  static TRGL_INLINE simd::Vector<A, W> element(
      const Backward<T>& a, int64_t at, int64_t i, const Factor& factor, A keep, A weight) {
    auto grad = simd::load<W>(a.grad_y + at);
    if constexpr (MASKED) {
      grad = simd::mask<A, W>(grad, simd::load<W>(a.y + at));
    }
    if (a.grad_x) {
      simd::store<W>(a.grad_x + at, grad);
    }
    const auto r = simd::load<W>(a.r + at);
    const auto f = factor.template at<W>(i);
    if constexpr (P != Power::none) {
      grad += weight * simd::slope<P, A, W>(r * f, a.p);
    }
    if (a.grad_r) {
      simd::store<W>(a.grad_r + at, grad * f);
    }
    return grad * (r * keep);
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Backward<T>* args, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    const Backward<T>& a = *args;
    const Geometry& g = *a.geometry;
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t n = unit / g.tiles, begin = unit % g.tiles * g.tile;
      const int64_t end = std::min(begin + g.tile, g.features);
      const int64_t base = n * g.features;
      const A keep = a.keep ? a.keep[n] : A(1);
      const A weight = P == Power::none ? A(0) : a.grad_energy[n];
      A* sums = a.grad_scale ? a.grad_scale + unit * g.channels : nullptr;
      if (sums) {
        std::fill(sums, sums + g.channels, A(0));
      }
      for_segments(
          g, a.scale, keep, begin, end,
          [&](int64_t from, int64_t to, auto factor, A, int64_t channel) TRGL_INLINE_LAMBDA {
            simd::Vector<A, W> total{};
            double rest = 0.0;
            const bool lanes = sums && g.kind == Scale::lane;
            int64_t i = from;
            for (; i + W <= to; i += W) {
              const auto part = element<W>(a, base + i, i - from, factor, keep, weight);
              total += part;
              if (lanes) {
                simd::store<W>(sums + i - from, simd::load<W>(sums + i - from) + part);
              }
            }
            for (; i < to; ++i) {
              const A part = element<1>(a, base + i, i - from, factor, keep, weight)[0];
              rest += part;
              if (lanes) {
                sums[i - from] += part;
              }
            }
            if (sums && g.kind == Scale::row) {
              sums[channel] += static_cast<A>(simd::sum<A, W>(total) + rest);
            }
          });
    }
  }
};

// Adds up `count` rows of `width` values in their order.
template <class A>
void add_rows(const A* rows, int64_t count, int64_t width, A* out) {
  std::vector<double> total(width, 0.0);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      total[j] += rows[i * width + j];
    }
  }
  std::copy(total.begin(), total.end(), out);
}

std::tuple<Tensor, Tensor> residual_energy(
    const Tensor& x,  // [N, C, *]
    const Tensor& r,  // [N, C, *]
    std::string_view activation,
    const OptionalTensor& scale,  // [C]
    const OptionalTensor& keep,   // [N]
    double p,
    bool with_energy) {
  check_pair("residual_energy", x, r, "x", "r");
  check_options("residual_energy", x.size(0), activation, keep, p);
  const auto format = memory_format(x);
  const Geometry g(x, format, scale);
  const auto type = c10::promoteTypes(x.scalar_type(), r.scalar_type());
  const auto sums = accumulator_type(type);
  const Tensor xs = as(x, type, format), rs = as(r, type, format);
  const OptionalTensor scales = as_vector(scale, sums), keeps = as_vector(keep, sums);
  Tensor y = at::empty_like(xs, xs.options(), format);
  Tensor energy = at::empty({with_energy ? g.batch : 0}, x.options().dtype(sums));
  const bool direct = g.tiles == 1;  // a sample's only partial sum is its energy
  Tensor partial =
      direct || !with_energy ? energy : at::empty({g.batch, g.tiles}, energy.options());
  for_type("residual_energy", type, [&](auto t) {
    using T = decltype(t);
    using A = Accumulator<T>;
    const Forward<T> args{
        xs.const_data_ptr<T>(),  rs.const_data_ptr<T>(),          y.mutable_data_ptr<T>(),
        data_or_null<A>(scales), data_or_null<A>(keeps),          partial.mutable_data_ptr<A>(),
        static_cast<A>(p),       activation_floor<A>(activation), &g};
    for_power(with_energy, p, [&](auto power) {
      parallel_for(g.batch * g.tiles, g.tile, [&](int64_t first, int64_t last) {
        simd::dispatch<ForwardKernel<T, power()>>(&args, first, last);
      });
    });
    if (with_energy && !direct) {
      for (int64_t n = 0; n < g.batch; ++n) {
        double total = 0.0;
        for (int64_t i = 0; i < g.tiles; ++i) {
          total += args.partial[n * g.tiles + i];
        }
        energy.mutable_data_ptr<A>()[n] = static_cast<A>(total);
      }
    }
  });
  return {y, energy};
}

std::tuple<Tensor, Tensor, Tensor> residual_energy_backward(
    const OptionalTensor& grad_y,       // [N, C, *]
    const OptionalTensor& grad_energy,  // [N]
    const OptionalTensor& y,            // [N, C, *], only with a ReLU
    const Tensor& r,                    // [N, C, *]
    const OptionalTensor& scale,        // [C]
    const OptionalTensor& keep,         // [N]
    std::string_view,
    double p,
    at::ScalarType x_type,
    std::array<bool, 3> output_mask) {
  const auto format = memory_format(r);
  const Geometry g(r, format, scale);
  const auto type = c10::promoteTypes(x_type, r.scalar_type());
  const auto sums = accumulator_type(type);
  const Tensor rs = as(r, type, format);
  const Tensor grad = grad_y ? as(*grad_y, type, format) : at::zeros_like(rs);
  const OptionalTensor mask = y ? OptionalTensor(as(*y, type, format)) : std::nullopt;
  const OptionalTensor scales = as_vector(scale, sums), keeps = as_vector(keep, sums);
  const OptionalTensor weights = as_vector(grad_energy, sums);
  const auto wanted = [&](bool wants) {
    return wants ? at::empty_like(rs, rs.options(), format) : at::empty({0}, r.options());
  };
  Tensor grad_x = wanted(output_mask[0]), grad_r = wanted(output_mask[1]);
  const bool wants_scale = output_mask[2] && scale;
  Tensor grad_scale = at::empty({0}, r.options());
  Tensor partial;
  if (wants_scale) {
    grad_scale = at::empty(scale->sizes(), r.options().dtype(sums));
    partial = at::empty({g.batch * g.tiles, g.channels}, grad_scale.options());
  }
  for_type("residual_energy_backward", type, [&](auto t) {
    using T = decltype(t);
    using A = Accumulator<T>;
    const Backward<T> args{
        grad.const_data_ptr<T>(),
        data_or_null<A>(weights),
        data_or_null<T>(mask),
        rs.const_data_ptr<T>(),
        data_or_null<A>(scales),
        data_or_null<A>(keeps),
        output_mask[0] ? grad_x.mutable_data_ptr<T>() : nullptr,
        output_mask[1] ? grad_r.mutable_data_ptr<T>() : nullptr,
        wants_scale ? partial.mutable_data_ptr<A>() : nullptr,
        static_cast<A>(p),
        &g};
    for_power(weights.has_value(), p, [&](auto power) {
      parallel_for(g.batch * g.tiles, g.tile, [&](int64_t first, int64_t last) {
        if (mask) {
          simd::dispatch<BackwardKernel<T, power(), true>>(&args, first, last);
        } else {
          simd::dispatch<BackwardKernel<T, power(), false>>(&args, first, last);
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
  m.impl("residual_energy", &residual_energy);
  m.impl("residual_energy_backward", &residual_energy_backward);
}

}  // namespace trgl::cpu

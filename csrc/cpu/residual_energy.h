// How residual_energy and displacement_energy walk a sample on the CPU, forward and backward.
//
// A sample is cut into tiles of about 16 Ki elements, whatever the number of threads: a tile is the
// unit of work, and partial sums are added up in the order of the tiles, so that results do not
// depend on how threads share them.
#pragma once

#include <ATen/ops/empty.h>

#include <type_traits>

#include "engine.h"
#include "partial_sums.h"

namespace trgl::cpu {

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

// Whether a map of this geometry is written past the caches.
inline bool streamed(const Tensor& map, const Geometry& g) {
  return streamed(map, g.length);
}

// Calls tile(unit, sample, begin, end) for the units [first, last) of work: elements [begin, end)
// of a sample.
template <class F>
TRGL_INLINE void for_tiles(const Geometry& g, int64_t first, int64_t last, const F& tile) {
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t n = unit / g.tiles, begin = unit % g.tiles * g.tile;
    tile(unit, n, begin, std::min(begin + g.tile, g.features));
  }
}

// The sum of a term for each element of a tile, in an order that the shape alone decides.
template <class A, int W>
struct TileSum {
  simd::Vector<A, W> total{};
  double rest = 0.0;

  // Adds term(lanes, i) of the elements [from, to): `lanes` of them from i on.
  template <class F>
  TRGL_INLINE void add(int64_t from, int64_t to, const F& term) {
    constexpr std::integral_constant<int, W> vector;
    constexpr std::integral_constant<int, 1> single;
    int64_t i = from;
    while (i + 2 * W <= to) {
      simd::Vector<A, W> even{}, odd{};
      for (const int64_t stop = std::min(to, i + kRun); i + 2 * W <= stop; i += 2 * W) {
        even += term(vector, i);
        odd += term(vector, i + W);
      }
      total += even + odd;
    }
    for (; i + W <= to; i += W) {
      total += term(vector, i);
    }
    for (; i < to; ++i) {
      rest += term(single, i)[0];
    }
  }

  TRGL_INLINE A value() const {
    return static_cast<A>(simd::sum<A, W>(total) + rest);
  }
};

// Where the tiles leave their shares of the energies: a sample's only share is its energy.
inline Tensor partial_energies(const Tensor& energy, const Geometry& g) {  // [N] → [N, tiles]
  const bool direct = g.tiles == 1 || energy.numel() == 0;
  return direct ? energy : at::empty({g.batch, g.tiles}, energy.options());
}

// Adds these shares up.
template <class A>
void add_energies(const Tensor& partial, const Geometry& g, Tensor& energy) {
  if (!partial.is_same(energy)) {
    add_parts(partial.const_data_ptr<A>(), g.batch, g.tiles, energy.mutable_data_ptr<A>());
  }
}

// The type in which r is read and its gradient written, beside maps of `type`: r's own on a stream
// in float32, as autocast has it, so that no map is copied to be read; elsewhere `type`.
inline at::ScalarType residue_type(at::ScalarType type, at::ScalarType r) {
  return type == at::kFloat && (r == at::kBFloat16 || r == at::kHalf) ? r : type;
}

// Calls f with values of the C++ types that stand for `type` and for what residue_type gave.
template <class F>
void for_types(at::ScalarType type, at::ScalarType residue, const F& f) {
  for_type(type, [&](auto t) {
    if constexpr (std::is_same_v<decltype(t), float>) {
      if (residue == at::kBFloat16) {
        return f(t, c10::BFloat16{});
      }
      if (residue == at::kHalf) {
        return f(t, c10::Half{});
      }
    }
    f(t, t);
  });
}

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

// Calls segment(begin, end, factor, channel) on the parts of tile [begin, end) of a sample
// that share a row, with the factor keep·scale that belongs there.
template <class A, class F>
TRGL_INLINE void for_segments(
    const Geometry& g, const A* scale, A keep, int64_t begin, int64_t end, const F& segment) {
  if (g.kind == Scale::none) {
    segment(begin, end, Uniform<A>{keep}, int64_t{0});
    return;
  }
  while (begin < end) {
    const int64_t row = begin / g.length;
    const int64_t stop = std::min(end, (row + 1) * g.length);
    if (g.kind == Scale::lane) {
      segment(begin, stop, PerLane<A>{scale, keep}, int64_t{0});
    } else {
      const int64_t channel = row % g.channels;
      segment(begin, stop, Uniform<A>{keep * scale[channel]}, channel);
    }
    begin = stop;
  }
}

}  // namespace trgl::cpu

// How residual_energy walks a sample on the CPU, forward and backward.
//
// A sample is cut into tiles of about 16 Ki elements, whatever the number of threads: a tile is the
// unit of work, and partial sums are added up in the order of the tiles, so that results do not
// depend on how threads share them.
#pragma once

#include "engine.h"

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

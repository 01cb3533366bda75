// How residual_energy_layer_norm walks on the CPU: row by row, each row's passes while it is in the
// cache.
#pragma once

#include "residual_energy.h"

namespace trgl::cpu::layer_norm {

// A tensor [N, *, C] as rows of C features.
struct Rows {
  int64_t batch, size, width;  // N, rows of a sample, C

  explicit Rows(const Tensor& x) : batch(x.size(0)), size(1), width(x.size(-1)) {
    for (int64_t d = 1; d < x.dim() - 1; ++d) {
      size *= x.size(d);
    }
  }

  // Rows that share partial sums: a function of the shape alone.
  int64_t height(int64_t elements) const {
    return std::clamp<int64_t>(elements / std::max<int64_t>(1, width), 1, kRows);
  }
};

constexpr int64_t kLane = 64;  // values that a lane sums up before it is added to the next level

// Calls vector(i) at each whole vector of a row and single(i) at each element that is left; `fold`
// after each run of kLane vectors, since long running sums lose their last digits.
template <int W, class V, class S, class F>
TRGL_INLINE void for_row(int64_t width, const V& vector, const S& single, const F& fold) {
  int64_t i = 0;
  while (i + W <= width) {
    for (const int64_t stop = std::min(width, i + kLane * W); i + W <= stop; i += W) {
      vector(i);
    }
    fold();
  }
  for (; i < width; ++i) {
    single(i);
  }
}

// The sum of one value per element of a row.
template <class A, int W>
struct RowSum {
  simd::Vector<A, W> run{}, total{};
  A rest = A(0);

  TRGL_INLINE void fold() {
    total += run;
    run = simd::Vector<A, W>{};
  }
  TRGL_INLINE A value() const {
    return simd::sum<A, W>(total) + rest;
  }
};

}  // namespace trgl::cpu::layer_norm

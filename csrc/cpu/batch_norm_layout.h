// The two walks of the passes of the operators with batch normalization, and the choice of one.
#pragma once

#include "batch_norm_planes.h"
#include "batch_norm_rows.h"

namespace trgl::cpu::batch_norm {

// Calls f with the walk that fits the layout of z, which has at least one element.
template <class F>
void for_layout(const Tensor& z, at::MemoryFormat format, const F& f) {
  const int64_t n = z.size(0), c = z.size(1), s = z.numel() / (n * c);
  if (by_rows(z, format)) {
    f(Rows(n, s, c));
  } else {
    f(Planes(n, c, s));
  }
}

// Whether outputs of this layout are written past the caches.
inline bool streamed(const Tensor& z, at::MemoryFormat format) {
  const int64_t n = z.size(0), c = z.size(1);
  return z.numel() > 0 && cpu::streamed(z, by_rows(z, format) ? c : z.numel() / (n * c));
}

}  // namespace trgl::cpu::batch_norm

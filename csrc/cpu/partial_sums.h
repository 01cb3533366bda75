// How partial sums of the CPU kernels become results: always in the same order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace trgl::cpu {

// Adds up the `parts` of each sample, which follow each other.
template <class A>
void add_parts(
    const A* partial,  // [N, parts]
    int64_t batch,
    int64_t parts,
    A* out) {  // [N]
  for (int64_t n = 0; n < batch; ++n) {
    double total = 0.0;
    for (int64_t i = 0; i < parts; ++i) {
      total += partial[n * parts + i];
    }
    out[n] = static_cast<A>(total);
  }
}

// Adds up `count` rows of `width` values in their order.
template <class A>
void add_rows(
    const A* rows,  // [count, width]
    int64_t count,
    int64_t width,
    A* out) {  // [width]
  std::vector<double> total(width, 0.0);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      total[j] += rows[i * width + j];
    }
  }
  std::copy(total.begin(), total.end(), out);
}

}  // namespace trgl::cpu

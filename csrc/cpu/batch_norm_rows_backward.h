// The passes of the gradient over rows.
#pragma once

#include <vector>

#include "batch_norm_rows.h"

namespace trgl::cpu::batch_norm {

// Vectors of W channels from c on.
template <int W, class T, class A = Accumulator<T>>
TRGL_INLINE Channel<simd::Vector<A, W>> channels_at(const Backward<T>& a, int64_t c) {
  return {
      simd::load<W>(a.mean + c), simd::load<W>(a.slope + c), simd::load<W>(a.bias + c),
      simd::load<W>(a.mean_g + c), simd::load<W>(a.mean_gd + c)};
}

// Rows that a pass of the gradient takes together, `height` or one. What it needs of few channels
// stays in registers down a block's part of a sample. For more of them it waits in the cache while
// a row is read to its end: down a part of each row, memory is a quarter slower (EPYC, C = 64 and
// more).
template <int W>
TRGL_INLINE int64_t strip(const Rows& rows) {
  return rows.channels > kSide * W ? 1 : rows.height;
}

// Calls f(from, to, sample) for strips of rows [begin, end), each in one sample, with what the
// gradient needs of that.
template <Power P, int W, class T, class F>
TRGL_INLINE void for_strips(
    const Backward<T>& a, const Rows& rows, int64_t begin, int64_t end, const F& f) {
  const int64_t step = strip<W>(rows);
  while (begin < end) {
    const int64_t n = begin / rows.size, stop = std::min(end, (n + 1) * rows.size);
    const Sample<P, Accumulator<T>> sample(a, n);
    for (; begin < stop; begin += step) {
      f(begin, std::min(stop, begin + step), sample);
    }
    begin = stop;
  }
}

// Σg and Σg·(z − μ) of every channel in blocks [first, last), and the gradient of x where a.grad_x
// is given.
template <class T, Power P, Mask MASK>
struct RowReduce {
  using A = Accumulator<T>;

  // Adds rows [begin, end) to the sums of SIDE vectors of channels.
  template <int W, int SIDE>
  static TRGL_INLINE void columns(
      const Backward<T>& a,
      const Rows& rows,
      int64_t begin,
      int64_t end,
      int64_t c,
      const Sample<P, A>& sample,
      A* of_g,     // [C]
      A* of_gd) {  // [C]
    Channel<simd::Vector<A, W>> channels[SIDE];
    simd::Vector<A, W> sum_g[SIDE], sum_gd[SIDE];
    for (int i = 0; i < SIDE; ++i) {
      channels[i] = channels_at<W>(a, c + i * W);
      sum_g[i] = simd::load<W>(of_g + c + i * W);
      sum_gd[i] = simd::load<W>(of_gd + c + i * W);
    }
    for (int64_t row = begin; row < end; ++row) {
      for (int i = 0; i < SIDE; ++i) {
        const int64_t at = row * rows.channels + c + i * W;
        const auto [g, centred] = gradient<P, MASK, true, W>(a, at, channels[i], sample);
        sum_g[i] += g;
        sum_gd[i] += g * centred;
      }
    }
    for (int i = 0; i < SIDE; ++i) {
      simd::store<W>(of_g + c + i * W, sum_g[i]);
      simd::store<W>(of_gd + c + i * W, sum_gd[i]);
    }
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Backward<T>& a, const Rows& rows, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    std::vector<A> sums(2 * rows.channels);
    A *of_g = sums.data(), *of_gd = sums.data() + rows.channels;
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * rows.height;
      const int64_t end = std::min(rows.rows, begin + rows.height);
      std::fill(sums.begin(), sums.end(), A(0));
      for_strips<P, W>(
          a, rows, begin, end,
          [&](int64_t from, int64_t to, const auto& sample) TRGL_INLINE_LAMBDA {
            for_columns<W>(rows.channels, [&](auto width, auto side, int64_t c) TRGL_INLINE_LAMBDA {
              columns<width, side>(a, rows, from, to, c, sample, of_g, of_gd);
            });
          });
      for (int64_t c = 0; c < rows.channels; ++c) {
        a.blocks[block * rows.channels + c] = {
            static_cast<double>(of_g[c]), static_cast<double>(of_gd[c])};
      }
    }
  }
};

// The gradient of z in rows [first, last).
template <class T, Power P, Mask MASK>
struct RowGradient {
  using A = Accumulator<T>;

  template <int W, int SIDE>
  static TRGL_INLINE void columns(
      const Backward<T>& a,
      const Rows& rows,
      int64_t begin,
      int64_t end,
      int64_t c,
      const Sample<P, A>& sample) {
    Channel<simd::Vector<A, W>> channels[SIDE];
    for (int i = 0; i < SIDE; ++i) {
      channels[i] = channels_at<W>(a, c + i * W);
    }
    for (int64_t row = begin; row < end; ++row) {
      for (int i = 0; i < SIDE; ++i) {
        const int64_t at = row * rows.channels + c + i * W;
        const auto of = gradient<P, MASK, false, W>(a, at, channels[i], sample);
        store_gradient_of_z<W>(a, at, channels[i], of);
      }
    }
  }

  template <int BYTES>
  static TRGL_INLINE void run(const Backward<T>& a, const Rows& rows, int64_t first, int64_t last) {
    constexpr int W = BYTES / sizeof(A);
    for_strips<P, W>(
        a, rows, first, last, [&](int64_t from, int64_t to, const auto& sample) TRGL_INLINE_LAMBDA {
          for_columns<W>(rows.channels, [&](auto width, auto side, int64_t c) TRGL_INLINE_LAMBDA {
            columns<width, side>(a, rows, from, to, c, sample);
          });
        });
  }
};

}  // namespace trgl::cpu::batch_norm

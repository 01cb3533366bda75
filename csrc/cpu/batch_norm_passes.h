// What the passes of the operators with batch normalization share: arguments, statistics, the
// gradient.
#pragma once

#include <cmath>
#include <tuple>

#include "engine.h"

namespace trgl::cpu::batch_norm {

constexpr int64_t kBlock = 4096;  // elements whose sums are kept apart until they are merged

// Whether C is the contiguous dimension: channels_last, or nothing but N and C.
inline bool by_rows(const Tensor& z, at::MemoryFormat format) {
  return format != at::MemoryFormat::Contiguous || z.numel() == z.size(0) * z.size(1);
}

// Count, mean and M2 of some values; they merge exactly, in any grouping. (Chan et al., 1983.)
struct Moments {
  double count = 0.0, mean = 0.0, m2 = 0.0;

  // From Σ(z − near) and Σ(z − near)², `near` being the mean but for its rounding.
  TRGL_INLINE static Moments around(double near, int64_t count, double distance, double squares) {
    const double n = static_cast<double>(count), shift = distance / n;
    if (!std::isfinite(near)) {  // the mean is what the sum says: ∞, −∞ or NaN
      return {n, near, std::nan("")};
    }
    return {n, near + shift, squares - distance * shift};
  }

  void merge(const Moments& other) {
    const double total = count + other.count;
    if (total == 0.0) {
      return;
    }
    if (!std::isfinite(mean) || !std::isfinite(other.mean)) {
      *this = {total, mean + other.mean, std::nan("")};
      return;
    }
    const double delta = other.mean - mean;
    mean += delta * (other.count / total);
    m2 += other.m2 + delta * delta * (count * other.count / total);
    count = total;
  }
};

// Σg and Σg·(z − μ).
struct Sums {
  double g = 0.0, gd = 0.0;
};

template <class T, class A = Accumulator<T>>
struct Forward {
  const T* z;       // [N, C, S] or [N, S, C]
  const T* x;       // the same
  T* y;             // the same
  const A* weight;  // [C] or null
  const A* bias;    // [C] or null
  const A* keep;    // [N] or null
  A* mean;          // [C]
  A* rstd;          // [C]
  A* running_mean;  // [C] or null
  A* running_var;   // [C] or null
  Moments* blocks;  // [C, blocks] or [blocks, C]
  A* partial;       // [N, parts], the energy's
  double momentum;
  double eps;
  A p;
  A floor;
  bool streamed;  // y is written past the caches
};

// Takes channel c's statistics from its moments, and moves the running ones.
template <class T>
void finish_statistics(const Forward<T>& a, int64_t c, const Moments& moments) {
  using A = Accumulator<T>;
  const double var = moments.m2 / moments.count;
  a.mean[c] = static_cast<A>(moments.mean);
  a.rstd[c] = static_cast<A>(1.0 / std::sqrt(var + a.eps));
  if (a.running_mean) {
    const double unbiased = moments.m2 / (moments.count - 1.0), decay = 1.0 - a.momentum;
    a.running_mean[c] = static_cast<A>(a.momentum * moments.mean + decay * a.running_mean[c]);
    a.running_var[c] = static_cast<A>(a.momentum * unbiased + decay * a.running_var[c]);
  }
}

// What batch normalization with a ReLU and nothing else reads and writes.
template <class T, class A = Accumulator<T>>
struct Rectified {
  const T* z;       // [N, C, S] or [N, S, C]
  T* y;             // the same
  const A* weight;  // [C] or null
  const A* bias;    // [C] or null
  const A* mean;    // [C]
  const A* rstd;    // [C]
  bool streamed;    // y is written past the caches
};

// γ·(z − μ)·rstd + β with slope = γ·rstd. Forward and backward of a ReLU behind it must agree on
// its sign to the last bit: this is the one place where both compute it, with the same roundings.
template <class V, class S>
TRGL_INLINE V normalized(V centred, S slope, S bias) {
  return centred * slope + bias;
}

// Where the mask of the ReLU comes from: there is none, its output, or its input computed again.
enum class Mask { none, output, again };

template <class T, class A = Accumulator<T>>
struct Backward {
  const T* grad_y;       // [N, C, S] or [N, S, C]
  const A* grad_energy;  // [N] or null
  const T* z;            // as grad_y
  const T* y;            // as grad_y, only with Mask::output
  const A* mean;         // [C]
  const A* rstd;         // [C]
  const A* slope;        // [C], γ·rstd
  const A* bias;         // [C]
  const A* keep;         // [N] or null
  T* grad_z;             // as grad_y, or null
  T* grad_x;             // as grad_y, or null
  Sums* blocks;          // [C, blocks] or [blocks, C]
  A* mean_g;             // [C], Σg / M
  A* mean_gd;            // [C], rstd²·Σg·(z − μ) / M
  A p;
  bool at_once;   // evaluation: the first pass writes grad_z
  bool streamed;  // grad_z and grad_x are written past the caches
};

// What the gradient needs of a channel; V is a value, or a vector of channels.
template <class V>
struct Channel {
  V mean, slope, bias, mean_g, mean_gd;
};

// What the gradient needs of a sample: g = keep·∂L/∂u + weight·BN(z) at p = 2, and with the slope
// of |q|^p in place of BN(z) elsewhere.
template <Power P, class A>
struct Sample {
  A keep, weight;

  template <class T>
  TRGL_INLINE Sample(const Backward<T>& a, int64_t n)
      : keep(a.keep ? a.keep[n] : A(1)), weight(P == Power::none ? A(0) : a.grad_energy[n]) {
    weight *= P == Power::two ? A(2) * keep * keep : keep;
  }
};

// g = ∂L/∂BN(z) and z − μ at one place; writes the gradient of x where this pass does, and in
// evaluation the first pass also writes that of z, which no sum enters.
template <Power P, Mask MASK, bool FIRST, int W, class T, class C, class A = Accumulator<T>>
TRGL_INLINE std::pair<simd::Vector<A, W>, simd::Vector<A, W>> gradient(
    const Backward<T>& a, int64_t at, const C& channel, const Sample<P, A>& sample) {
  auto g = simd::load<W>(a.grad_y + at);
  const simd::Vector<A, W> centred = simd::load<W>(a.z + at) - channel.mean;
  if constexpr (MASK == Mask::again) {
    g = simd::mask<A, W>(g, normalized(centred, channel.slope, channel.bias));
  } else if constexpr (MASK == Mask::output) {
    g = simd::mask<A, W>(g, simd::load<W>(a.y + at));
  }
  if (a.grad_x) {
    simd::store<W>(a.grad_x + at, g, a.streamed);
  }
  if constexpr (MASK != Mask::again) {
    g = g * sample.keep;
  }
  if constexpr (P != Power::none) {
    const simd::Vector<A, W> u = normalized(centred, channel.slope, channel.bias);
    if constexpr (P == Power::two) {
      g += u * sample.weight;
    } else {
      const simd::Vector<A, W> q = u * sample.keep;
      g += simd::slope<P, A, W>(q, a.p) * sample.weight;
    }
  }
  if constexpr (FIRST) {
    if (a.at_once) {
      simd::store<W>(a.grad_z + at, g * channel.slope, a.streamed);
    }
  }
  return {g, centred};
}

// The gradient of z at one place, from what `gradient` gives.
template <int W, class T, class C, class A = Accumulator<T>>
TRGL_INLINE void store_gradient_of_z(
    const Backward<T>& a,
    int64_t at,
    const C& channel,
    const std::pair<simd::Vector<A, W>, simd::Vector<A, W>>& of) {
  const auto& [g, centred] = of;
  const auto grad = (g - channel.mean_g - centred * channel.mean_gd) * channel.slope;
  simd::store<W>(a.grad_z + at, grad, a.streamed);
}

}  // namespace trgl::cpu::batch_norm

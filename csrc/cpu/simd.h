// Vectors of a compile-time number of bytes, and the choice of the widest that the machine has.
//
// A kernel is a struct with a template `run<BYTES>(args...)`; `dispatch<Kernel>(args...)` calls the
// instance compiled for the instruction set found at run time. The compilers' vector extension
// keeps one source for every width. Everything inside a kernel is forced inline, because code
// takes on the instruction set of the function that it is inlined into.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

// vectors are passed between inlined functions only, so that their calling convention is moot
#pragma GCC diagnostic ignored "-Wpsabi"

#define TRGL_INLINE inline __attribute__((always_inline))
#define TRGL_INLINE_LAMBDA __attribute__((always_inline))

namespace trgl::simd {

template <class E, int W>
struct VectorOf {
  typedef E type __attribute__((vector_size(sizeof(E) * W)));
};

template <class E, int W>
using Vector = typename VectorOf<E, W>::type;

// float for float32 and narrower, double for float64.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

// All lanes alike, by way of memory. An operator between a scalar and a vector is no substitute:
// GCC expands it before inlining, where it knows nothing of wide vectors, into an insertion per
// lane.
template <class A, int W>
TRGL_INLINE Vector<A, W> broadcast(A value) {
  A lanes[W];
  for (A& lane : lanes) {
    lane = value;
  }
  Vector<A, W> out;
  std::memcpy(&out, lanes, sizeof(out));
  return out;
}

// W bfloat16 → float: the upper half of a float's bits.
template <int W>
TRGL_INLINE Vector<float, W> widen_bfloat16(Vector<uint16_t, W> bits) {
  return (Vector<float, W>)(__builtin_convertvector(bits, Vector<uint32_t, W>) << 16);
}

// To the nearest, ties to even; every NaN becomes 0x7fc0, as in PyTorch.
template <int W>
TRGL_INLINE Vector<uint16_t, W> narrow_bfloat16(Vector<float, W> value) {
  const auto bits = (Vector<uint32_t, W>)value;
  auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  rounded = value == value ? rounded : (rounded & 0u) + 0x7fc0u;
  return __builtin_convertvector(rounded, Vector<uint16_t, W>);
}

// W float16 → float. The exponent's bias grows from 15 to 127; infinity and NaN get the full
// exponent. A subnormal counts units of 2^-24, as the last place of 1/2 does: no float in between
// is subnormal, which a processor may be told to take for 0.
template <int W>
TRGL_INLINE Vector<float, W> widen_half(Vector<uint16_t, W> half) {
  const auto bits = __builtin_convertvector(half, Vector<uint32_t, W>);
  const auto magnitude = bits & 0x7fffu;
  const auto small = (Vector<uint32_t, W>)((Vector<float, W>)(magnitude + 0x3f000000u) - 0.5f);
  auto wide = magnitude < 0x400u ? small : (magnitude << 13) + 0x38000000u;
  wide |= magnitude >= 0x7c00u ? (wide & 0u) + 0x7f800000u : wide & 0u;
  return (Vector<float, W>)(wide | ((bits & 0x8000u) << 16));
}

// To the nearest, ties to even. Below 2^-14 a float16 counts units of 2^-24: adding 1/2 makes the
// float's last place that unit, so that the sum's own rounding is the wanted one.
template <int W>
TRGL_INLINE Vector<uint16_t, W> narrow_half(Vector<float, W> value) {
  const auto bits = (Vector<uint32_t, W>)value;
  const auto sign = (bits >> 16) & 0x8000u;
  const auto magnitude = bits & 0x7fffffffu;
  const auto small = (Vector<uint32_t, W>)((Vector<float, W>)magnitude + 0.5f) - 0x3f000000u;
  const auto normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  auto half = magnitude < 0x38800000u ? small : normal;
  half = magnitude >= 0x477ff000u ? (half & 0u) + 0x7c00u : half;
  half = magnitude > 0x7f800000u ? (half & 0u) + 0x7e00u : half;
  return __builtin_convertvector(half | sign, Vector<uint16_t, W>);
}

template <int W, class T>
TRGL_INLINE Vector<Accumulator<T>, W> load(const T* from) {
  if constexpr (std::is_same_v<T, c10::BFloat16> || std::is_same_v<T, c10::Half>) {
    Vector<uint16_t, W> bits;
    std::memcpy(&bits, from, sizeof(bits));
    if constexpr (std::is_same_v<T, c10::BFloat16>) {
      return widen_bfloat16<W>(bits);
    } else {
      return widen_half<W>(bits);
    }
  } else {
    Vector<T, W> value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
}

// The values as they lie in memory.
template <class T, int W>
TRGL_INLINE auto narrow(Vector<Accumulator<T>, W> value) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    return narrow_bfloat16<W>(value);
  } else if constexpr (std::is_same_v<T, c10::Half>) {
    return narrow_half<W>(value);
  } else {
    return value;
  }
}

// Through the caches; or past them where `streamed`, the processor can and `to` is aligned for it.
// What went past them is in memory for other threads when `dispatch` returns. (An instruction by
// name, because an intrinsic cannot be inlined into a function without its instruction set; clang
// wants that set even for the name, and stores through the caches.)
template <int W, class T>
TRGL_INLINE void store(T* to, Vector<Accumulator<T>, W> value, bool streamed = false) {
  const auto bits = narrow<T, W>(value);
#if defined(__x86_64__) && !defined(__clang__)
  constexpr size_t size = sizeof(bits), width = sizeof(value);
  if constexpr (size >= 16) {
    if (streamed && reinterpret_cast<uintptr_t>(to) % size == 0) {
      char (&memory)[size] = *reinterpret_cast<char (*)[size]>(to);
      if constexpr (width == 16) {  // the encoding of the instruction set that a kernel runs on
        asm("movntps %1, %0" : "=m"(memory) : "x"(bits));
      } else {
        asm("vmovntps %1, %0" : "=m"(memory) : "v"(bits));
      }
      return;
    }
  }
#endif
  std::memcpy(to, &bits, sizeof(bits));
}

// Sum of the lanes, in their order.
template <class A, int W>
TRGL_INLINE A sum(Vector<A, W> v) {
  A total = v[0];
  for (int lane = 1; lane < W; ++lane) {
    total += v[lane];
  }
  return total;
}

// max(u, floor) that lets NaN through: a ReLU with floor 0, the identity with floor −∞.
template <class A, int W>
TRGL_INLINE Vector<A, W> at_least(Vector<A, W> u, A floor) {
  const auto floors = broadcast<A, W>(floor);
  return u <= floors ? floors : u;
}

// The gradient behind a ReLU: it passes wherever y is not ≤ 0.
template <class A, int W>
TRGL_INLINE Vector<A, W> mask(Vector<A, W> grad, Vector<A, W> y) {
  return y <= A(0) ? Vector<A, W>{} : grad;
}

// How |q|^p is computed.
enum class Power { none, two, any };

// |q|.
template <class A, int W>
TRGL_INLINE Vector<A, W> absolute(Vector<A, W> q) {
  return q < A(0) ? -q : q;
}

template <class A, int W>
TRGL_INLINE Vector<A, W> square_root(Vector<A, W> v) {
  for (int lane = 0; lane < W; ++lane) {
    v[lane] = std::sqrt(v[lane]);
  }
  return v;
}

// pow of each lane, one after the other.
template <class A, int W>
TRGL_INLINE Vector<A, W> raised(Vector<A, W> size, A exponent) {
  A lanes[W];
  std::memcpy(lanes, &size, sizeof(size));
#pragma GCC unroll 1
  for (int lane = 0; lane < W; ++lane) {
    lanes[lane] = std::pow(lanes[lane], exponent);
  }
  std::memcpy(&size, lanes, sizeof(size));
  return size;
}

// |q|^p, without pow for the exponents that people use: it takes ten times as long as all the rest.
template <Power P, class A, int W>
TRGL_INLINE Vector<A, W> power(Vector<A, W> q, A p) {
  if constexpr (P == Power::two) {
    return q * q;
  } else {
    const auto size = absolute<A, W>(q);
    if (p == A(1)) {
      return size;
    }
    if (p == A(1.5)) {
      return size * square_root<A, W>(size);
    }
    if (p == A(3)) {
      return size * size * size;
    }
    return raised<A, W>(size, p);
  }
}

// p |q|^(p-1) sign(q), 0 at q = 0.
template <Power P, class A, int W>
TRGL_INLINE Vector<A, W> slope(Vector<A, W> q, A p) {
  if constexpr (P == Power::two) {
    return A(2) * q;
  } else {
    auto size = absolute<A, W>(q);
    if (p == A(1)) {  // at NaN too it is 0, as in PyTorch
      const auto one = broadcast<A, W>(A(1));
      return q > A(0) ? one : (q < A(0) ? -one : Vector<A, W>{});
    }
    if (p == A(1.5)) {
      size = p * square_root<A, W>(size);
    } else if (p == A(3)) {
      size = p * size * size;
    } else {
      size = p * raised<A, W>(size, p - A(1));
    }
    return q > A(0) ? size : (q < A(0) ? -size : q);
  }
}

enum class Isa { base, avx2, avx512 };

// The widest instruction set of this machine; TRGL_KERNELS_CPU_ISA (base, avx2, avx512) lowers it.
Isa isa();

#if defined(__x86_64__)
#define TRGL_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define TRGL_TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")))

template <class Kernel, class... Args>
TRGL_TARGET_AVX2 void run_avx2(Args... args) {
  Kernel::template run<32>(args...);
}

template <class Kernel, class... Args>
TRGL_TARGET_AVX512 void run_avx512(Args... args) {
  Kernel::template run<64>(args...);
}
#endif

// Arguments go by value: the stores of a kernel may reach whatever a reference leads to, which
// would be read again after each of them.
template <class Kernel, class... Args>
void dispatch(Args... args) {
#if defined(__x86_64__)
  switch (isa()) {
    case Isa::avx512:
      run_avx512<Kernel>(args...);
      break;
    case Isa::avx2:
      run_avx2<Kernel>(args...);
      break;
    case Isa::base:
      Kernel::template run<16>(args...);
  }
  __builtin_ia32_sfence();
#else
  Kernel::template run<16>(args...);
#endif
}

}  // namespace trgl::simd

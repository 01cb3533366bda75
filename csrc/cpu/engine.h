// What the CPU kernels share: threads, layouts, types.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "../arguments.h"
#include "simd.h"

namespace trgl::cpu {

using simd::Accumulator;
using simd::Power;

// Elements below which a second thread costs more than it gains (PyTorch's own grain).
constexpr int64_t kGrain = 32768;

// Elements that one vector of float32 sums takes up before it is added to the next level: long
// running sums lose their last digits, and on the coarse grid of bfloat16 always to the same side.
constexpr int64_t kRun = 1024;
constexpr int64_t kFold = 16 * kRun;  // and those that go on to a double

// Calls f(begin, end) on ranges of `units`, each about `elements` large, on PyTorch's own threads:
// through libtorch, since a parallel region compiled here would start a second pool beside it.
template <class F>
void parallel_for(int64_t units, int64_t elements, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements));
  if (units <= grain) {
    if (units > 0) {
      f(int64_t{0}, units);
    }
    return;
  }
  auto call = [](int64_t begin, int64_t end, void* context) {
    (*static_cast<const F*>(context))(begin, end);
  };
  // what a range throws ends here as a code, and its part of the outputs was not written
  const auto code =
      torch_parallel_for(0, units, grain, call, const_cast<void*>(static_cast<const void*>(&f)));
  TORCH_CHECK(
      code == AOTI_TORCH_SUCCESS,
      "trgl: a thread of an operator failed, most likely because memory ran out; what it threw was "
      "written to the error output. Use a smaller batch or fewer threads.");
}

inline int64_t thread_count() {
  uint32_t count = 1;
  torch_get_num_threads(&count);
  return count;
}

inline int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Bytes of a map for each thread from which on it is written past the caches. Through them each
// line is read before it is written, but whoever reads a small map next finds it there. On an EPYC,
// two threads and 32 MiB of last cache, additions gain at 8 MiB a fifth and lose a quarter at 4
// MiB.
constexpr int64_t kStreamed = int64_t{4} << 20;

// Whether `map`, whose rows or planes are `run` elements each, is written past the caches. They
// must be whole lines: one that is filled in part past the caches and in part through them takes
// several times as long (EPYC, rows of 20 floats).
inline bool streamed(const Tensor& map, int64_t run) {
  constexpr int64_t line = 64;
  return run * static_cast<int64_t>(map.element_size()) % line == 0 &&
         static_cast<int64_t>(map.nbytes()) >= thread_count() * kStreamed;
}

// Layout of an output that follows t: channels_last where it is so, else contiguous.
inline at::MemoryFormat memory_format(const Tensor& t) {
  if (t.is_contiguous()) {
    return at::MemoryFormat::Contiguous;
  }
  if (t.dim() == 4 && t.is_contiguous(at::MemoryFormat::ChannelsLast)) {
    return at::MemoryFormat::ChannelsLast;
  }
  if (t.dim() == 5 && t.is_contiguous(at::MemoryFormat::ChannelsLast3d)) {
    return at::MemoryFormat::ChannelsLast3d;
  }
  return at::MemoryFormat::Contiguous;
}

// `t` with the given type and layout; itself where it has them.
inline Tensor as(const Tensor& t, at::ScalarType type, at::MemoryFormat format) {
  return (t.scalar_type() == type ? t : t.to(type)).contiguous(format);
}

inline at::ScalarType accumulator_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

// A small vector of options (scale, keep, weight, …) as the kernels read it.
inline OptionalTensor as_vector(const OptionalTensor& t, at::ScalarType type) {
  if (!t) {
    return std::nullopt;
  }
  return as(*t, type, at::MemoryFormat::Contiguous);
}

template <class A>
const A* data_or_null(const OptionalTensor& t) {
  return t ? t->const_data_ptr<A>() : nullptr;
}

// Calls f with a value of the C++ type that stands for `type`, one of those that check_pair lets
// in.
template <class F>
void for_type(at::ScalarType type, const F& f) {
  switch (type) {
    case at::kFloat:
      return f(float{});
    case at::kDouble:
      return f(double{});
    case at::kBFloat16:
      return f(c10::BFloat16{});
    default:
      return f(c10::Half{});
  }
}

// Calls f with the power that the energy needs as a compile-time constant.
template <class F>
void for_power(bool with_energy, double p, const F& f) {
  if (!with_energy) {
    return f(std::integral_constant<Power, Power::none>{});
  }
  if (p == 2.0) {
    return f(std::integral_constant<Power, Power::two>{});
  }
  return f(std::integral_constant<Power, Power::any>{});
}

template <class A>
A activation_floor(std::string_view activation) {
  return activation == "relu" ? A(0) : -std::numeric_limits<A>::infinity();
}

}  // namespace trgl::cpu

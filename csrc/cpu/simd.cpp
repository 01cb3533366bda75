#include "simd.h"

#include <cstdlib>
#include <string_view>

namespace trgl::simd {

namespace {

Isa widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return Isa::avx2;
  }
#endif
  return Isa::base;
}

Isa choose() {
  const Isa best = widest();
  const char* asked = std::getenv("TRGL_KERNELS_CPU_ISA");
  if (asked == nullptr) {
    return best;
  }
  const std::string_view name = asked;
  const Isa wanted = name == "base" ? Isa::base : name == "avx2" ? Isa::avx2 : Isa::avx512;
  return wanted < best ? wanted : best;
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace trgl::simd

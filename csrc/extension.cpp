// What the compiled part says about itself. Its operators register themselves when the library is
// loaded (csrc/cpu, csrc/autograd); nothing in it depends on Python.
#include "cpu/engine.h"

// The instruction set that the CPU kernels use on this machine.
extern "C" __attribute__((visibility("default"))) const char* trgl_simd_level() {
  using trgl::simd::Isa;
  switch (trgl::simd::isa()) {
    case Isa::avx512:
      return "AVX512";
    case Isa::avx2:
      return "AVX2";
    case Isa::base:
      return "baseline";
  }
  return "unknown";
}

// The bytes of a map for each thread from which on the CPU kernels write it past the caches.
extern "C" __attribute__((visibility("default"))) int64_t trgl_streamed_bytes() {
  return trgl::cpu::kStreamed;
}

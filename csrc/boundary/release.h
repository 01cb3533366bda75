// Giving a storage's memory back while tensors still refer to it: every later touch raises.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace trgl::boundary {

// The storage of a tensor; nullptr where it has none.
c10::StorageImpl* storage_of(const at::Tensor& t);

// Where a storage's memory is; 0 where it was released. Asks nothing of the storage's own checks.
int64_t address_of(const c10::StorageImpl& storage);

// Why the memory of this storage cannot be given back safely; empty where it can.
std::string refusal(const c10::StorageImpl& storage);

// Gives the memory of a storage back to its allocator, in stream order on a device, and returns the
// bytes freed: 0 where it was given back before.
//
// Through whichever tensor the storage is touched later, torch raises `message`. With `poison` the
// bytes are 0xff first, which is NaN in every floating-point type, for whoever reads the memory
// through a pointer that torch does not know of.
//
// Raises ValueError where refusal() has a reason.
int64_t release(c10::StorageImpl& storage, const std::string& message, bool poison);

}  // namespace trgl::boundary

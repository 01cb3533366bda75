// What was made while a boundary was open, noted operator by operator: weak pointers to the
// storages of everything that operators returned, in forward and in backward.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>
#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "counters.h"

namespace trgl::boundary {

// A storage that was made inside, as the operator that made it returned it.
struct Made {
  c10::weak_intrusive_ptr<c10::StorageImpl> storage;
  std::vector<int64_t> shape;
  std::string type;  // as Python prints it
  std::string op;
};

class Finder {
 public:
  // On the CPU a storage knows its tally. On a device it counts as made inside where an operator
  // returned it that was not given it, and no other operator was given it before: inputs are noted
  // with `devices` only, because they cost time.
  Finder(const Tally* tally, bool devices);

  void saw_input(const at::Tensor& t);
  void saw_output(const at::Tensor& t, const char* op);

  // What was made inside and is still held: pointer and how it was made.
  std::vector<std::pair<c10::intrusive_ptr<c10::StorageImpl>, Made>> held();
  // One of these; empty where it is gone, or was not made inside.
  c10::intrusive_ptr<c10::StorageImpl> held(const c10::StorageImpl* storage);
  bool made(const c10::StorageImpl* storage);

  const bool devices;

 private:
  const Tally* const tally_;
  std::mutex mutex_;  // backward runs in threads of its own on a device
  std::unordered_map<const c10::StorageImpl*, Made> made_;
  // weak pointers: while one is there, no other storage can have the address
  std::unordered_map<const c10::StorageImpl*, c10::weak_intrusive_ptr<c10::StorageImpl>> others_;
};

// Shows a finder every operator that this thread runs, and those that autograd runs for it.
class Watch {
 public:
  explicit Watch(std::shared_ptr<Finder> finder);
  ~Watch();  // in the thread that began it
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // False where too many boundaries of this process find at this moment.
  bool began() const {
    return slot_ >= 0;
  }

 private:
  int slot_ = -1;
  at::CallbackHandle callback_ = at::INVALID_CALLBACK_HANDLE;
};

}  // namespace trgl::boundary

#include "counters.h"

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>

#include <limits>
#include <mutex>

namespace trgl::boundary {

namespace {

// What stands before each counted block. Its size is the alignment of torch's CPU memory, which the
// block behind it keeps. The seal, next to the block, tells it from one that was not counted.
struct alignas(64) Header {
  Tally* tally;
  int64_t bytes;
  uint64_t unused[5];
  uint64_t seal;
};
static_assert(sizeof(Header) == 64);

c10::Allocator* behind = nullptr;  // set once, before the first counted block

struct Current {
  Tally* tally = nullptr;
  ~Current() {
    set_current(nullptr);
  }
};
thread_local Current of_this_thread;

Header* header_of(void* block) {
  return static_cast<Header*>(block) - 1;
}

uint64_t seal_of(const void* block) {
  return reinterpret_cast<uintptr_t>(block) ^ 0x9e3779b97f4a7c15u;
}

void free_counted(void* block) {
  if (block == nullptr) {
    return;
  }
  Header* header = header_of(block);
  header->seal = 0;
  header->tally->freed(header->bytes);
  header->tally->release();
  behind->raw_deallocate(header);
}

// For raw_deallocate, which libraries also call with what they took before counting began. What
// stands before such a block is malloc's own word about it, and readable; AddressSanitizer calls it
// the end of another block.
__attribute__((no_sanitize("address"))) void free_any(void* block) {
  if (block != nullptr && header_of(block)->seal != seal_of(block)) {
    behind->raw_deallocate(block);
  } else {
    free_counted(block);
  }
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* block = nullptr;
    if (bytes > 0) {
      TORCH_CHECK(
          bytes <= static_cast<size_t>(std::numeric_limits<int64_t>::max()) - sizeof(Header),
          "the CPU has no memory of ", bytes, " bytes");
      Tally* tally = current();
      Header* header = static_cast<Header*>(behind->raw_allocate(bytes + sizeof(Header)));
      tally->retain();
      block = header + 1;
      *header = {tally, static_cast<int64_t>(bytes), {}, seal_of(block)};
      tally->allocated(header->bytes);
    }
    return {block, block, &free_counted, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &free_any;
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

}  // namespace

Tally::Tally(Tally* parent) : parent_(parent) {
  if (parent_ != nullptr) {
    parent_->retain();
  }
}

void Tally::allocated(int64_t bytes) {
  for (Tally* tally = this; tally != nullptr; tally = tally->parent_) {
    tally->total.fetch_add(bytes, std::memory_order_relaxed);
    if (bytes > kSmall) {
      tally->large.fetch_add(bytes, std::memory_order_relaxed);
    }
    const int64_t now = tally->live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    int64_t highest = tally->peak.load(std::memory_order_relaxed);
    while (highest < now &&
           !tally->peak.compare_exchange_weak(highest, now, std::memory_order_relaxed)) {
    }
  }
}

void Tally::freed(int64_t bytes) {
  for (Tally* tally = this; tally != nullptr; tally = tally->parent_) {
    tally->live.fetch_sub(bytes, std::memory_order_relaxed);
    if (bytes > kSmall) {
      tally->large.fetch_sub(bytes, std::memory_order_relaxed);
    }
  }
}

bool Tally::is_or_is_inside(const Tally* other) const {
  const Tally* tally = this;
  while (tally != nullptr && tally != other) {
    tally = tally->parent_;
  }
  return tally != nullptr;
}

void Tally::retain() {
  references_.fetch_add(1, std::memory_order_relaxed);
}

void Tally::release() {
  Tally* tally = this;
  while (tally != nullptr && tally->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    Tally* const parent = tally->parent_;
    delete tally;
    tally = parent;
  }
}

Tally& process() {
  // never destroyed: blocks are freed until the process is gone
  static Tally* const all = new Tally(nullptr);
  return *all;
}

Tally* current() {
  return of_this_thread.tally == nullptr ? &process() : of_this_thread.tally;
}

void set_current(Tally* tally) {
  Tally* const before = of_this_thread.tally;
  if (tally != nullptr) {
    tally->retain();
  }
  of_this_thread.tally = tally;
  if (before != nullptr) {
    before->release();
  }
}

bool count_cpu_allocations() {
  static std::once_flag once;
  static bool counting = false;
  std::call_once(once, [] {
    c10::Allocator* found = c10::GetAllocator(c10::DeviceType::CPU);
    if (found == nullptr || found->raw_deleter() == nullptr) {
      return;
    }
    behind = found;
    static CountingAllocator* const counter = new CountingAllocator;
    // the highest priority: SetAllocator ignores whoever has less than the one before
    c10::SetAllocator(c10::DeviceType::CPU, counter, std::numeric_limits<uint8_t>::max());
    counting = c10::GetAllocator(c10::DeviceType::CPU) == counter;
  });
  return counting;
}

bool is_counted(const c10::DataPtr& pointer) {
  return pointer.get() != nullptr && pointer.get_deleter() == &free_counted &&
         pointer.get_context() == pointer.get();
}

bool is_uncounted(const c10::DataPtr& pointer) {
  c10::Allocator* const first =
      behind == nullptr ? c10::GetAllocator(c10::DeviceType::CPU) : behind;
  return pointer.get() != nullptr && pointer.get_deleter() == first->raw_deleter() &&
         pointer.get_context() == pointer.get();
}

const Tally* birth(const c10::StorageImpl& storage) {
  // the checked accessors throw on released memory and would copy a lazy clone
  const auto& pointer = const_cast<c10::StorageImpl&>(storage)._mutable_data_ptr_no_checks();
  return is_counted(pointer) ? header_of(pointer.get())->tally : nullptr;
}

}  // namespace trgl::boundary

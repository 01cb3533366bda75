// Who allocated what on the CPU: an allocator in front of torch's that writes a header before each
// block, and one tally per boundary. A block knows the boundary it was made in for as long as it
// lives, so that "made inside" is a fact and not a guess. Devices with a caching allocator count
// for themselves.
#pragma once

#include <c10/core/StorageImpl.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace trgl::boundary {

// Storages of at most this many bytes stay readable: a logged value survives its boundary.
constexpr int64_t kSmall = 4096;

// Bytes allocated by the threads that work for one boundary; those of boundaries inside it count
// too.
class Tally {
 public:
  explicit Tally(Tally* parent);  // the enclosing tally, which it keeps alive

  void allocated(int64_t bytes);
  void freed(int64_t bytes);
  bool is_or_is_inside(const Tally* other) const;
  Tally* parent() const {
    return parent_;
  }

  // kept alive by its boundary and by every block that was made in it
  void retain();
  void release();

  std::atomic<int64_t> total{0};  // bytes requested so far
  std::atomic<int64_t> live{0};   // of these, not freed yet
  std::atomic<int64_t> large{0};  // of these, in blocks of more than kSmall
  std::atomic<int64_t> peak{0};   // maximum of live

 private:
  ~Tally() = default;
  Tally* const parent_;
  std::atomic<int64_t> references_{1};
};

// Puts the counting allocator in front of the CPU's; false where that one has no plain pointers.
bool count_cpu_allocations();

// The tally of the whole process since counting began; it lives forever.
Tally& process();

// The tally that this thread's allocations go to; the thread keeps it alive.
Tally* current();
void set_current(Tally* tally);

// The tally that a CPU storage was allocated under; nullptr for memory that was not counted.
const Tally* birth(const c10::StorageImpl& storage);

// Whether a pointer is just as the counting allocator handed it out.
bool is_counted(const c10::DataPtr& pointer);

// Whether it is just as the CPU's own allocator handed it out, before counting began.
bool is_uncounted(const c10::DataPtr& pointer);

}  // namespace trgl::boundary

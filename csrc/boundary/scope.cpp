#include "scope.h"

#include <ATen/SequenceNumber.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/csrc/autograd/function.h>
#include <torch/library.h>

#include <limits>
#include <unordered_set>

#include "release.h"

namespace trgl::boundary {

namespace {

// The statistics that the caching allocator of CUDA keeps anyway; zeros before it is in use.
c10::CachingAllocator::Stat device_bytes(int64_t device) {
  auto* const allocator =
      dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
  if (allocator == nullptr || !allocator->initialized()) {
    return {};
  }
  return allocator->getDeviceStats(static_cast<c10::DeviceIndex>(device)).requested_bytes[0];
}

// shared_ptr or intrusive_ptr, as torch's version has it
using NodePointer = decltype(torch::autograd::Edge::function);

int64_t key(const c10::StorageImpl* storage) {
  return reinterpret_cast<int64_t>(storage);
}

}  // namespace

Scope::Scope(int64_t device, bool find)
    : tally_(new Tally(current())),
      device_(device),
      first_node_(at::sequence_number::peek()),
      thread_(at::RecordFunction::currentThreadId()) {
  if (device_ >= 0) {
    const auto stat = device_bytes(device_);
    requested_before_ = stat.allocated;
    live_before_ = stat.current;
    peak_before_ = stat.peak;
  }
  if (find) {
    finder_ = std::make_shared<Finder>(tally_, device_ >= 0);
    watch_ = std::make_unique<Watch>(finder_);
    if (!watch_->began()) {  // all places are taken: this step counts, and finds through Python
      watch_.reset();
      finder_.reset();
    }
  }
  set_current(tally_);
}

Scope::~Scope() {
  // never closed: its thread may be gone, and what it watches is nobody's
  if (thread_ == at::RecordFunction::currentThreadId()) {
    stop();
  } else if (watch_ != nullptr) {
    watch_.release();
  }
  tally_->release();
}

void Scope::stop() {
  watch_.reset();
  if (current() == tally_) {
    Tally* const parent = tally_->parent();
    set_current(parent == &process() ? nullptr : parent);
  }
}

std::vector<int64_t> Scope::close(const std::vector<at::Tensor>& outliving) {
  stop();
  return bytes(outliving);
}

std::vector<int64_t> Scope::bytes(const std::vector<at::Tensor>& outliving) const {
  int64_t large = tally_->large;
  int64_t on_device = 0;
  std::unordered_set<const c10::StorageImpl*> counted;
  for (const at::Tensor& t : outliving) {
    const c10::StorageImpl* const storage = storage_of(t);
    if (storage == nullptr || !counted.insert(storage).second) {
      continue;
    }
    const auto size = static_cast<int64_t>(storage->nbytes());
    const Tally* const tally = birth(*storage);
    if (storage->device_type() == c10::DeviceType::CUDA) {
      on_device += storage->device().index() == device_ ? size : 0;
    } else if (tally != nullptr && tally->is_or_is_inside(tally_) && size > kSmall) {
      large -= size;
    }
  }
  std::vector<int64_t> counts{tally_->total, tally_->live, large, tally_->peak, 0, 0, 0, 0};
  if (device_ >= 0) {
    const auto stat = device_bytes(device_);
    const int64_t growth = stat.current - live_before_;
    counts[4] = stat.allocated - requested_before_;
    counts[5] = growth;
    counts[6] = growth - on_device;
    counts[7] = stat.peak > peak_before_ ? stat.peak - live_before_ : -1;
  }
  return counts;
}

bool Scope::finds() const {
  return finder_ != nullptr;
}

std::vector<int64_t> Scope::made(const std::vector<at::Tensor>& tensors) const {
  std::vector<int64_t> answers;
  answers.reserve(tensors.size());
  for (const at::Tensor& t : tensors) {
    const c10::StorageImpl* const storage = storage_of(t);
    if (storage == nullptr || storage->device_type() == c10::DeviceType::CPU) {
      const Tally* const tally = storage == nullptr ? nullptr : birth(*storage);
      answers.push_back(tally != nullptr && tally->is_or_is_inside(tally_));
    } else if (storage->device_type() != c10::DeviceType::CUDA) {
      answers.push_back(0);
    } else {
      const bool known = finder_ != nullptr && finder_->devices;
      answers.push_back(known ? finder_->made(storage) : -1);
    }
  }
  return answers;
}

std::vector<Scope::Held> Scope::held() {
  std::vector<Held> found;
  if (finder_ != nullptr) {
    for (const auto& [storage, made] : finder_->held()) {
      if (address_of(*storage) == 0) {
        continue;  // released before: by its user, or by a boundary inside this one
      }
      found.emplace_back(
          key(storage.get()), static_cast<int64_t>(storage->nbytes()), made.shape, made.type,
          made.op, storage->device().str(), address_of(*storage));
    }
  }
  return found;
}

c10::intrusive_ptr<c10::StorageImpl> Scope::find_held(int64_t wanted) {
  return finder_ == nullptr ? c10::intrusive_ptr<c10::StorageImpl>()
                            : finder_->held(reinterpret_cast<const c10::StorageImpl*>(wanted));
}

int64_t Scope::release_held(int64_t wanted, const std::string& message, bool poison) {
  const auto storage = find_held(wanted);
  return storage ? release(*storage, message, poison) : 0;
}

std::string Scope::refusal_of_held(int64_t wanted) {
  const auto storage = find_held(wanted);
  return storage ? refusal(*storage) : "";
}

void Scope::release_graphs(const std::vector<at::Tensor>& roots) const {
  std::unordered_set<torch::autograd::Node*> seen;
  std::vector<NodePointer> nodes;
  const auto visit = [&](const NodePointer& node) {
    // leaves have the highest number of all, and save nothing
    if (node != nullptr && node->sequence_nr() >= first_node_ &&
        node->sequence_nr() != std::numeric_limits<uint64_t>::max() &&
        node->thread_id() == thread_ && seen.insert(node.get()).second) {
      nodes.push_back(node);
    }
  };
  for (const at::Tensor& t : roots) {
    try {
      visit(t.grad_fn());
    } catch (const c10::Error&) {
      // a view of a parameter that changed since, made without gradients: PyTorch refuses to make
      // its node anew, and there is none to release
    }
  }
  for (size_t next = 0; next < nodes.size(); ++next) {
    for (const auto& edge : nodes[next]->next_edges()) {
      visit(edge.function);
    }
  }
  for (const auto& node : nodes) {
    node->release_variables();
  }
}

namespace {

// What needs no scope.
struct Memory : torch::CustomClassHolder {
  static bool count() {
    return count_cpu_allocations();
  }
  static int64_t live() {
    return process().live;
  }
  static std::vector<int64_t> keys(const std::vector<at::Tensor>& tensors) {
    std::vector<int64_t> found;
    found.reserve(tensors.size());
    for (const at::Tensor& t : tensors) {
      found.push_back(key(storage_of(t)));
    }
    return found;
  }
  static int64_t holders(const at::Tensor& t) {
    const auto* const storage = storage_of(t);
    return storage == nullptr ? 0 : static_cast<int64_t>(t.storage().use_count());
  }
  static int64_t address(const at::Tensor& t) {
    const auto* const storage = storage_of(t);
    return storage == nullptr ? 0 : address_of(*storage);
  }
  static std::string refusal_of(const at::Tensor& t) {
    const auto* const storage = storage_of(t);
    return storage == nullptr ? "it has no storage of its own" : refusal(*storage);
  }
  static int64_t release_tensor(const at::Tensor& t, const std::string& message, bool poison) {
    auto* const storage = storage_of(t);
    return storage == nullptr ? 0 : release(*storage, message, poison);
  }
};

TORCH_LIBRARY(trgl_boundary, library) {
  library.class_<Scope>("Scope")
      .def(torch::init<int64_t, bool>())
      .def("close", &Scope::close)
      .def("finds", &Scope::finds)
      .def("bytes", &Scope::bytes)
      .def("made", &Scope::made)
      .def("held", &Scope::held)
      .def("release_held", &Scope::release_held)
      .def("refusal_of_held", &Scope::refusal_of_held)
      .def("release_graphs", &Scope::release_graphs);
  library.class_<Memory>("Memory")
      .def_static("count", &Memory::count)
      .def_static("live", &Memory::live)
      .def_static("keys", &Memory::keys)
      .def_static("holders", &Memory::holders)
      .def_static("address", &Memory::address)
      .def_static("refusal", &Memory::refusal_of)
      .def_static("release", &Memory::release_tensor);
}

}  // namespace

}  // namespace trgl::boundary

#include "finding.h"

#include <ATen/core/List.h>
#include <ATen/core/ivalue.h>

#include <array>
#include <utility>

#include "release.h"

namespace trgl::boundary {

namespace {

// A callback is a plain function, which cannot hold its finder, and thread-local variables do not
// follow autograd into its threads, whereas callbacks do: so there is one function per finder.
constexpr size_t kSlots = 64;

struct Slot {
  std::mutex mutex;
  std::shared_ptr<Finder> finder;
};

std::array<Slot, kSlots>& slots() {
  static auto* const all = new std::array<Slot, kSlots>;  // threads may outlive static objects
  return *all;
}

std::shared_ptr<Finder> finder_of(size_t slot) {
  Slot& found = slots()[slot];
  const std::lock_guard<std::mutex> guard(found.mutex);
  return found.finder;
}

template <typename Visit>
void each_tensor(const c10::IValue& value, Visit visit) {
  if (value.isTensor()) {
    visit(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& t : value.toTensorVector()) {
      visit(t);
    }
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& t : value.toOptionalTensorVector()) {
      if (t) {
        visit(*t);
      }
    }
  }
}

template <size_t slot>
std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& call) {
  if (const auto finder = finder_of(slot); finder != nullptr && finder->devices) {
    for (const c10::IValue& value : call.inputs()) {
      each_tensor(value, [&](const at::Tensor& t) { finder->saw_input(t); });
    }
  }
  return nullptr;
}

template <size_t slot>
void on_end(const at::RecordFunction& call, at::ObserverContext*) {
  if (const auto finder = finder_of(slot)) {
    for (const c10::IValue& value : call.outputs()) {
      each_tensor(value, [&](const at::Tensor& t) { finder->saw_output(t, call.name()); });
    }
  }
}

using Callbacks =
    std::pair<at::RecordFunctionCallback::StartCallback, at::RecordFunctionCallback::EndCallback>;

template <size_t... slot>
constexpr std::array<Callbacks, sizeof...(slot)> callbacks_of(std::index_sequence<slot...>) {
  return {Callbacks{&on_start<slot>, &on_end<slot>}...};
}

constexpr auto kCallbacks = callbacks_of(std::make_index_sequence<kSlots>());

}  // namespace

Finder::Finder(const Tally* tally, bool devices) : devices(devices), tally_(tally) {}

void Finder::saw_input(const at::Tensor& t) {
  c10::StorageImpl* const storage = storage_of(t);
  if (storage == nullptr || storage->device_type() == c10::DeviceType::CPU) {
    return;
  }
  const std::lock_guard<std::mutex> guard(mutex_);
  if (made_.find(storage) == made_.end() && others_.find(storage) == others_.end()) {
    others_.emplace(storage, t.unsafeGetTensorImpl()->unsafe_storage().getWeakStorageImpl());
  }
}

void Finder::saw_output(const at::Tensor& t, const char* op) {
  c10::StorageImpl* const storage = storage_of(t);
  if (storage == nullptr) {
    return;
  }
  if (storage->device_type() == c10::DeviceType::CPU) {
    const Tally* const tally = birth(*storage);
    if (tally == nullptr || !tally->is_or_is_inside(tally_)) {
      return;
    }
  } else if (storage->device_type() != c10::DeviceType::CUDA || !devices) {
    return;  // without the inputs nobody knows whether it is new
  }
  const std::lock_guard<std::mutex> guard(mutex_);
  if (made_.find(storage) != made_.end() || others_.find(storage) != others_.end()) {
    return;
  }
  const std::string type(c10::getDtypeNames(t.scalar_type()).first);
  made_.emplace(
      storage, Made{
                   t.unsafeGetTensorImpl()->unsafe_storage().getWeakStorageImpl(), t.sizes().vec(),
                   "torch." + type, op});
}

std::vector<std::pair<c10::intrusive_ptr<c10::StorageImpl>, Made>> Finder::held() {
  const std::lock_guard<std::mutex> guard(mutex_);
  std::vector<std::pair<c10::intrusive_ptr<c10::StorageImpl>, Made>> found;
  for (const auto& [address, made] : made_) {
    if (auto storage = made.storage.lock()) {
      found.emplace_back(std::move(storage), made);
    }
  }
  return found;
}

c10::intrusive_ptr<c10::StorageImpl> Finder::held(const c10::StorageImpl* storage) {
  const std::lock_guard<std::mutex> guard(mutex_);
  const auto found = made_.find(storage);
  return found == made_.end() ? c10::intrusive_ptr<c10::StorageImpl>()
                              : found->second.storage.lock();
}

bool Finder::made(const c10::StorageImpl* storage) {
  const std::lock_guard<std::mutex> guard(mutex_);
  return made_.find(storage) != made_.end();
}

Watch::Watch(std::shared_ptr<Finder> finder) {
  for (size_t slot = 0; slot < kSlots && slot_ < 0; ++slot) {
    const std::lock_guard<std::mutex> guard(slots()[slot].mutex);
    if (slots()[slot].finder == nullptr) {
      slots()[slot].finder = finder;
      slot_ = static_cast<int>(slot);
    }
  }
  if (slot_ >= 0) {
    const auto [start, end] = kCallbacks[static_cast<size_t>(slot_)];
    callback_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(start, end)
            .needsInputs(finder->devices)
            .needsOutputs(true)
            .scopes({at::RecordScope::FUNCTION}));
  }
}

Watch::~Watch() {
  if (slot_ >= 0) {
    at::removeCallback(callback_);
    Slot& slot = slots()[static_cast<size_t>(slot_)];
    const std::lock_guard<std::mutex> guard(slot.mutex);
    slot.finder = nullptr;
  }
}

}  // namespace trgl::boundary

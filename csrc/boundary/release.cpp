#include "release.h"

#include <ATen/core/ATen_fwd.h>
#include <ATen/ops/fill.h>
#include <c10/core/Allocator.h>
#include <c10/core/Storage.h>
#include <c10/core/impl/COW.h>

#include <cstring>
#include <mutex>

#include "counters.h"

namespace trgl::boundary {

namespace {

c10::DataPtr& pointer_of(const c10::StorageImpl& storage) {
  // the checked accessors throw on released memory and would copy a lazy clone
  return const_cast<c10::StorageImpl&>(storage)._mutable_data_ptr_no_checks();
}

bool is_released(const c10::StorageImpl& storage) {
  return pointer_of(storage).get() == nullptr && !storage.resizable();
}

// Whether the pointer is just as an allocator of torch handed it out.
bool is_plain(const c10::DataPtr& pointer) {
  if (pointer.device().type() == c10::DeviceType::CPU) {
    return is_counted(pointer) || is_uncounted(pointer);
  }
  const c10::DeleterFnPtr deleter = c10::GetAllocator(pointer.device().type())->raw_deleter();
  return deleter != nullptr && pointer.get_deleter() == deleter &&
         pointer.get_context() == pointer.get();
}

void fill_with_nan(c10::StorageImpl& storage) {
  if (storage.device_type() == c10::DeviceType::CPU) {
    std::memset(pointer_of(storage).get(), 0xff, storage.nbytes());
    return;
  }
  // a tensor of its own, whose version counter is nobody else's
  const auto alias = c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(&storage);
  auto bytes = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(alias),
      c10::DispatchKeySet(c10::computeDispatchKey(at::kByte, c10::kStrided, storage.device())),
      caffe2::TypeMeta::Make<uint8_t>());
  bytes.unsafeGetTensorImpl()->set_sizes_contiguous({static_cast<int64_t>(storage.nbytes())});
  at::fill_(bytes, 0xff);
}

std::mutex releasing;  // two threads may release the same storage: one of them frees it

}  // namespace

c10::StorageImpl* storage_of(const at::Tensor& t) {
  // tensors that wrap others throw when asked for their storage in the ordinary way
  return t.defined() && t.unsafeGetTensorImpl()->has_storage()
             ? t.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()
             : nullptr;
}

int64_t address_of(const c10::StorageImpl& storage) {
  return reinterpret_cast<int64_t>(pointer_of(storage).get());
}

std::string refusal(const c10::StorageImpl& storage) {
  const auto& pointer = pointer_of(storage);
  const auto type = pointer.device().type();
  if (type != c10::DeviceType::CPU && type != c10::DeviceType::CUDA) {
    return "it is on " + pointer.device().str() + ", and only CPU and CUDA memory is released";
  }
  if (is_released(storage) || storage.nbytes() == 0) {
    return "";
  }
  if (c10::impl::cow::is_cow_data_ptr(pointer)) {
    return "it is a lazy clone, which shares its memory with another tensor until one is written";
  }
  if (!is_plain(pointer)) {
    return "its memory is foreign (of NumPy, a buffer, a file, shared or page-locked memory, or "
           "another library)";
  }
  if (!storage.resizable()) {
    return "its memory was handed out, to NumPy or to another process, where it may be read later";
  }
  return "";
}

int64_t release(c10::StorageImpl& storage, const std::string& message, bool poison) {
  const std::lock_guard<std::mutex> guard(releasing);
  const std::string reason = refusal(storage);
  TORCH_CHECK_VALUE(
      reason.empty(), "release: the memory must be one that can be given back safely; ", reason,
      ". Drop every reference to the tensor instead.");
  if (is_released(storage) || storage.nbytes() == 0) {
    return 0;
  }
  if (poison) {
    fill_with_nan(storage);
  }
  const auto device = storage.device();
  // the message first, which alone changes nothing; the old pointer dies at the end of its line.
  // The version counter stays as it is: autograd would complain of it before it reads the storage.
  storage.release_data_and_set_meta_custom_data_ptr_error_msg_(message);
  storage.set_data_ptr(c10::DataPtr(nullptr, device));
  storage.set_resizable(false);
  return static_cast<int64_t>(storage.nbytes());
}

}  // namespace trgl::boundary

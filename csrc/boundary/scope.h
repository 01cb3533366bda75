// One module's step on one batch, as trgl_kernels/boundary drives it.
#pragma once

#include <ATen/core/Tensor.h>
// torch's header warns of itself in functions without arguments
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#include <torch/custom_class.h>
#pragma GCC diagnostic pop

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "counters.h"
#include "finding.h"

namespace trgl::boundary {

class Scope : public torch::CustomClassHolder {
 public:
  // Opens in this thread. device: index of the CUDA device to count on, or -1.
  Scope(int64_t device, bool find);
  ~Scope() override;

  // Stops counting and finding, in the thread that opened it, and returns bytes():
  std::vector<int64_t> close(const std::vector<at::Tensor>& outliving);

  // What was counted, as it is now:
  //   requested; live; in these, storages of more than kSmall that none of `outliving` is of; peak;
  //   of the device: requested, growth, growth less the storages of `outliving`, peak (-1 where the
  //   process had a higher one before; its other threads count).
  std::vector<int64_t> bytes(const std::vector<at::Tensor>& outliving) const;

  // Whether operators are, or were, watched.
  bool finds() const;

  // Of each tensor, whether its storage was made inside: 1 yes; 0 no; -1 not known, because it is
  // on a device whose operators were not watched.
  std::vector<int64_t> made(const std::vector<at::Tensor>& tensors) const;

  // What was made inside and is still held: storage, bytes, shape, type, operator, device,
  // address.
  using Held = std::
      tuple<int64_t, int64_t, std::vector<int64_t>, std::string, std::string, std::string, int64_t>;
  std::vector<Held> held();

  // Releases the storage that held() named; 0 where it is gone.
  int64_t release_held(int64_t storage, const std::string& message, bool poison);
  std::string refusal_of_held(int64_t storage);

  // Lets go of what the graphs behind these tensors saved for backward, node by node as far as they
  // were made inside by this thread. A later backward raises torch's error.
  void release_graphs(const std::vector<at::Tensor>& roots) const;

 private:
  void stop();
  c10::intrusive_ptr<c10::StorageImpl> find_held(int64_t storage);

  Tally* const tally_;
  const int64_t device_;
  const uint64_t first_node_;  // sequence number of autograd
  const uint64_t thread_;
  std::shared_ptr<Finder> finder_;
  std::unique_ptr<Watch> watch_;
  int64_t requested_before_ = 0;
  int64_t live_before_ = 0;
  int64_t peak_before_ = 0;
};

}  // namespace trgl::boundary

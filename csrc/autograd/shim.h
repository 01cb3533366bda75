// What the autograd shims share. Each saves what its backward operator reads and nothing else, asks
// that operator for the gradients that autograd wants, and refuses to be differentiated twice.
// trgl_kernels/autograd/ is the same in Python, for an installation without this extension.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <optional>
#include <string>

namespace trgl::autograd {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Which inputs want a gradient, by their place among the arguments of forward that are tensors:
// autograd numbers only those that are there.
class Inputs {
 public:
  int64_t add(const OptionalTensor& t) {
    return t && t->defined() ? next_++ : -1;
  }
  static bool wanted(AutogradContext* ctx, int64_t place) {
    return place >= 0 && ctx->needs_input_grad(place);
  }

 private:
  int64_t next_ = 0;
};

inline void refuse_double_backward(const char* op, const char* instead = nullptr) {
  // left alone, the second derivative would silently be zero
  TORCH_CHECK(
      !c10::GradMode::is_enabled(), "trgl::", op,
      ": its backward has no derivative of its own; received a backward pass with "
      "create_graph=True. Use ",
      instead ? instead : std::string("trgl_kernels.reference.") + op,
      ", which PyTorch can differentiate twice.");
}

inline bool requires_grad(const OptionalTensor& t) {
  return t && t->requires_grad();
}

// Forward-mode derivatives would silently be zero below autograd.
inline void refuse_forward_mode(const char* op, std::initializer_list<OptionalTensor> inputs) {
  for (const auto& t : inputs) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        !t || !t->_fw_grad(0).defined(), "trgl::", op,
        ": it has no forward-mode derivative; received a dual tensor. Use trgl_kernels.reference.",
        op, ", which PyTorch can differentiate forwards.");
  }
}

inline OptionalTensor optional(const Tensor& t) {
  return t.defined() ? OptionalTensor(t) : std::nullopt;
}

inline Tensor undefined_or(const OptionalTensor& t) {
  return t ? *t : Tensor();
}

// An output as backward reads it: the same memory and count of changes, but outside the graph. The
// output itself would hold the node that saves it until save_for_backward has done its work, and
// for good where a hook stops that, as checkpointing does when it has seen enough.
inline Tensor saved_output(const Tensor& y) {
  return y.tensor_data();
}

// What a forward with batch normalization returns past autograd: an output costs time even where it
// has no gradient.
struct Statistics {
  Tensor mean, rstd;  // [C]
};

// Autograd counts the changes of a tensor, to find a saved one that was overwritten.
inline void count_change(const OptionalTensor& statistic) {
  if (statistic && !statistic->is_inference()) {
    statistic->unsafeGetTensorImpl()->bump_version();
  }
}

// Without an activation the gradient of x is the output's, as it is.
inline bool passes_through(const Tensor& grad_y, bool relu, at::ScalarType x_type) {
  return !relu && grad_y.defined() && grad_y.scalar_type() == x_type;
}

}  // namespace trgl::autograd

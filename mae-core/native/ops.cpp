// Calls of libtorch that its Rust binding lacks. An exception stops here: a function returns 0, or 1 with a text that
// waits in the thread that failed.
#include "kernels/convnext_block.h"
#include "kernels/depthwise.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/variable.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <cstddef>
#include <exception>
#include <string>
#include <vector>

namespace {

thread_local std::string last_error;

template <typename Body>
int guard(Body&& body) noexcept {
  try {
    body();
    return 0;
  } catch (const c10::Error& error) {
    // Without the C++ backtrace, which says nothing to a user.
    last_error = error.what_without_backtrace();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "an exception that is no std::exception";
  }
  return 1;
}

std::vector<at::Tensor> list(const at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> out;
  out.reserve(count);
  for (size_t i = 0; i < count; ++i) out.push_back(*tensors[i]);
  return out;
}

}  // namespace

extern "C" {

const char* mae_core_error() { return last_error.c_str(); }

// Freed memory stays with the process: glibc would give large blocks back to the system, and take them anew, page by page,
// in every step.
void mae_core_keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

int mae_core_grad_enabled() { return at::GradMode::is_enabled() ? 1 : 0; }

// `out` gets a tensor that the caller owns.
int mae_core_depthwise_conv(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias, int lanes,
                            at::Tensor** out) {
  return guard([&] { *out = new at::Tensor(mae::depthwise_conv(*x, *weight, *bias, lanes)); });
}

int mae_core_block_variant() { return mae::block_variant(); }

// `visible` and `scale` may be null. `out` gets a tensor that the caller owns.
int mae_core_convnext_block(const at::Tensor* x, const at::Tensor* visible, int64_t grid_rows, int64_t grid_columns,
                            const at::Tensor* scale, const at::Tensor* const* weights, size_t count, double eps,
                            int variant, at::Tensor** out) {
  return guard([&] {
    const mae::BlockGrid grid{visible ? *visible : at::Tensor(), grid_rows, grid_columns};
    const auto factor = scale ? *scale : at::Tensor();
    *out = new at::Tensor(mae::convnext_block(*x, grid, factor, list(weights, count), eps, variant));
  });
}

// `out` gets a tensor that the caller owns. libtorch keeps the page-locked copy until the device has read it.
int mae_core_upload(const at::Tensor* tensor, int64_t gpu, at::Tensor** out) {
  return guard([&] {
    const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(gpu));
    *out = new at::Tensor(tensor->pin_memory().to(device, /*non_blocking=*/true));
  });
}

int mae_core_clear_grad(const at::Tensor* tensor) {
  return guard([&] { tensor->mutable_grad().reset(); });
}

int mae_core_fused_adamw(const at::Tensor* const* params, const at::Tensor* const* grads,
                         const at::Tensor* const* exp_avgs, const at::Tensor* const* exp_avg_sqs, size_t count,
                         const at::Tensor* step, double lr, double beta1, double beta2, double weight_decay,
                         double eps) {
  return guard([&] {
    at::NoGradGuard no_grad;
    auto gradients = list(grads, count);
    for (auto& gradient : gradients) gradient = gradient.contiguous();
    for (size_t i = 0; i < count; ++i) {
      // The kernel walks the storages side by side.
      TORCH_CHECK(params[i]->is_contiguous() && exp_avgs[i]->is_contiguous() && exp_avg_sqs[i]->is_contiguous(),
                  "fused AdamW needs contiguous parameters and moments");
    }
    const std::vector<at::Tensor> steps(count, *step);
    at::_fused_adamw_(list(params, count), gradients, list(exp_avgs, count), list(exp_avg_sqs, count), {}, steps, lr,
                      beta1, beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false);
    // The operation counts no change of its lists; copies in 16 bits are made anew by this count.
    for (size_t i = 0; i < count; ++i) torch::autograd::impl::bump_version(*params[i]);
  });
}

}  // extern "C"

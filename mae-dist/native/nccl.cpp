// A shared library of its own, built where CUDA's headers are, loaded at run time on machines with a GPU: it gives a
// process group libtorch's NCCL backend for tensors on CUDA devices. mae itself needs no CUDA library to start.
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <chrono>
#include <cstdlib>
#include <string>

namespace {
thread_local std::string error_text;
}

// Mirrored by `AttachNccl` in native/c10d.cpp. Returns null, or why it failed; valid until the thread's next call.
extern "C" const char* mae_nccl_attach(c10d::ProcessGroup* group, c10::intrusive_ptr<c10d::Store>* store, int rank,
                                       int world_size, int device, int64_t timeout_ms) {
  try {
    // wait() then throws when a peer is late or lost. Otherwise a thread of the backend would end the process, and
    // nobody would learn of the step and the rank. A user's own setting wins.
    setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);
    c10::cuda::set_device(static_cast<c10::DeviceIndex>(device));
    using Nccl = c10d::ProcessGroupNCCL;
    auto options = Nccl::Options::create(/*is_high_priority_stream=*/false);
    options->timeout = std::chrono::milliseconds(timeout_ms);
    options->group_name = "0";
    for (int i = 0; i < world_size; ++i) options->global_ranks_in_group.push_back(i);
    // The prefixes of torch.distributed.init_process_group, as for gloo.
    auto default_store = c10::make_intrusive<c10d::PrefixStore>("default_pg", *store);
    auto group_store = c10::make_intrusive<c10d::PrefixStore>("0/", default_store);
    auto cuda_store = c10::make_intrusive<c10d::PrefixStore>("cuda/", group_store);
    auto nccl = c10::make_intrusive<Nccl>(cuda_store, rank, world_size, options);
    nccl->setSequenceNumberForGroup();
    group->setBoundDeviceId(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    group->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL,
                      c10::intrusive_ptr<c10d::Backend>(nccl));
    return nullptr;
  } catch (const c10::Error& error) {
    error_text = error.what_without_backtrace();
  } catch (const std::exception& error) {
    error_text = error.what();
  } catch (...) {
    error_text = "an exception that is no std::exception";
  }
  return error_text.c_str();
}

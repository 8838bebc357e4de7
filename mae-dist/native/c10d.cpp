// The C side of src/c10d: stores, process groups and collectives of libtorch's c10d.
//
// Every function returns an ErrorKind (errors.h). `out` parameters are written only on success and
// give the caller an object to free with the function of its kind. Tensors are borrowed: a Work keeps
// its own reference to each tensor it uses.
#include "errors.h"
#include "handles.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#if defined(__x86_64__) && defined(__GLIBCXX__)
// gloo's own headers are not here (gloo-headers/README.md): these sizes show that this libtorch is the
// one that the stand-ins were checked against.
static_assert(sizeof(c10d::ProcessGroup) == 312, "libtorch's ProcessGroup has changed");
static_assert(sizeof(c10d::ProcessGroupGloo) == 488, "libtorch's ProcessGroupGloo has changed");
static_assert(sizeof(c10d::ProcessGroupGloo::Options) == 176, "libtorch's gloo options have changed");
#endif

struct MaeStore {
  c10::intrusive_ptr<c10d::Store> store;
};
struct MaeWork {
  c10::intrusive_ptr<c10d::Work> work;
};
struct MaeReducer {
  std::shared_ptr<c10d::Reducer> reducer;
};

namespace {

using std::chrono::milliseconds;

thread_local std::string error_text;

std::vector<at::Tensor> to_vector(at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> vector;
  vector.reserve(count);
  std::transform(tensors, tensors + count, std::back_inserter(vector), [](at::Tensor* t) { return *t; });
  return vector;
}

// The reducer warns once that no parameter is unused, which is why its buckets never change (see mae_dist_reducer_new),
// and once when a gradient has the strides of another memory format, which costs a copy. Neither is for a user.
struct Quiet : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};
Quiet quiet;

// Mirrored by `ReduceOp` in src/c10d/process_group.rs.
c10d::ReduceOp to_reduce_op(int op) {
  switch (op) {
    case 0:
      return c10d::ReduceOp::SUM;
    case 1:
      return c10d::ReduceOp::MIN;
    case 2:
      return c10d::ReduceOp::MAX;
    default:
      TORCH_CHECK(false, "unknown reduce operation ", op);
  }
}

}  // namespace

int mae_dist_set_error(ErrorKind kind, const char* what) noexcept {
  try {
    error_text = what;
  } catch (...) {
    error_text.clear();
  }
  return kind;
}

extern "C" {

// The text of this thread's last error, valid until its next call.
const char* mae_dist_error() { return error_text.c_str(); }

int mae_dist_init() {
  return mae_dist_guard([] { c10::initLogging(); });
}

// ---- Store

// A server listens on `listen_fd`, which it takes over, or on all addresses of the machine if that is -1.
int mae_dist_tcp_store_new(const char* host, uint16_t port, int is_server, int listen_fd, int64_t world_size,
                           int wait_for_workers, int64_t timeout_ms, MaeStore** out) {
  return mae_dist_guard([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_server != 0;
    if (listen_fd >= 0) options.masterListenFd = listen_fd;
    if (world_size > 0) options.numWorkers = static_cast<size_t>(world_size);
    options.waitWorkers = wait_for_workers != 0;
    options.timeout = milliseconds(timeout_ms);
    *out = new MaeStore{c10::make_intrusive<c10d::TCPStore>(std::string(host), options)};
  });
}

int mae_dist_tcp_store_port(MaeStore* store, uint16_t* port) {
  return mae_dist_guard([&] {
    auto tcp = c10::dynamic_intrusive_pointer_cast<c10d::TCPStore>(store->store);
    TORCH_CHECK(tcp, "this store is not a TCPStore and has no port");
    *port = tcp->getPort();
  });
}

int mae_dist_prefix_store_new(const char* prefix, MaeStore* store, MaeStore** out) {
  return mae_dist_guard([&] {
    *out = new MaeStore{c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), store->store)};
  });
}

int mae_dist_store_share(MaeStore* store, MaeStore** out) {
  return mae_dist_guard([&] { *out = new MaeStore{store->store}; });
}

int mae_dist_store_set(MaeStore* store, const char* key, const uint8_t* value, size_t length) {
  return mae_dist_guard([&] { store->store->set(key, std::vector<uint8_t>(value, value + length)); });
}

// `value` is to be freed with mae_dist_bytes_free.
int mae_dist_store_get(MaeStore* store, const char* key, uint8_t** value, size_t* length) {
  return mae_dist_guard([&] {
    auto bytes = store->store->get(key);
    auto* copy = new uint8_t[bytes.size()];
    std::copy(bytes.begin(), bytes.end(), copy);
    *value = copy;
    *length = bytes.size();
  });
}

void mae_dist_bytes_free(uint8_t* bytes) { delete[] bytes; }

int mae_dist_store_check(MaeStore* store, const char* key, int* present) {
  return mae_dist_guard([&] { *present = store->store->check({std::string(key)}) ? 1 : 0; });
}

void mae_dist_store_free(MaeStore* store) {
  mae_dist_guard([&] { delete store; });
}

// ---- ProcessGroup

// gloo listens on the network interfaces named, or else on `address` (a host name or address); with neither
// (null), on the address that this machine's name resolves to, or on loopback.
int mae_dist_process_group_gloo_new(MaeStore* store, int rank, int world_size, int64_t timeout_ms,
                                    const char* const* interfaces, size_t interface_count,
                                    const char* address, int threads, MaeProcessGroup** out) {
  return mae_dist_guard([&] {
    using Gloo = c10d::ProcessGroupGloo;
    auto options = Gloo::Options::create(milliseconds(timeout_ms));
    options->threads = threads;
    options->group_name = "0";
    for (int i = 0; i < world_size; ++i) options->global_ranks_in_group.push_back(i);
    for (size_t i = 0; i < interface_count; ++i) {
      options->devices.push_back(Gloo::createDeviceForInterface(interfaces[i]));
    }
    if (options->devices.empty()) {
      options->devices.push_back(address ? Gloo::createDeviceForHostname(address) : Gloo::createDefaultDevice());
    }

    // The prefixes of torch.distributed.init_process_group: a Python rank meets us under the same keys.
    auto default_store = c10::make_intrusive<c10d::PrefixStore>("default_pg", store->store);
    auto group_store = c10::make_intrusive<c10d::PrefixStore>("0/", default_store);
    auto cpu_store = c10::make_intrusive<c10d::PrefixStore>("cpu/", group_store);
    auto group = c10::make_intrusive<c10d::ProcessGroup>(group_store, rank, world_size);
    group->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
    auto gloo = c10::make_intrusive<Gloo>(cpu_store, rank, world_size, options);
    gloo->setSequenceNumberForGroup();
    group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO,
                      c10::intrusive_ptr<c10d::Backend>(gloo));
    group->setGroupName("0");
    group->setGroupDesc("default_pg");
    *out = new MaeProcessGroup{group};
  });
}

// The function of native/nccl.cpp, which is in a library of its own.
using AttachNccl = const char* (*)(c10d::ProcessGroup*, c10::intrusive_ptr<c10d::Store>*, int, int, int, int64_t);

int mae_dist_process_group_attach_nccl(MaeProcessGroup* group, MaeStore* store, void* attach, int device,
                                       int64_t timeout_ms) {
  return mae_dist_guard([&] {
    const char* error = reinterpret_cast<AttachNccl>(attach)(group->group.get(), &store->store, group->group->getRank(),
                                                             group->group->getSize(), device, timeout_ms);
    TORCH_CHECK(error == nullptr, error);
  });
}

void mae_dist_process_group_free(MaeProcessGroup* group) {
  mae_dist_guard([&] { delete group; });
}

int mae_dist_process_group_abort(MaeProcessGroup* group) {
  return mae_dist_guard([&] { group->group->abort(); });
}

int mae_dist_process_group_set_timeout(MaeProcessGroup* group, int64_t timeout_ms) {
  return mae_dist_guard([&] { group->group->setTimeout(milliseconds(timeout_ms)); });
}

int mae_dist_barrier(MaeProcessGroup* group) {
  return mae_dist_guard([&] { group->group->barrier(c10d::BarrierOptions())->wait(); });
}

int mae_dist_monitored_barrier(MaeProcessGroup* group, int64_t timeout_ms) {
  return mae_dist_guard([&] {
    c10d::BarrierOptions options;
    options.timeout = milliseconds(timeout_ms);
    group->group->monitoredBarrier(options, /*waitAllRanks=*/true);
  });
}

int mae_dist_broadcast(MaeProcessGroup* group, at::Tensor* tensor, int root, MaeWork** out) {
  return mae_dist_guard([&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    *out = new MaeWork{group->group->broadcast(tensors, options)};
  });
}

int mae_dist_broadcast_coalesced(MaeProcessGroup* group, at::Tensor* const* tensors, size_t count,
                                 size_t buffer_bytes, int root) {
  return mae_dist_guard([&] {
    at::NoGradGuard no_grad;
    c10d::broadcast_coalesced(group->group, to_vector(tensors, count), buffer_bytes, root);
  });
}

int mae_dist_all_reduce(MaeProcessGroup* group, at::Tensor* tensor, int op, MaeWork** out) {
  return mae_dist_guard([&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = to_reduce_op(op);
    *out = new MaeWork{group->group->allreduce(tensors, options)};
  });
}

int mae_dist_all_gather_into_tensor(MaeProcessGroup* group, at::Tensor* output, at::Tensor* input, MaeWork** out) {
  return mae_dist_guard([&] { *out = new MaeWork{group->group->_allgather_base(*output, *input)}; });
}

// ---- Reducer

// `find_unused_parameters` is on: the buckets then stay as they are made here. Without it the reducer wants to
// make them anew after the first step, in the order in which gradients came; sums over three or more ranks would
// then round differently in the first step after a resume than in the same step of an uninterrupted run.
int mae_dist_reducer_new(MaeProcessGroup* group, at::Tensor* const* parameters, size_t count, size_t bucket_bytes,
                         size_t first_bucket_bytes, MaeReducer** out) {
  return mae_dist_guard([&] {
    auto tensors = to_vector(parameters, count);
    c10d::verify_params_across_processes(group->group, tensors, std::nullopt);
    std::vector<bool> sparse(count, false);
    auto assigned = c10d::compute_bucket_assignment_by_size(tensors, {first_bucket_bytes, bucket_bytes}, sparse);
    // Gradients come in the reverse order of the forward pass.
    auto& buckets = std::get<0>(assigned);
    std::reverse(buckets.begin(), buckets.end());
    auto reducer = std::make_shared<c10d::Reducer>(
        tensors, buckets, group->group, sparse, static_cast<int64_t>(bucket_bytes), /*find_unused_parameters=*/true,
        /*gradient_as_bucket_view=*/true, std::unordered_map<size_t, std::string>{},
        static_cast<int64_t>(first_bucket_bytes), /*skip_all_reduce_unused_params=*/false,
        /*use_python_reducer=*/false, std::vector<int64_t>{});
    *out = new MaeReducer{std::move(reducer)};
  });
}

// The next backward pass, which starts at `loss`, averages the gradients.
int mae_dist_reducer_prepare(MaeReducer* reducer, at::Tensor* loss) {
  return mae_dist_guard([&] {
    c10::WarningUtils::WarningHandlerGuard guard(&quiet);
    reducer->reducer->prepare_for_forward();
    reducer->reducer->prepare_for_backward({*loss});
  });
}

// Like at::Tensor::backward, with the class of the exception kept.
int mae_dist_backward(at::Tensor* loss) {
  return mae_dist_guard([&] {
    c10::WarningUtils::WarningHandlerGuard guard(&quiet);
    loss->backward();
  });
}

void mae_dist_reducer_free(MaeReducer* reducer) {
  mae_dist_guard([&] { delete reducer; });
}

// ---- Work

int mae_dist_work_wait(MaeWork* work) {
  return mae_dist_guard([&] { work->work->wait(); });
}

void mae_dist_work_free(MaeWork* work) {
  mae_dist_guard([&] { delete work; });
}

}  // extern "C"

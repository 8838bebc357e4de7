// The C functions over sharder.h, for src/c10d/sharder.rs. As in c10d.cpp, each returns an ErrorKind.
#include "errors.h"
#include "handles.h"
#include "sharder.h"

#include <memory>
#include <vector>

struct MaeSharderHandle {
  std::shared_ptr<MaeSharder> sharder;
};

namespace {

std::vector<size_t> units_of(const size_t* units, size_t count) { return {units, units + count}; }

}  // namespace

extern "C" {

int mae_dist_sharder_new(MaeProcessGroup* group, MaeSharderHandle** out) {
  return mae_dist_guard([&] { *out = new MaeSharderHandle{std::make_shared<MaeSharder>(group->group)}; });
}

// Dtypes are numbered as in c10::ScalarType.
int mae_dist_sharder_add(MaeSharderHandle* handle, at::Tensor* const* parameters, size_t count, int wire, int held,
                         int stays) {
  return mae_dist_guard([&] {
    std::vector<at::Tensor> tensors;
    tensors.reserve(count);
    for (size_t i = 0; i < count; ++i) tensors.push_back(*parameters[i]);
    handle->sharder->add(tensors, static_cast<at::ScalarType>(wire), static_cast<at::ScalarType>(held), stays != 0);
  });
}

// `whole` and `share` are new handles to the tensors; `part` is `rank`'s.
int mae_dist_sharder_tensors(MaeSharderHandle* handle, size_t unit, size_t place, at::Tensor** whole,
                             at::Tensor** share) {
  return mae_dist_guard([&] {
    auto first = std::make_unique<at::Tensor>(handle->sharder->leaf(unit, place));
    *share = new at::Tensor(handle->sharder->share(unit, place));
    *whole = first.release();
  });
}

int mae_dist_sharder_part(MaeSharderHandle* handle, size_t unit, size_t place, int64_t rank, int64_t* start,
                          int64_t* length) {
  return mae_dist_guard([&] {
    const auto part = handle->sharder->part(unit, place, rank);
    *start = part.start;
    *length = part.length;
  });
}

int mae_dist_sharder_begin_pass(MaeSharderHandle* handle) {
  return mae_dist_guard([&] { handle->sharder->begin_pass(); });
}

int mae_dist_sharder_gather(MaeSharderHandle* handle, const size_t* units, size_t count) {
  return mae_dist_guard([&] { handle->sharder->gather(units_of(units, count)); });
}

int mae_dist_sharder_release(MaeSharderHandle* handle, const size_t* units, size_t count, at::Tensor* output) {
  return mae_dist_guard([&] { handle->sharder->release(units_of(units, count), *output); });
}

int mae_dist_sharder_backward(MaeSharderHandle* handle, at::Tensor* loss) {
  return mae_dist_guard([&] { handle->sharder->backward(*loss); });
}

void mae_dist_sharder_free(MaeSharderHandle* handle) {
  mae_dist_guard([&] { delete handle; });
}

}  // extern "C"

#include "convnext_block.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "block.h"

namespace mae {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr size_t kWeights = 10;
// Images are summed in groups of about so many rows, which are neither fewer nor more than so many, whatever the number of
// threads: the result then does not depend on it.
constexpr int64_t kRowsOfGroup = 192, kFewestGroups = 4, kMostGroups = 16;
// Rows whose operands are kept at once.
constexpr int64_t kRowsOfOperands = 4096;

const BlockKernel* kernel_for(int variant, at::ScalarType dtype) {
#if defined(__x86_64__)
  if (dtype == at::kBFloat16) return variant >= kBlockAvx512Bf16 ? &block_kernel_avx512_bf16 : nullptr;
  if (dtype != at::kFloat) return nullptr;
  if (variant >= kBlockAvx512) return &block_kernel_avx512;
  if (variant == kBlockAvx2) return &block_kernel_avx2;
#endif
  return nullptr;
}

// Memory at a multiple of 64 bytes, whose first `zeroed` floats are zero.
class Memory {
 public:
  explicit Memory(int64_t floats, int64_t zeroed = 0) : data_(c10::GetCPUAllocator()->allocate(floats * sizeof(float))) {
    std::memset(data_.get(), 0, zeroed * sizeof(float));
  }
  float* get() const { return static_cast<float*>(data_.get()); }

 private:
  at::DataPtr data_;
};

// The ten weights in fp32; the kernels round them.
class Weights {
 public:
  explicit Weights(const variable_list& given) {
    for (size_t i = 0; i < kWeights; ++i) held_[i] = given[i].detach().to(at::kFloat).contiguous();
  }

  BlockWeights pointers() const {
    const auto at = [this](size_t i) { return held_[i].const_data_ptr<float>(); };
    return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9)};
  }

 private:
  std::array<at::Tensor, kWeights> held_;
};

BlockShape shape_of(const at::Tensor& x, const BlockGrid& grid, double eps) {
  BlockShape shape{x.size(1), x.size(2), x.size(3), 0, 0, static_cast<float>(eps)};
  if (grid.visible.defined()) {
    shape.patch_side = x.size(2);
    shape.patches = grid.visible.size(1);
    shape.height = grid.grid_rows * shape.patch_side;
    shape.width = grid.grid_columns * shape.patch_side;
  }
  return shape;
}

template <class T>
T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(const_cast<void*>(tensor.const_data_ptr())) : nullptr;
}

int64_t groups_of(const BlockShape& shape, int64_t images) {
  const int64_t groups = std::clamp(images * shape.places() / kRowsOfGroup, kFewestGroups, kMostGroups);
  return std::min(groups, images);
}

// Calls body(index, parts) for as many parts as there are threads.
template <class Body>
void in_parts(const Body& body) {
  const int64_t parts = at::get_num_threads();
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) body(index, parts);
  });
}

// The sums over all images, in the order of fixed groups.
Memory sum_images(const BlockKernel& kernel, const BlockShape& shape, const BlockWeights& weights, BlockTensors& tensors,
                  int64_t images) {
  const Memory prepared(kernel.prepared_size(shape, true));
  in_parts([&](int64_t index, int64_t parts) { kernel.prepare(shape, weights, true, index, parts, prepared.get()); });
  const bool has_operands = kernel.operands_size(shape, 1) > 0;
  const int64_t at_once = has_operands ? std::clamp<int64_t>(kRowsOfOperands / shape.places(), 1, images) : images;
  const int64_t groups = groups_of(shape, at_once), most = (at_once + groups - 1) / groups;
  const int64_t first = kernel.sums_size(shape), further = kernel.group_sums_size(shape);
  Memory sums(first + (groups - 1) * further);
  const auto sum_of = [&](int64_t group) { return sums.get() + (group == 0 ? 0 : first + (group - 1) * further); };
  const Memory operands(kernel.operands_size(shape, at_once));
  tensors.operands = operands.get();
  for (int64_t start = 0; start < images; start += at_once) {
    const int64_t count = std::min(at_once, images - start);
    tensors.operands_begin = start;
    tensors.operands_images = count;
    at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      const Memory scratch(kernel.scratch_size(shape, most, true), kernel.zeroed_size(shape, true));
      for (int64_t group = begin; group < end; ++group) {
        if (start == 0) std::memset(sum_of(group), 0, further * sizeof(float));
        kernel.backward(shape, weights, prepared.get(), tensors, start + group * count / groups,
                        start + (group + 1) * count / groups, scratch.get(), sum_of(group));
      }
    });
    if (!has_operands) continue;
    in_parts([&](int64_t index, int64_t parts) {
      kernel.add_products(shape, tensors, index, parts, start == 0, sums.get());
    });
  }
  at::parallel_for(0, further, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t group = 1; group < groups; ++group) {
      const float* from = sum_of(group);
      for (int64_t i = begin; i < end; ++i) sums.get()[i] += from[i];
    }
  });
  return sums;
}

class ConvNeXtV2Block : public torch::autograd::Function<ConvNeXtV2Block> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& w0, const at::Tensor& w1,
                            const at::Tensor& w2, const at::Tensor& w3, const at::Tensor& w4, const at::Tensor& w5,
                            const at::Tensor& w6, const at::Tensor& w7, const at::Tensor& w8, const at::Tensor& w9,
                            const std::optional<at::Tensor>& patches, int64_t grid_rows, int64_t grid_columns,
                            const std::optional<at::Tensor>& factors, double eps, int64_t variant, bool backward_follows) {
    const auto visible = patches.value_or(at::Tensor()), scale = factors.value_or(at::Tensor());
    const variable_list given{w0, w1, w2, w3, w4, w5, w6, w7, w8, w9};
    const auto* kernel = kernel_for(static_cast<int>(variant), x.scalar_type());
    const auto input = x.contiguous();
    const auto shape = shape_of(x, {visible, grid_rows, grid_columns}, eps);
    const int64_t images = x.size(0), places = shape.places();
    auto out = at::empty_like(input);
    at::Tensor normalized, deviation, expanded, energy;
    if (backward_follows) {
      const auto floats = input.options().dtype(at::kFloat);
      normalized = at::empty_like(input);
      deviation = at::empty({images, places}, floats);
      expanded = at::empty({images, places, shape.hidden()}, input.options());
      energy = at::empty({images, shape.hidden()}, floats);
    }
    BlockTensors tensors{};
    tensors.x = input.const_data_ptr();
    tensors.visible = data_or_null<int64_t>(visible);
    tensors.scale = data_or_null<float>(scale);
    tensors.out = out.mutable_data_ptr();
    tensors.normalized = data_or_null<void>(normalized);
    tensors.deviation = data_or_null<float>(deviation);
    tensors.expanded = data_or_null<void>(expanded);
    tensors.energy = data_or_null<float>(energy);

    const Weights held(given);
    const auto weights = held.pointers();
    const Memory prepared(kernel->prepared_size(shape, false));
    in_parts([&](int64_t index, int64_t parts) { kernel->prepare(shape, weights, false, index, parts, prepared.get()); });
    at::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
      const Memory scratch(kernel->scratch_size(shape, end - begin, false), kernel->zeroed_size(shape, false));
      kernel->forward(shape, weights, prepared.get(), tensors, begin, end, scratch.get());
    });
    if (backward_follows) {
      variable_list saved{input, visible, scale, normalized, deviation, expanded, energy};
      saved.insert(saved.end(), given.begin(), given.end());
      context->save_for_backward(saved);
      context->saved_data["grid_rows"] = grid_rows;
      context->saved_data["grid_columns"] = grid_columns;
      context->saved_data["eps"] = eps;
      context->saved_data["variant"] = variant;
    }
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &visible = saved[1], &scale = saved[2];
    const variable_list given(saved.begin() + 7, saved.end());
    const auto* kernel = kernel_for(static_cast<int>(context->saved_data["variant"].toInt()), x.scalar_type());
    const BlockGrid grid{visible, context->saved_data["grid_rows"].toInt(), context->saved_data["grid_columns"].toInt()};
    const auto shape = shape_of(x, grid, context->saved_data["eps"].toDouble());
    const int64_t images = x.size(0);
    const auto d_out = gradients[0].to(x.scalar_type()).contiguous();
    auto d_x = at::empty_like(x);
    BlockTensors tensors{};
    tensors.x = x.const_data_ptr();
    tensors.visible = data_or_null<int64_t>(visible);
    tensors.scale = data_or_null<float>(scale);
    tensors.normalized = data_or_null<void>(saved[3]);
    tensors.deviation = data_or_null<float>(saved[4]);
    tensors.expanded = data_or_null<void>(saved[5]);
    tensors.energy = data_or_null<float>(saved[6]);
    tensors.d_out = d_out.const_data_ptr();
    tensors.d_x = d_x.mutable_data_ptr();

    const Weights held(given);
    const auto weights = held.pointers();
    const Memory sums = sum_images(*kernel, shape, weights, tensors, images);
    return gradients_of(*kernel, shape, weights, given, sums.get(), d_x);
  }

 private:
  // In the order of forward's arguments.
  static variable_list gradients_of(const BlockKernel& kernel, const BlockShape& shape, const BlockWeights& weights,
                                    const variable_list& given, const float* sums, const at::Tensor& d_x) {
    std::array<at::Tensor, kWeights> to;
    for (size_t i = 0; i < kWeights; ++i) to[i] = at::empty(given[i].sizes(), given[i].options().dtype(at::kFloat));
    const auto at = [&to](size_t i) { return to[i].mutable_data_ptr<float>(); };
    const BlockGradients pointers{at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9)};
    in_parts([&](int64_t index, int64_t parts) { kernel.finish(shape, weights, sums, pointers, index, parts); });
    variable_list gradients{d_x};
    // In fp32: autograd rounds them where a weight's gradient is to be rounded.
    gradients.insert(gradients.end(), to.begin(), to.end());
    gradients.resize(1 + kWeights + 7);
    return gradients;
  }
};

void check(const at::Tensor& x, const BlockGrid& grid, const at::Tensor& scale, const std::vector<at::Tensor>& weights,
           int variant) {
  TORCH_CHECK(x.dim() == 4 && x.device().is_cpu() && x.size(3) % 8 == 0,
              "expected images [N, H, W, C] on the CPU, C a multiple of 8, found ", x.sizes(), " on ", x.device());
  TORCH_CHECK(variant <= block_variant() && kernel_for(variant, x.scalar_type()) != nullptr,
              "no kernel of a ConvNeXt block for ", x.scalar_type(), " on this CPU");
  const int64_t c = x.size(3), d = 4 * c;
  TORCH_CHECK(weights.size() == kWeights, "a ConvNeXt block has ", kWeights, " weights, not ", weights.size());
  const std::array<std::vector<int64_t>, kWeights> expected{
      {{c, 1, 7, 7}, {c}, {c}, {c}, {d, c}, {d}, {1, 1, 1, d}, {1, 1, 1, d}, {c, d}, {c}}};
  for (size_t i = 0; i < kWeights; ++i) {
    TORCH_CHECK(weights[i].sizes() == at::IntArrayRef(expected[i]) && weights[i].device().is_cpu(), "weight ", i,
                " of a ConvNeXt block of ", c, " channels: expected ", at::IntArrayRef(expected[i]), ", found ",
                weights[i].sizes());
  }
  if (scale.defined()) {
    TORCH_CHECK(scale.sizes() == at::IntArrayRef({x.size(0)}) && scale.scalar_type() == at::kFloat && scale.is_contiguous(),
                "expected one fp32 factor for each of ", x.size(0), " samples, found ", scale.sizes());
  }
  if (!grid.visible.defined()) return;
  const auto& visible = grid.visible;
  TORCH_CHECK(visible.dim() == 2 && visible.size(0) == x.size(0) && visible.size(1) * x.size(2) == x.size(1) &&
                  visible.scalar_type() == at::kLong && visible.is_contiguous() && visible.device().is_cpu(),
              "expected stacks [N, K·s, s, C] of K visible patches [N, K], found ", x.sizes(), " and ", visible.sizes());
  const int64_t patches = grid.grid_rows * grid.grid_columns;
  const int64_t* numbers = visible.const_data_ptr<int64_t>();
  TORCH_CHECK(std::all_of(numbers, numbers + visible.numel(), [=](int64_t i) { return i >= 0 && i < patches; }),
              "a visible patch lies outside of the grid of ", grid.grid_rows, " × ", grid.grid_columns);
}

}  // namespace

int block_variant() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return kBlockNone;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl")) {
    return kBlockAvx2;
  }
  return __builtin_cpu_supports("avx512bf16") ? kBlockAvx512Bf16 : kBlockAvx512;
#else
  return kBlockNone;
#endif
}

at::Tensor convnext_block(const at::Tensor& x, const BlockGrid& grid, const at::Tensor& scale,
                          const std::vector<at::Tensor>& weights, double eps, int variant) {
  check(x, grid, scale, weights, variant);
  const auto needs = [](const at::Tensor& tensor) { return tensor.requires_grad(); };
  const bool backward_follows =
      at::GradMode::is_enabled() && (needs(x) || std::any_of(weights.begin(), weights.end(), needs));
  // An argument of an autograd function is defined, or absent.
  const auto given = [](const at::Tensor& tensor) { return tensor.defined() ? std::make_optional(tensor) : std::nullopt; };
  return ConvNeXtV2Block::apply(x, weights[0], weights[1], weights[2], weights[3], weights[4], weights[5], weights[6],
                                weights[7], weights[8], weights[9], given(grid.visible), grid.grid_rows, grid.grid_columns,
                                given(scale), eps, static_cast<int64_t>(variant), backward_follows);
}

}  // namespace mae

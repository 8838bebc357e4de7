// Fully sharded data parallel training: every process keeps a share of the parameters, and of their gradients.
//
// Parameters are sharded in units, such as one block of the network. A unit is one flat row of numbers, cut into equal
// parts, of which each rank keeps one in fp32. A leaf tensor of the full shape stands for each parameter; its storage is
// empty but while its unit is gathered: in the forward pass within its scope, in the backward pass from the moment that
// the gradient of the scope's output is there until the unit's own gradients are. These are then summed over the ranks,
// each of which keeps its part.
//
// On a CUDA device all memory is taken and given back on the stream that computes. c10d's operations run on streams of their
// own, begin after what that stream was given before, and wait() lets it go on only after them: nothing is given back that is
// still read or written.
#pragma once
#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <cstdint>
#include <memory>
#include <vector>

// Who takes which part of a parameter: `length` elements of this rank from `start`.
struct MaePart {
  int64_t start;
  int64_t length;
};

class MaeSharder : public std::enable_shared_from_this<MaeSharder> {
 public:
  explicit MaeSharder(c10::intrusive_ptr<c10d::ProcessGroup> group);

  // Takes fp32 parameters as the next unit. They are sent as `wire` and computed with as `held`. Those that require
  // gradients get them. A unit that `stays` is gathered throughout a pass.
  void add(const std::vector<at::Tensor>& parameters, at::ScalarType wire, at::ScalarType held, bool stays);

  size_t parameters(size_t unit) const { return units_.at(unit).leaves.size(); }
  // The tensor of the full shape, and this rank's part of it, [length] fp32, a leaf too.
  const at::Tensor& leaf(size_t unit, size_t place) const { return units_.at(unit).leaves.at(place); }
  const at::Tensor& share(size_t unit, size_t place) const { return units_.at(unit).shares.at(place); }
  // A rank's part of a parameter.
  MaePart part(size_t unit, size_t place, int64_t rank) const;

  // A new forward pass: what an earlier one has left gathered is released.
  void begin_pass();
  // Gathers units, and begins to gather those that came next in the pass before.
  void gather(const std::vector<size_t>& units);
  // Releases units until the gradient of `output`, which was computed with them, is there.
  void release(const std::vector<size_t>& units, const at::Tensor& output);
  // The backward pass, after which the shares' gradients are means over the ranks, added to what was there before.
  void backward(const at::Tensor& loss);

 private:
  struct Unit {
    at::ScalarType wire, held;
    bool stays = false;
    int64_t per_rank = 0;
    // Where each parameter begins in the row, and how many elements it has.
    std::vector<int64_t> offsets, elements;
    // This rank's part of all parameters, fp32 [per_rank], and of each.
    at::Tensor row;
    std::vector<at::Tensor> shares;
    // All parts, [world · per_rank] of `held`, and each parameter in them.
    at::Tensor whole;
    std::vector<at::Tensor> leaves;
    std::vector<std::shared_ptr<torch::autograd::Node>> accumulators;

    bool live = false;
    c10::intrusive_ptr<c10d::Work> gathering;
    at::Tensor sent, received;

    // Gradients of this backward pass.
    size_t trainable = 0;
    std::vector<bool> arrived;
    bool reduced = false;
    c10::intrusive_ptr<c10d::Work> reducing;
    at::Tensor given, taken;

    size_t arrivals() const;
  };

  void watch(size_t unit, size_t place);
  void start_gathering(Unit& unit);
  void finish_gathering(Unit& unit);
  void free(Unit& unit);
  void before_backward(const std::vector<size_t>& units, const std::vector<size_t>& next);
  void gradient_arrived(size_t unit, size_t place);
  void start_reducing(size_t unit);
  void finish_reducing(size_t unit);
  void finish_oldest_reductions(size_t but);

  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  std::vector<Unit> units_;
  // What was gathered in this forward pass, in order, and in the one before it.
  std::vector<std::vector<size_t>> visits_, previous_;
  // The last visit whose output has a gradient to wait for.
  std::vector<size_t> hooked_;
  std::vector<size_t> in_flight_;
};

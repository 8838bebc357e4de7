#include "sharder.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

namespace {

// Parameters begin at multiples of this many elements in their row: 64 bytes and more, as vector code likes them.
constexpr int64_t kAlignment = 32;

// Sums under way at once while the next gradients are computed. More would hold memory, and hide nothing more.
constexpr size_t kInFlight = 1;

int64_t aligned(int64_t elements) { return (elements + kAlignment - 1) / kAlignment * kAlignment; }

bool contains(const std::vector<size_t>& units, size_t unit) {
  return std::find(units.begin(), units.end(), unit) != units.end();
}

// Gives a tensor's storage its memory, which whatever views the storage sees.
void fill_storage(const at::Tensor& tensor) {
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  const size_t bytes = static_cast<size_t>(tensor.numel()) * tensor.element_size();
  if (storage->nbytes() == bytes) return;
  c10::DeviceGuard guard(tensor.device());
  storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes));
  storage->set_nbytes(bytes);
}

void empty_storage(const at::Tensor& tensor) {
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  storage->set_data_ptr_noswap(c10::DataPtr(nullptr, tensor.device()));
  storage->set_nbytes(0);
}

// Elements of `tensor` from `offset` in the given shape. No view for autograd, which counts changes of a view and its base
// together: what is gathered anew must not be taken for a change of what a forward pass has saved.
at::Tensor part_of(const at::Tensor& tensor, int64_t offset, at::IntArrayRef shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t dim = shape.size(); dim-- > 1;) strides[dim - 1] = strides[dim] * shape[dim];
  auto part = at::empty({0}, tensor.options());
  part.set_(tensor.storage(), offset, shape, strides);
  return part;
}

}  // namespace

MaeSharder::MaeSharder(c10::intrusive_ptr<c10d::ProcessGroup> group) : group_(std::move(group)) {}

size_t MaeSharder::Unit::arrivals() const {
  return static_cast<size_t>(std::count(arrived.begin(), arrived.end(), true));
}

void MaeSharder::add(const std::vector<at::Tensor>& parameters, at::ScalarType wire, at::ScalarType held, bool stays) {
  TORCH_CHECK(!parameters.empty(), "expected at least one parameter in a unit, found none");
  at::NoGradGuard no_grad;
  const int64_t world = group_->getSize(), rank = group_->getRank();
  Unit unit;
  unit.wire = wire;
  unit.held = held;
  unit.stays = stays;
  int64_t end = 0;
  for (const auto& parameter : parameters) {
    TORCH_CHECK(parameter.scalar_type() == at::kFloat, "expected float32 parameters, found ", parameter.scalar_type());
    unit.offsets.push_back(end);
    unit.elements.push_back(parameter.numel());
    end += aligned(parameter.numel());
  }
  unit.per_rank = aligned((end + world - 1) / world);
  const auto options = parameters.front().options().requires_grad(false);
  unit.row = at::zeros({unit.per_rank}, options);
  unit.whole = at::empty({unit.per_rank * world}, options.dtype(held));
  units_.push_back(std::move(unit));
  const size_t index = units_.size() - 1;
  auto& made = units_[index];
  for (size_t place = 0; place < parameters.size(); ++place) {
    const auto& parameter = parameters[place];
    const bool trainable = parameter.requires_grad();
    const auto own = part(index, place, rank);
    const int64_t in_row = own.length > 0 ? made.offsets[place] + own.start - rank * made.per_rank : 0;
    auto share = part_of(made.row, in_row, {own.length});
    share.copy_(parameter.detach().reshape({-1}).narrow(0, own.start, own.length));
    made.shares.push_back(share.requires_grad_(trainable));
    made.leaves.push_back(part_of(made.whole, made.offsets[place], parameter.sizes()).requires_grad_(trainable));
    // A gradient in fp32 stays one, though the leaf be rounded.
    if (trainable) made.leaves.back().set_grad_dtype(at::kFloat);
    made.arrived.push_back(false);
    if (trainable) watch(index, place);
  }
  empty_storage(made.whole);
}

MaePart MaeSharder::part(size_t index, size_t place, int64_t rank) const {
  const auto& unit = units_.at(index);
  const int64_t offset = unit.offsets.at(place), elements = unit.elements.at(place);
  const int64_t begin = std::clamp<int64_t>(rank * unit.per_rank - offset, 0, elements);
  const int64_t end = std::clamp<int64_t>((rank + 1) * unit.per_rank - offset, 0, elements);
  return {begin, end - begin};
}

// Calls gradient_arrived once the leaf's gradient of a backward pass is complete.
void MaeSharder::watch(size_t unit, size_t place) {
  auto& made = units_[unit];
  ++made.trainable;
  auto accumulator = torch::autograd::impl::grad_accumulator(made.leaves[place]);
  using Gradients = std::vector<torch::autograd::Variable>;
  accumulator->add_post_hook(std::make_unique<torch::autograd::utils::LambdaPostHook>(
      [weak = weak_from_this(), unit, place](const Gradients& outputs, const Gradients&) {
        if (auto sharder = weak.lock()) sharder->gradient_arrived(unit, place);
        return outputs;
      }));
  // The leaf itself does not keep its accumulator.
  made.accumulators.push_back(std::move(accumulator));
}

void MaeSharder::begin_pass() {
  if (!visits_.empty()) previous_ = std::move(visits_);
  visits_.clear();
  hooked_.clear();
  for (auto& unit : units_) free(unit);
}

void MaeSharder::gather(const std::vector<size_t>& units) {
  at::NoGradGuard no_grad;
  for (size_t unit : units) start_gathering(units_.at(unit));
  for (size_t unit : units) finish_gathering(units_.at(unit));
  if (std::all_of(units.begin(), units.end(), [&](size_t unit) { return units_[unit].stays; })) return;
  const size_t at = visits_.size();
  visits_.push_back(units);
  if (at + 1 < previous_.size() && previous_[at] == units) {
    for (size_t unit : previous_[at + 1]) start_gathering(units_[unit]);
  }
}

void MaeSharder::release(const std::vector<size_t>& units, const at::Tensor& output) {
  const bool needed_again = at::GradMode::is_enabled() && output.requires_grad();
  if (needed_again) {
    output.register_hook([weak = weak_from_this(), units, next = hooked_](const at::TensorBase&) {
      if (auto sharder = weak.lock()) sharder->before_backward(units, next);
    });
    hooked_ = units;
    // The backward pass begins with what the forward pass ends with.
    if (visits_.size() == previous_.size()) return;
  }
  for (size_t unit : units) {
    if (!units_.at(unit).stays) free(units_[unit]);
  }
}

void MaeSharder::backward(const at::Tensor& loss) {
  {
    at::NoGradGuard no_grad;
    for (auto& unit : units_) {
      if (unit.stays) start_gathering(unit), finish_gathering(unit);
    }
  }
  loss.backward();
  at::NoGradGuard no_grad;
  // Parameters that this loss does not depend on leave their units open.
  for (size_t unit = 0; unit < units_.size(); ++unit) {
    if (!units_[unit].reduced && units_[unit].arrivals() > 0) start_reducing(unit);
  }
  finish_oldest_reductions(0);
  for (auto& unit : units_) {
    unit.arrived.assign(unit.arrived.size(), false);
    unit.reduced = false;
  }
  begin_pass();
}

void MaeSharder::start_gathering(Unit& unit) {
  if (unit.live || unit.gathering) return;
  unit.sent = unit.row.to(unit.wire);
  if (unit.wire == unit.held) {
    fill_storage(unit.whole);
    unit.gathering = group_->_allgather_base(unit.whole, unit.sent);
  } else {
    unit.received = at::empty(unit.whole.sizes(), unit.whole.options().dtype(unit.wire));
    unit.gathering = group_->_allgather_base(unit.received, unit.sent);
  }
}

void MaeSharder::finish_gathering(Unit& unit) {
  if (!unit.gathering) return;
  // A failed operation is not waited for a second time.
  auto work = std::move(unit.gathering);
  unit.gathering.reset();
  work->wait();
  if (unit.received.defined()) {
    fill_storage(unit.whole);
    unit.whole.copy_(unit.received);
  }
  unit.received.reset();
  unit.sent.reset();
  unit.live = true;
}

void MaeSharder::free(Unit& unit) {
  finish_gathering(unit);
  if (!unit.live) return;
  empty_storage(unit.whole);
  unit.live = false;
}

// The gradient of a scope's output is there: the engine is about to go through the scope.
void MaeSharder::before_backward(const std::vector<size_t>& units, const std::vector<size_t>& next) {
  at::NoGradGuard no_grad;
  // What is frozen, in part or wholly, may have been used until now.
  for (size_t index = 0; index < units_.size(); ++index) {
    auto& unit = units_[index];
    const bool done = unit.trainable == 0 || unit.reduced;
    if (done && !unit.stays && !contains(units, index) && !contains(next, index)) free(unit);
  }
  for (size_t unit : units) start_gathering(units_[unit]);
  for (size_t unit : units) finish_gathering(units_[unit]);
  for (size_t unit : next) start_gathering(units_[unit]);
}

void MaeSharder::gradient_arrived(size_t index, size_t place) {
  auto& unit = units_[index];
  unit.arrived[place] = true;
  if (unit.arrivals() < unit.trainable) return;
  at::NoGradGuard no_grad;
  start_reducing(index);
  // An operation that saves a trainable parameter for its input's gradient computes both at once: none is left.
  if (!unit.stays && unit.trainable == unit.leaves.size()) free(unit);
}

void MaeSharder::start_reducing(size_t index) {
  finish_oldest_reductions(kInFlight - 1);
  auto& unit = units_[index];
  const int64_t world = group_->getSize();
  unit.given = at::empty({unit.per_rank * world}, unit.row.options());
  int64_t end = 0;
  for (size_t place = 0; place < unit.leaves.size(); ++place) {
    const int64_t offset = unit.offsets[place], elements = unit.elements[place];
    if (offset > end) unit.given.narrow(0, end, offset - end).zero_();
    auto to = unit.given.narrow(0, offset, elements);
    if (unit.arrived[place]) {
      auto& gradient = unit.leaves[place].mutable_grad();
      to.view(gradient.sizes()).copy_(gradient);
      gradient.reset();
    } else {
      to.zero_();
    }
    end = offset + elements;
  }
  if (end < unit.given.numel()) unit.given.narrow(0, end, unit.given.numel() - end).zero_();
  if (unit.given.is_cpu()) {
    // gloo would sum everything on every rank. Here each rank is sent its own parts, and sums them itself.
    unit.taken = at::empty_like(unit.given);
    std::vector<int64_t> equal;
    unit.reducing = group_->alltoall_base(unit.taken, unit.given, equal, equal);
  } else {
    unit.taken = at::empty({unit.per_rank}, unit.row.options());
    unit.reducing = group_->_reduce_scatter_base(unit.taken, unit.given);
  }
  unit.reduced = true;
  in_flight_.push_back(index);
}

void MaeSharder::finish_reducing(size_t index) {
  auto& unit = units_[index];
  auto work = std::move(unit.reducing);
  unit.reducing.reset();
  work->wait();
  unit.given.reset();
  const int64_t world = group_->getSize();
  auto mean = unit.taken;
  if (mean.numel() > unit.per_rank) {
    // In the order of the ranks: the same bits whoever sums.
    const auto parts = mean.view({world, unit.per_rank});
    mean = parts[0].clone();
    for (int64_t rank = 1; rank < world; ++rank) mean.add_(parts[rank]);
  }
  unit.taken.reset();
  mean.div_(world);
  for (size_t place = 0; place < unit.shares.size(); ++place) {
    if (!unit.arrived[place]) continue;
    const auto& share = unit.shares[place];
    const auto part = mean.narrow(0, share.numel() > 0 ? share.storage_offset() : 0, share.numel());
    auto& gradient = share.mutable_grad();
    if (gradient.defined()) {
      gradient.add_(part);
    } else {
      gradient = part;
    }
  }
}

void MaeSharder::finish_oldest_reductions(size_t but) {
  while (in_flight_.size() > but) {
    const size_t unit = in_flight_.front();
    in_flight_.erase(in_flight_.begin());
    finish_reducing(unit);
  }
}

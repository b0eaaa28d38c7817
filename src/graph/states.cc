// Micro-batches through a block.
#include "graph/states.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/activity.h"

namespace roundtable {
namespace {

constexpr std::int64_t kDefaultMicroBatch = 8;

// Writes `part` into `whole` at sample `first`; makes `whole` for `n` samples on `device` at the first part.
void put(torch::Tensor& whole, const torch::Tensor& part, std::int64_t first, std::int64_t n, torch::Device device) {
  if (!whole.defined()) {
    std::vector<std::int64_t> shape = part.sizes().vec();
    shape[0] = n;
    whole = torch::empty(shape, part.options().device(device));
  }
  whole.narrow(0, first, part.size(0)).copy_(part);
}

}  // namespace

States States::narrow(std::int64_t first, std::int64_t count) const {
  States part = *this;
  part.for_each([&](torch::Tensor& tensor) { tensor = tensor.narrow(0, first, count); });
  return part;
}

States States::rows(const torch::Tensor& index) const {
  States part = *this;
  part.for_each([&](torch::Tensor& tensor) { tensor = tensor.index_select(0, index); });
  return part;
}

States States::to(torch::Device device) const {
  States there = *this;
  there.for_each([&](torch::Tensor& tensor) { tensor = tensor.to(device); });
  return there;
}

namespace {

// A pass of other ranks, in which this one has no samples. What came of it is of no sample.
States take_part(const Block& block, const States& states) {
  States any = states;
  any.for_each([&](torch::Tensor& tensor) {
    std::vector<std::int64_t> shape = tensor.sizes().vec();
    shape.front() = 1;
    tensor = torch::zeros(shape, tensor.options().device(block.device()));
  });
  any.hidden = block.forward_idle(any.hidden, any.side);
  return any.narrow(0, 0);
}

// Samples of the rank that has the most, of those that take part in the block's passes.
std::int64_t most_samples(const Block& block, std::int64_t n) {
  std::int64_t most = n;
  if (block.exchange() == nullptr) return most;
  for (const std::vector<std::int64_t>& rank : block.exchange()->group.all_gather({n})) {
    most = std::max(most, rank.front());
  }
  return most;
}

// Calls pass(first) for each micro-batch of this rank's n samples, and takes part in those of other ranks. Returns what
// came of the last of these. `states` has the shapes.
template <class Pass>
States for_passes(const Block& block, const States& states, std::int64_t n, std::int64_t width, const Pass& pass) {
  const ExpertExchange* exchange = block.exchange();
  const std::int64_t most = most_samples(block, n);
  States nothing = states;
  for (std::int64_t first = 0; first < most; first += width) {
    const int turns = exchange != nullptr && exchange->turns ? exchange->group.size() : 1;
    for (int turn = 0; turn < turns; ++turn) {
      if (first < n && (turns == 1 || turn == exchange->group.rank())) {
        pass(first);
      } else {
        nothing = take_part(block, states);
      }
      note_progress();
    }
  }
  return nothing;
}

}  // namespace

States run_block(const Block& block, const States& states, std::int64_t micro_batch) {
  const torch::NoGradGuard no_gradients;
  const std::int64_t n = states.size();
  const std::int64_t width = micro_batch > 0 ? micro_batch : kDefaultMicroBatch;
  States out = states;
  out.hidden = torch::empty_like(states.hidden);
  const States nothing = for_passes(block, states, n, width, [&](std::int64_t first) {
    States part = states.narrow(first, std::min(width, n - first)).to(block.device());
    const torch::Tensor hidden = block.forward(part.hidden, part.side);
    out.hidden.narrow(0, first, hidden.size(0)).copy_(hidden);
    for (const std::string& name : block.gives()) {
      if (first == 0) out.side.carried[name] = torch::Tensor();
      put(out.side.carried[name], part.side.carried.at(name), first, n, states.hidden.device());
    }
  });
  for (const std::string& name : n == 0 ? block.gives() : std::vector<std::string>()) {
    const auto found = nothing.side.carried.find(name);
    if (found != nothing.side.carried.end()) out.side.carried[name] = found->second.to(states.hidden.device());
  }
  return out;
}

void pass_samples(const Block& block, const States& states, const std::vector<std::int64_t>& places,
                  const std::function<void(std::int64_t place)>& before) {
  const torch::NoGradGuard no_gradients;
  for_passes(block, states, std::ssize(places), 1, [&](std::int64_t i) {
    const std::int64_t place = places[static_cast<std::size_t>(i)];
    before(place);
    States sample = states.narrow(place, 1).to(block.device());
    block.forward(sample.hidden, sample.side);
  });
}

}  // namespace roundtable

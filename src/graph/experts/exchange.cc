// Rows to their experts and back, as autograd functions.
#include "graph/experts/exchange.h"

#include <ATen/core/grad_mode.h>
#include <c10/util/accumulate.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <numeric>
#include <utility>

#include "base/error.h"

namespace roundtable {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::int64_t sum(const std::vector<std::int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

// The route lives as long as the graph of a forward pass, which the block's caller holds until its backward pass is over.
struct Kept : torch::CustomClassHolder {
  explicit Kept(std::shared_ptr<const ExpertRoute> route) : route(std::move(route)) {}
  std::shared_ptr<const ExpertRoute> route;
};

}  // namespace

struct Sent : public torch::autograd::Function<Sent> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& rows,
                               const std::shared_ptr<const ExpertRoute>& route) {
    context->saved_data["route"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(route));
    return route->send(rows);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto kept = context->saved_data["route"].toCapsule();
    return {static_cast<const Kept&>(*kept).route->bring_back(gradients[0].contiguous()), torch::Tensor()};
  }
};

// `there`: what to_owners() gave. It is an argument although its values are not used: so that its backward pass, in
// which all ranks take part, comes behind this one on a rank whose experts have no tokens too. `anchor` asks for a
// gradient.
struct Returned : public torch::autograd::Function<Returned> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& rows, const torch::Tensor& there,
                               const torch::Tensor&, const std::shared_ptr<const ExpertRoute>& route) {
    context->saved_data["route"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(route));
    context->saved_data["shape"] = there.sizes();
    return route->bring_back(rows);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto kept = context->saved_data["route"].toCapsule();
    torch::Tensor rows = static_cast<const Kept&>(*kept).route->send(gradients[0].contiguous());
    torch::Tensor there;
    if (context->needs_input_grad(1)) there = torch::zeros(context->saved_data["shape"].toIntVector(), rows.options());
    return {rows, there, torch::Tensor(), torch::Tensor()};
  }
};

ExpertRoute::ExpertRoute(const TensorGroup& group, const std::vector<std::int64_t>& ends, torch::Device device,
                         ExchangeFigures& figures)
    : group_(group), figures_(figures) {
  const auto ranks = static_cast<std::size_t>(group.size());
  const std::size_t experts = ends.size();
  RT_CHECK(experts % ranks == 0);
  const std::size_t held = experts / ranks;
  std::vector<std::int64_t> counts(experts);
  std::adjacent_difference(ends.begin(), ends.end(), counts.begin());
  const std::vector<std::vector<std::int64_t>> all = group.all_gather(counts);
  const std::size_t first = held * static_cast<std::size_t>(group.rank());
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const auto of = [&](const std::vector<std::int64_t>& list, std::size_t begin) {
      return std::accumulate(list.begin() + static_cast<std::ptrdiff_t>(begin),
                             list.begin() + static_cast<std::ptrdiff_t>(begin + held), std::int64_t{0});
    };
    send_.push_back(of(counts, rank * held));
    receive_.push_back(of(all[rank], first));
  }
  // Rows arrive rank after rank, and of each rank expert after expert.
  std::vector<std::vector<std::int64_t>> starts(ranks);
  std::int64_t at = 0;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    for (std::size_t e = 0; e < held; ++e) {
      starts[rank].push_back(at);
      at += all[rank][first + e];
    }
  }
  std::vector<std::int64_t> order;
  order.reserve(static_cast<std::size_t>(at));
  host_ends_.assign(experts, 0);
  for (std::size_t e = 0; e < experts; ++e) {
    for (std::size_t rank = 0; e >= first && e < first + held && rank < ranks; ++rank) {
      for (std::int64_t i = 0; i < all[rank][e]; ++i) order.push_back(starts[rank][e - first] + i);
    }
    host_ends_[e] = std::ssize(order);
  }
  std::vector<std::int64_t> back(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) back[static_cast<std::size_t>(order[i])] = static_cast<std::int64_t>(i);
  by_expert_ = torch::tensor(order, torch::kInt64).to(device);
  by_rank_ = torch::tensor(back, torch::kInt64).to(device);
  ends_ = torch::tensor(host_ends_, torch::kInt32).to(device);
}

torch::Tensor ExpertRoute::send(const torch::Tensor& rows) const {
  std::vector<std::int64_t> shape = rows.sizes().vec();
  RT_CHECK(shape.front() == sum(send_));
  shape.front() = sum(receive_);
  const torch::Tensor arrived = torch::empty(shape, rows.options());
  group_.all_to_all(rows.contiguous(), send_, arrived, receive_);
  note(send_, rows);
  return arrived.index_select(0, by_expert_);
}

torch::Tensor ExpertRoute::bring_back(const torch::Tensor& rows) const {
  std::vector<std::int64_t> shape = rows.sizes().vec();
  RT_CHECK(shape.front() == sum(receive_));
  const torch::Tensor leaving = rows.index_select(0, by_rank_);
  shape.front() = sum(send_);
  const torch::Tensor arrived = torch::empty(shape, rows.options());
  group_.all_to_all(leaving, receive_, arrived, send_);
  note(receive_, rows);
  return arrived;
}

void ExpertRoute::note(const std::vector<std::int64_t>& sent, const torch::Tensor& rows) const {
  const std::int64_t others = sum(sent) - sent[static_cast<std::size_t>(group_.rank())];
  const std::int64_t width = c10::multiply_integers(rows.sizes().slice(1));
  figures_.bytes += others * width * static_cast<std::int64_t>(rows.element_size());
}

torch::Tensor ExpertRoute::to_owners(const torch::Tensor& rows) const { return Sent::apply(rows, shared_from_this()); }

torch::Tensor ExpertRoute::from_owners(const torch::Tensor& rows, const torch::Tensor& there) const {
  const torch::Tensor anchor = torch::zeros({0}).requires_grad_(at::GradMode::is_enabled());
  return Returned::apply(rows, there, anchor, shared_from_this());
}

}  // namespace roundtable

// Stages out, journal records in.
#include "phases/tune/coordinator.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/activity.h"

namespace roundtable {
namespace {

// Empty where all experts saw enough.
std::string words_of(const FewTokens& few) {
  std::string text;
  if (few.in_calibration > 0) {
    text = fmt::format("{} of {} experts saw fewer than {} tokens in calibration", few.in_calibration, few.experts,
                       few.least);
    if (few.tokens_added > 0) text += fmt::format("; the search of scales showed them {} others", few.tokens_added);
    if (few.tokens_added > 0 && few.left > 0) text += fmt::format(", which is not enough for {} of them", few.left);
  }
  if (few.in_tuning == 0) return text;
  if (!text.empty()) return text + fmt::format("; {} saw fewer in the steps of tuning", few.in_tuning);
  return fmt::format("{} of {} experts saw fewer than {} tokens in the steps of tuning", few.in_tuning, few.experts,
                     few.least);
}

}  // namespace

Coordinator::Coordinator(const Plan& plan, const RunPaths& paths, bool keep_boundaries, RunState& state,
                         Mailbox& mailbox, EventLog& events, Progress& progress)
    : plan_(plan),
      paths_(paths),
      keep_boundaries_(keep_boundaries),
      state_(state),
      mailbox_(mailbox),
      events_(events),
      progress_(progress),
      groups_at_work_(plan.groups) {
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    if (state.finished()[i] < plan.stages[i].size()) waiting_.push_back(i);
  }
  // The longest first, so that no group starts one when the others are about to end; among equals, in order.
  const auto left = [&](std::size_t i) { return plan_.stages[i].size() - state_.finished()[i]; };
  std::stable_sort(waiting_.begin(), waiting_.end(), [&](std::size_t a, std::size_t b) { return left(a) > left(b); });
  std::reverse(waiting_.begin(), waiting_.end());
}

void Coordinator::serve() {
  while (groups_at_work_ > 0) {
    const Mail mail = mailbox_.receive(MailTo::kCoordinator);
    std::visit([&](const auto& message) { handle(mail.source, message); }, to_coordinator_from(mail.text));
  }
}

void Coordinator::handle(int worker, const message::Ready&) {
  tuning_.erase(worker);
  if (waiting_.empty() || leaving_) {
    tell_worker(mailbox_, worker, message::End{});
    --groups_at_work_;
    progress_.idle(group_of(worker));
    return;
  }
  const std::size_t stage = waiting_.back();
  waiting_.pop_back();
  tuning_.insert(worker);
  const auto index = static_cast<std::int64_t>(stage);
  tell_worker(mailbox_, worker, message::TuneStage{index, state_.finished()[stage]});
  events_.append(event::StageStart{index, group_of(worker)});
}

void Coordinator::handle(int worker, const message::Progress& message) {
  progress_.update(group_of(worker), message.stage, message.block, message.iteration, message.iterations,
                   message.first_loss, message.best_loss);
}

void Coordinator::handle(int worker, const message::BlockDone& message) {
  const record::Block& block = message.record;
  state_.journal().append(block);
  events_.append(event::Block{group_of(worker), block, message.curves});
  if (!block.experts_without_tokens.empty()) {
    progress_.note(fmt::format("warning: block {}: no token of the tuning steps reached {}: rounded to nearest",
                               block.block, fmt::join(block.experts_without_tokens, ", ")));
  }
  const std::string few = block.experts_with_few_tokens ? words_of(*block.experts_with_few_tokens) : "";
  if (!few.empty()) progress_.note(fmt::format("block {}: {}", block.block, few));
  progress_.block_done(group_of(worker), block.stage, block.block, block.first_loss, block.best_loss, block.seconds);
}

void Coordinator::handle(int, const message::StageDone& message) {
  events_.append(event::StageEnd{message.stage});
  if (keep_boundaries_) return;
  // Only the run's own boundary: those in calibration.cache belong to other runs too.
  std::error_code ignored;  // a boundary that cannot be removed costs disk, not correctness
  std::filesystem::remove(paths_.boundary(plan_.stages[static_cast<std::size_t>(message.stage)].first), ignored);
}

// A signal may reach one group alone (and clocks differ): the coordinator tells the others.
void Coordinator::handle(int worker, const message::Left&) {
  tuning_.erase(worker);
  --groups_at_work_;
  progress_.idle(group_of(worker));
  if (std::exchange(leaving_, true)) return;
  for (const int other : tuning_) tell_to_leave(mailbox_, other);
}

void Coordinator::handle(int, const message::Stop&) { groups_at_work_ = 0; }

std::thread start_coordinator(Coordinator& coordinator, std::function<void(std::exception_ptr)> on_error) {
  return std::thread([&coordinator, on_error = std::move(on_error)] {
    const WatchedThread watched(Lane::kCoordinator);
    try {
      coordinator.serve();
    } catch (...) {
      on_error(std::current_exception());
    }
  });
}

}  // namespace roundtable

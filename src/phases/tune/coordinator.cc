// Stages out, journal records in.
#include "phases/tune/coordinator.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/activity.h"

namespace roundtable {

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
  while (groups_at_work_ > 0) handle(mailbox_.receive(MailTo::kCoordinator));
}

void Coordinator::handle(const Mail& mail) {
  const nlohmann::json message = nlohmann::json::parse(mail.text);
  const std::string type = message["type"];
  const int group = mail.source / plan_.shards;
  if (type == "ready") {
    hand_out(mail.source);
  } else if (type == "progress") {
    progress_.update(group, message["stage"], message["block"], message["iteration"], message["iterations"],
                     message["first_loss"], message["best_loss"]);
  } else if (type == "block") {
    finish_block(group, message);
  } else if (type == "stage") {
    finish_stage(message["stage"]);
  } else if (type == "leave") {
    leave(mail.source);
  } else {
    groups_at_work_ = 0;
  }
}

void Coordinator::stop(Mailbox& mailbox) {
  mailbox.send(0, MailTo::kCoordinator, nlohmann::json{{"type", "stop"}}.dump());
}

void Coordinator::hand_out(int worker) {
  tuning_.erase(worker);
  if (waiting_.empty() || leaving_) {
    mailbox_.send(worker, MailTo::kWorker, nlohmann::json{{"type", "end"}}.dump());
    --groups_at_work_;
    progress_.idle(worker / plan_.shards);
    return;
  }
  const std::size_t stage = waiting_.back();
  waiting_.pop_back();
  tuning_.insert(worker);
  mailbox_.send(worker, MailTo::kWorker,
                nlohmann::json{{"type", "stage"}, {"stage", stage}, {"finished", state_.finished()[stage]}}.dump());
  events_.append("stage_start", {{"stage", stage}, {"group", worker / plan_.shards}});
}

// A signal may reach one group alone (and clocks differ): the others hear of it here.
void Coordinator::leave(int worker) {
  tuning_.erase(worker);
  --groups_at_work_;
  progress_.idle(worker / plan_.shards);
  if (std::exchange(leaving_, true)) return;
  for (const int other : tuning_) {
    mailbox_.send(other, MailTo::kWorkerAtWork, nlohmann::json{{"type", "leave"}}.dump());
  }
}

void Coordinator::finish_block(int group, const nlohmann::json& message) {
  nlohmann::json record = message;
  // These go to the event log, which nobody's correctness hangs on.
  record.erase("losses");
  record.erase("layer_errors");
  record.erase("reduction");
  state_.journal().append(record);
  nlohmann::json event = message;
  event.erase("type");
  event["group"] = group;
  events_.append("block", event);
  if (message.contains("experts_without_tokens")) {
    const auto idle = message["experts_without_tokens"].get<std::vector<std::string>>();
    progress_.note(fmt::format("warning: block {}: no token of the tuning steps reached {}: rounded to nearest",
                               message["block"].get<std::int64_t>(), fmt::join(idle, ", ")));
  }
  progress_.block_done(group, message["stage"], message["block"], message["first_loss"], message["best_loss"],
                       message["seconds"]);
}

void Coordinator::finish_stage(std::int64_t stage) {
  events_.append("stage_end", {{"stage", stage}});
  if (keep_boundaries_) return;
  // The run's own: shared ones are other runs' too.
  std::error_code ignored;  // a boundary that cannot be removed costs disk, not correctness
  std::filesystem::remove(paths_.boundary(plan_.stages[static_cast<std::size_t>(stage)].first), ignored);
}

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

// The report as a message.
#include "phases/tune/block_report.h"

namespace roundtable {
namespace {

StepBytes bytes_per_step(const BlockReport& report) {
  const auto steps = static_cast<double>(report.tuned.losses.size());
  StepBytes bytes;
  if (steps == 0) return bytes;
  if (report.tuned.reduction.bytes > 0) bytes.all_reduce = static_cast<double>(report.tuned.reduction.bytes) / steps;
  if (report.exchanged_bytes) bytes.all_to_all = *report.exchanged_bytes / steps;
  return bytes;
}

}  // namespace

message::BlockDone to_message(const BlockReport& report) {
  const TunedBlock& tuned = report.tuned;
  message::BlockDone message;
  message.record = {.stage = report.stage,
                    .block = report.block,
                    .files = report.files,
                    .first_loss = tuned.first_loss(),
                    .best_loss = tuned.best_loss(),
                    .best_iteration = tuned.best_iteration,
                    .seconds = report.seconds,
                    .save_seconds = report.save_seconds,
                    .experts_without_tokens = report.idle_experts,
                    .experts_with_few_tokens = report.few_tokens,
                    .bytes_per_step = bytes_per_step(report)};
  message.curves.losses = tuned.losses;
  for (const LayerError& error : report.errors) message.curves.layer_errors[error.name] = {error.nearest, error.tuned};
  if (tuned.reduction.bytes > 0) {
    message.curves.reduction = {tuned.reduction.bytes, tuned.reduction.seconds_under_way,
                                tuned.reduction.seconds_waiting};
  }
  return message;
}

}  // namespace roundtable

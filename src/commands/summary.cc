// The lines of a summary.
#include "commands/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>

#include "base/text.h"

namespace roundtable {
namespace {

// "120 MB", or of several formats each: "120 MB auto_gptq, 538 MB qdq".
std::string sizes_after(const WeightSizes& sizes) {
  if (sizes.formats.size() < 2) return human_bytes(sizes.after);
  std::string text;
  for (const auto& [name, bytes] : sizes.formats) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", human_bytes(bytes), name);
  }
  return text;
}

// "1.2 MB of gradients in the all-reduce, 3.4 MB of tokens in the all-to-all"; empty for a group of one rank.
std::string traffic_text(const StepBytes& bytes) {
  std::string text;
  const auto add = [&](const std::optional<double>& moved, const char* what) {
    if (!moved) return;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", human_bytes(std::llround(*moved)), what);
  };
  add(bytes.all_reduce, "of gradients in the all-reduce");
  add(bytes.all_to_all, "of tokens in the all-to-all");
  return text;
}

// The most of any rank; empty if tuning was not metered.
std::string most_in_tuning(const std::map<std::string, std::vector<std::int64_t>>& peaks) {
  const auto found = peaks.find("tune");
  if (found == peaks.end() || found->second.empty()) return "";
  return human_bytes(*std::max_element(found->second.begin(), found->second.end()));
}

}  // namespace

std::string layers_text(const MixedSchemes& mixed) {
  std::string text;
  for (const auto& [word, layers] : mixed.layers) {
    text += fmt::format("{}{} {} layers", text.empty() ? "" : ", ", word, layers);
  }
  return text;
}

std::string divergence_text(const Divergence& divergence) {
  return fmt::format("KL of the float model's distribution to the quantized one's: mean {:.5f}, 99th percentile {:.5f}; "
                     "{:.2f} % of the most likely tokens are equal",
                     divergence.mean, divergence.p99, 100 * divergence.same_top);
}

void print_summary(const RunSummary& summary) {
  fmt::print("\n");
  if (const auto& p = summary.perplexity) {
    fmt::print("perplexity   float {:.3f}, quantized {:.3f} ({} held-out tokens)\n", p->before, p->after, p->tokens);
  }
  if (const auto& d = summary.divergence) fmt::print("divergence   {}\n", divergence_text(*d));
  if (const auto& mixed = summary.auto_scheme) {
    fmt::print("auto_scheme  {:.3f} bits in the mean: {}\n", mixed->mean_bits, layers_text(*mixed));
  }
  fmt::print("size         {} -> {}\n", human_bytes(summary.bytes.before), sizes_after(summary.bytes));
  if (const std::size_t idle = summary.experts_without_tokens.size(); idle > 0) {
    fmt::print("experts      {} saw no token and are rounded to nearest (their names: --json, events.jsonl)\n", idle);
  }
  if (const auto& few = summary.experts_with_few_tokens; few && few->in_calibration + few->in_tuning > 0) {
    fmt::print("experts      of {}, {} saw fewer than {} tokens in calibration, {} in the steps of tuning\n", few->experts,
               few->in_calibration, few->least, few->in_tuning);
  }
  if (const std::string traffic = traffic_text(summary.bytes_per_step); !traffic.empty()) {
    fmt::print("traffic      {} per rank and step\n", traffic);
  }
  std::string times;
  for (const char* name : {"plan", "scheme", "calibrate", "tune", "assemble", "prove", "formats", "evaluate"}) {
    const auto phase = summary.seconds.find(name);
    if (phase == summary.seconds.end()) continue;
    times += fmt::format("{}{} {:.1f} s", times.empty() ? "" : ", ", name, phase->second);
  }
  fmt::print("time         {}\n", times);
  const std::string memory = most_in_tuning(summary.peak_bytes), on_device = most_in_tuning(summary.peak_device_bytes);
  if (!memory.empty()) {
    fmt::print("peak memory  {} per rank in tuning{}\n", memory,
               on_device.empty() ? "" : fmt::format(", and {} of its device", on_device));
  }
  fmt::print("checkpoint   {}\n", summary.output);
}

}  // namespace roundtable

// Blocks and experts that share a reason.
#include "plan/rules/reasons.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace roundtable {
namespace {

// "0, 4-7"
std::string ranges_text(const std::vector<std::int64_t>& sorted) {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < sorted.size();) {
    std::size_t last = i;
    while (last + 1 < sorted.size() && sorted[last + 1] == sorted[last] + 1) ++last;
    parts.push_back(last == i ? fmt::format("{}", sorted[i]) : fmt::format("{}-{}", sorted[i], sorted[last]));
    i = last + 1;
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

// "mlp.experts.*.up_proj": experts are many, and mostly share a reason.
std::string name_of_all_experts(const LinearSpec& linear) {
  const std::string number = fmt::format(".{}.", linear.expert);
  const std::size_t at = linear.expert < 0 ? std::string::npos : linear.name.find(number);
  return at == std::string::npos ? linear.name : std::string(linear.name).replace(at, number.size(), ".*.");
}

}  // namespace

std::string blocks_text(const std::vector<std::int64_t>& blocks, std::int64_t n_blocks) {
  if (std::ssize(blocks) == n_blocks) return "all blocks";
  return fmt::format("{} {}", blocks.size() == 1 ? "block" : "blocks", ranges_text(blocks));
}

void Reasons::add(const LinearSpec& linear, std::size_t place, const std::string& reason, std::int64_t block) {
  const auto [found, is_new] = found_.emplace(std::pair(linear.name, reason), list_.size());
  if (is_new) list_.push_back({linear.name, name_of_all_experts(linear), place, reason, {}});
  list_[found->second].blocks.push_back(block);
}

std::vector<std::string> Reasons::lines(std::int64_t n_blocks) const {
  std::vector<Entry> sorted = list_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Entry& a, const Entry& b) { return a.place < b.place; });
  std::map<std::tuple<std::string, std::string, std::vector<std::int64_t>>, std::int64_t> alike;
  for (const Entry& entry : sorted) ++alike[entry.key()];
  std::vector<std::string> lines;
  for (const Entry& entry : sorted) {
    const std::int64_t layers = std::exchange(alike[entry.key()], 0);
    if (layers == 0) continue;  // told with the first of them
    std::vector<std::string> which;
    if (layers > 1) which.push_back(fmt::format("{} experts", layers));
    if (std::ssize(entry.blocks) != n_blocks) which.push_back(blocks_text(entry.blocks, n_blocks));
    lines.push_back(fmt::format("{}{} stays in 16 bits: {}", layers > 1 ? entry.shared_name : entry.layer,
                                which.empty() ? "" : fmt::format(" ({})", fmt::join(which, ", ")), entry.reason));
  }
  return lines;
}

}  // namespace roundtable

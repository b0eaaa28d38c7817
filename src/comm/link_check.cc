// The list of the links of this process.
#include "comm/link_check.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <utility>
#include <vector>

namespace roundtable {
namespace {

struct Links {
  std::mutex mutex;
  std::vector<const LinkCheck::Look*> looks;
};

Links& links() {
  static Links links;
  return links;
}

std::optional<std::string> result_of(const LinkCheck::Look& look) {
  try {
    return look();
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace

LinkCheck::LinkCheck(Look look) : look_(std::move(look)) {
  const std::lock_guard lock(links().mutex);
  links().looks.push_back(&look_);
}

LinkCheck::~LinkCheck() {
  const std::lock_guard lock(links().mutex);
  std::erase(links().looks, &look_);
}

std::optional<std::string> LinkCheck::find_fault() {
  const std::lock_guard lock(links().mutex);
  for (const Look* look : links().looks) {
    if (auto fault = result_of(*look)) return fault;
  }
  return std::nullopt;
}

}  // namespace roundtable

// Logging through spdlog's stderr sink.
#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace roundtable {
namespace {

spdlog::logger& logger() {
  static const auto instance = [] {
    auto made = spdlog::stderr_color_mt("roundtable");
    made->set_pattern("%^%l%$: %v");
    return made;
  }();
  return *instance;
}

}  // namespace

void set_log_prefix(const std::string& prefix) { logger().set_pattern("%^%l%$: " + prefix + "%v"); }

void log_info(const std::string& line) { logger().info("{}", line); }
void log_warning(const std::string& line) { logger().warn("{}", line); }
void log_error(const std::string& line) { logger().error("{}", line); }

}  // namespace roundtable

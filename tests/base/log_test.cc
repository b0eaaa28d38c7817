// What a log line looks like where stderr is no terminal.
#include "base/log.h"

#include <gtest/gtest.h>

namespace roundtable {
namespace {

TEST(Log, OneLineWithLevelAndPrefix) {
  testing::internal::CaptureStderr();
  log_info("a {} b");
  set_log_prefix("rank 3: ");
  log_warning("c");
  log_error("d");
  set_log_prefix("");
  log_error("e");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "info: a {} b\nwarning: rank 3: c\nerror: rank 3: d\nerror: e\n");
}

}  // namespace
}  // namespace roundtable

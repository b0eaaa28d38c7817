// Parsing in one line, the error of a call, and a file on disk.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "config/config.h"

namespace roundtable {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

inline const std::string kModel = "model:\n  path: m\n";  // two lines, so that what follows starts in line 3

inline Config parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_config(text, "c.yaml", overrides);
}

// The error line that `call` ends in; empty when it does not throw an Error.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_THAT(std::string(error.what()), Not(HasSubstr("\n")));
    return error.what();
  }
  return {};
}

inline std::string parse_error(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return error_of([&] { parse(text, overrides); });
}

inline std::string set_error(const std::string& option) { return parse_error(kModel, {option}); }

class ConfigFile : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("config_test." + std::to_string(getpid()));
    fs::create_directory(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string write(const std::string& content) const {
    const std::string path = directory_ / "c.yaml";
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  fs::path directory_;
};

}  // namespace roundtable

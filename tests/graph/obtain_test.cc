// Where graphs are looked for, what is refused, and what happens around the tool that exports them: another program
// has its place here.
#include "graph/obtain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cstdlib>
#include <filesystem>

#include "data/sha256.h"
#include "tests/graph/llama_graph.h"
#include "tests/io/throws_error.h"

namespace roundtable::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using ::testing::StrEq;

// Sets a variable of the environment, and gives it back what it was.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~Variable() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  void set(const std::string& value) { setenv(name_, value.c_str(), 1); }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

class Obtain : public ::testing::Test {
 protected:
  Obtain() {
    fs::create_directories(folder_.path() + "/model");
    put_config({{"model_type", "llama"}, {"hidden_size", 64}});
    request_.model = folder_.path() + "/model";
    request_.seqlen = 4;
    made_ = write_graph("made");
  }

  void put_config(const json& config) const { folder_.put("model/config.json", config.dump()); }

  // A graph folder for 4 tokens in fp32 of the model; `change` may make it another.
  std::string write_graph(const std::string& name, const std::function<void(GraphFiles&)>& change = {}) const {
    GraphFiles files = llama_model({.heads = 2, .kv_heads = 1}, 4, torch::kFloat32);
    files.model["config_sha256"] = sha256(content_of(folder_.path() + "/model/config.json"));
    if (change) change(files);
    const TemporaryFolder written;
    const std::string path = folder_.path() + "/" + name;
    fs::create_directories(path);
    fs::copy(files.write(written), path, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    return path;
  }

  // What runs in the place of Python. It notes its arguments in "calls", a line each.
  void python(const std::string& rest) {
    const std::string path = folder_.put("python", "#!/bin/sh\necho \"$@\" \"cuda=$CUDA_VISIBLE_DEVICES\" >> '" +
                                                       folder_.path() + "/calls'\n" + rest + "\n");
    fs::permissions(path, fs::perms::owner_all);
    python_.set(path);
  }
  void python_that_exports() { python("mkdir -p \"$4\" && cp '" + made_ + "'/* \"$4\""); }
  std::string calls() const {
    const std::string path = folder_.path() + "/calls";
    return fs::exists(path) ? content_of(path) : "";
  }

  TemporaryFolder folder_;
  GraphRequest request_;
  std::string made_;
  Variable cache_{"XDG_CACHE_HOME", folder_.path() + "/cache"};
  Variable python_{"ROUNDTABLE_PYTHON", folder_.path() + "/no python was asked for"};
};

// --- model.graph
// ----------------------------------------------------------------------------------------------------------

TEST_F(Obtain, AFolderThatIsNamedIsRead) {
  request_.folder = made_;
  const Model model = obtain_model(request_);
  EXPECT_EQ(model.seqlen(), 4);
  EXPECT_EQ(model.n_blocks(), 1);
  EXPECT_EQ(model.config().at("hidden_size"), 64);
  EXPECT_EQ(model.constants().size(), 2U);
  EXPECT_THAT(model.digest(), Not(IsEmpty()));
}

TEST_F(Obtain, OrTheOneOfItsSizeInIt) {
  fs::create_directories(folder_.path() + "/several");
  fs::rename(made_, folder_.path() + "/several/4-float32");
  request_.folder = folder_.path() + "/several";
  EXPECT_EQ(obtain_model(request_).seqlen(), 4);
}

TEST_F(Obtain, WhereThereIsNoneTheLineSaysHowToMakeIt) {
  request_.folder = folder_.path() + "/several";
  request_.seqlen = 2048;
  request_.dtype = torch::kBFloat16;
  EXPECT_BAD_INPUT(obtain_model(request_),
                   AllOf(StartsWith("model.graph: " + request_.folder + " has no graphs for 2048 tokens in bfloat16"),
                         EndsWith("launch/export_model.py " + request_.model + " --out " + request_.folder +
                                  "/2048-bfloat16 --seqlen 2048 --dtype bfloat16")));
}

TEST_F(Obtain, AGraphOfAnotherSizeOrModelIsRefused) {
  request_.folder = made_;
  const std::string place = made_ + "/model.json: ";
  const auto refused = [&](const std::string& problem) {
    EXPECT_BAD_INPUT(obtain_model(request_),
                     AllOf(StartsWith(place), HasSubstr(problem), HasSubstr("export_model.py")));
  };
  request_.seqlen = 8;
  refused("it is for 4 tokens, and samples have 8");
  request_.seqlen = 4;
  request_.dtype = torch::kBFloat16;
  refused("it computes in float32, and tuning.amp asks for bfloat16");
  request_.dtype = torch::kFloat32;
  put_config({{"model_type", "llama"}, {"hidden_size", 65}});
  refused("it was made from another config.json than " + request_.model + "/config.json");
  put_config({{"model_type", "qwen3"}});
  refused("it is of another model_type than the model");
}

// A quantized checkpoint has a config.json of its own; its graphs are those of the float model.
TEST_F(Obtain, OfAQuantizedCheckpointTheConfigMayDiffer) {
  request_.folder = made_;
  put_config({{"model_type", "llama"}, {"quantization_config", {{"bits", 4}}}});
  EXPECT_NO_THROW(obtain_model(request_));
}

TEST_F(Obtain, TheDigestIsThatOfWhatIsComputed) {
  const auto digest = [&](const std::function<void(GraphFiles&)>& change) {
    request_.folder = write_graph("changed", change);
    return obtain_model(request_).digest();
  };
  const std::string first = digest({});
  EXPECT_EQ(digest({}), first);
  EXPECT_EQ(digest([](GraphFiles& files) { files.model["transformers"] = "5.24.0"; }), first);
  EXPECT_NE(digest([](GraphFiles& files) { files.constants["cos"][0][0][1][2] = 0.5; }), first);
  EXPECT_NE(digest([](GraphFiles& files) { files.model["kinds"][0]["nodes"].back()["args"].push_back(2); }), first);
}

// --- the tool
// -------------------------------------------------------------------------------------------------------------

TEST_F(Obtain, GraphsAreExportedOnceAndKept) {
  python_that_exports();
  const Model first = obtain_model(request_);
  EXPECT_EQ(first.seqlen(), 4);
  const std::string once = calls();
  EXPECT_THAT(once, AllOf(HasSubstr("launch/export_model.py " + request_.model + " --out " + folder_.path() +
                                    "/cache/roundtable/graphs/"),
                          EndsWith("/4-float32 --seqlen 4 --dtype float32 cuda=\n")));
  EXPECT_EQ(obtain_model(request_).digest(), first.digest());
  // Of our checkpoint of this model too.
  put_config({{"model_type", "llama"}, {"hidden_size", 64}, {"quantization_config", {{"bits", 4}}}});
  EXPECT_EQ(obtain_model(request_).digest(), first.digest());
  EXPECT_EQ(calls(), once);
  // Another config.json is another model.
  put_config({{"model_type", "llama"}, {"hidden_size", 64}, {"rope_theta", 5}});
  request_.trust_remote_code = true;
  obtain_model(request_);
  EXPECT_THAT(calls().substr(once.size()), HasSubstr("--dtype float32 --trust-remote-code"));
}

TEST_F(Obtain, WhatTheToolRefusesIsBadInputInItsWords) {
  python("echo 'a warning' >&2; echo 'error: config.json: no such model; choose another' >&2; exit 2");
  EXPECT_BAD_INPUT(obtain_model(request_), StrEq("config.json: no such model; choose another"));
}

TEST_F(Obtain, AToolThatFailsIsNamedWithItsCommand) {
  python("echo 'Traceback' >&2; echo 'ModuleNotFoundError: torch' >&2; exit 1");
  EXPECT_ERROR(obtain_model(request_), ExitCode::kMachine,
               AllOf(StartsWith(folder_.path() + "/python "), HasSubstr("export_model.py " + request_.model),
                     HasSubstr("ended with code 1: ModuleNotFoundError: torch"), HasSubstr("model.graph")));
  python_.set(folder_.path() + "/nowhere");
  EXPECT_ERROR(obtain_model(request_), ExitCode::kMachine, HasSubstr("/nowhere: cannot be started"));
}

TEST_F(Obtain, WithoutAPlaceForGraphsTheSettingIsNamed) {
  const Variable home("HOME", "");
  cache_.set("");
  EXPECT_BAD_INPUT(obtain_model(request_), AllOf(StartsWith("model.graph: "), HasSubstr("XDG_CACHE_HOME")));
}

TEST_F(Obtain, APlaceThatCannotBeMadeIsTheMachines) {
  python_that_exports();
  folder_.put("file", "");
  cache_.set(folder_.path() + "/file");
  EXPECT_ERROR(obtain_model(request_), ExitCode::kMachine, HasSubstr("set model.graph or XDG_CACHE_HOME"));
  EXPECT_EQ(calls(), "");
}

}  // namespace
}  // namespace roundtable::testing

// Places that a run is refused for, each before anything is written.
#include "plan/path_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "io/safetensors.h"
#include "rundir/journal.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::int64_t kTooMuch = std::int64_t{1} << 60;

// A root user may write everywhere: the test is another one for a while.
class AsAnotherUser {
 public:
  AsAnotherUser() : root_(::geteuid() == 0) {
    if (root_ && ::seteuid(65534) != 0) throw std::runtime_error("seteuid");
  }
  ~AsAnotherUser() {
    if (root_ && ::seteuid(0) != 0) std::abort();
  }

 private:
  bool root_;
};

class Places : public ::testing::Test {
 protected:
  Places() {
    fs::create_directory(folder_.path() + "/model");
    fs::permissions(folder_.path(), fs::perms::all);
    folder_.put("model/config.json", "{}");
    folder_.put("model/tokenizer.json", "{}");
    config_.model.path = folder_.path() + "/model";
    config_.output.path = folder_.path() + "/out";
    plan_.model = testing::tiny_llama_model();
    plan_.forecast.disk = {{"boundaries", 1000}, {"checkpoint", 1000}};
  }
  void check() const { check_places(config_, plan_); }

  TemporaryFolder folder_;
  Config config_;
  Plan plan_;
};

TEST_F(Places, GoodOnesPassAndNothingIsWritten) {
  EXPECT_NO_THROW(check());
  config_.run.directory = folder_.path() + "/runs/1";
  config_.calibration.cache = folder_.path() + "/cache";
  EXPECT_NO_THROW(check());
  EXPECT_THAT(folder_.names(), ElementsAre("model"));
}

TEST_F(Places, FilesOfTheUserAreRefused) {
  fs::create_directory(folder_.path() + "/mine");
  folder_.put("mine/config.yaml", "the user's");
  config_.run.directory = folder_.path() + "/mine";
  EXPECT_BAD_INPUT(check(), AllOf(StartsWith("run.directory: "), HasSubstr("no journal of a run")));
  config_.run.directory.clear();
  config_.output.path = folder_.path() + "/mine";
  EXPECT_BAD_INPUT(check(), AllOf(StartsWith("output.path: "), HasSubstr("is not empty")));
}

TEST_F(Places, WeightsThatAreNotTheRunsAreRefusedInItsOutput) {
  fs::create_directory(folder_.path() + "/out.run");
  fs::create_directory(folder_.path() + "/out");
  {
    Journal journal(folder_.path() + "/out.run/journal");
    journal.append(record::Run{"1", {}, {}, config_.output.path});
    record::Block block;
    block.files = {{"model-00001-of-00009.safetensors", "", 0}};
    journal.append(block);
  }
  folder_.put("out/model-00001-of-00009.safetensors", "of another max_shard_size: the fingerprint differs");
  folder_.put("out/model.safetensors.index.json", "{}");
  EXPECT_NO_THROW(check());
  for (const char* name : {"out/model.safetensors", "out/model-00001-of-00008.safetensors"}) {
    const std::string path = folder_.put(name, "mine");
    EXPECT_BAD_INPUT(check(), StartsWith(path + ": is not a file of this checkpoint"));
    EXPECT_TRUE(fs::remove(path));
  }
}

TEST_F(Places, TheRunDirectoryStaysOutOfTheCheckpoint) {
  for (const char* inside : {"/out", "/out/run", "/model/../out/run"}) {
    config_.run.directory = folder_.path() + inside;
    EXPECT_BAD_INPUT(check(), AllOf(StartsWith("run.directory: "), HasSubstr("lies in output.path")));
  }
  config_.run.directory = folder_.path() + "/out2";  // a name that begins alike
  EXPECT_NO_THROW(check());
  config_.calibration.cache = folder_.path() + "/out/cache";
  EXPECT_BAD_INPUT(check(), AllOf(StartsWith("calibration.cache: "), HasSubstr("lies in output.path")));
}

TEST_F(Places, AnOutputWithoutANameIsRefused) {
  for (const char* path : {".", "..", "a/.."}) {
    config_.output.path = path;
    EXPECT_BAD_INPUT(check(), AllOf(StartsWith("output.path: "), HasSubstr("set run.directory")));
  }
}

TEST_F(Places, FoldersThatCannotBeWritten) {
  folder_.put("file", "");
  const std::string locked = folder_.path() + "/locked";
  fs::create_directory(locked);
  fs::permissions(locked, fs::perms::owner_read | fs::perms::owner_exec | fs::perms::group_read |
                              fs::perms::group_exec | fs::perms::others_read | fs::perms::others_exec);
  const std::string closed = folder_.path() + "/closed";
  fs::create_directory(closed);
  fs::permissions(closed, fs::perms::none);
  const AsAnotherUser other;
  EXPECT_NO_THROW(check());
  config_.output.path = closed + "/a/out";  // it cannot be seen whether this exists
  EXPECT_BAD_INPUT(check(), AllOf(StartsWith("run.directory: " + closed), HasSubstr("Permission denied")));
  config_.output.path = locked + "/a/out";
  EXPECT_BAD_INPUT(check(), AllOf(StartsWith("output.path: " + locked + "/a/out: cannot be written: "),
                                  HasSubstr(locked + ": Permission denied"), HasSubstr("change the permissions")));
  config_.output.path = folder_.path() + "/out";
  config_.run.directory = locked + "/run";
  EXPECT_BAD_INPUT(check(), StartsWith("run.directory: "));
  config_.run.directory = folder_.path() + "/file/run";
  EXPECT_BAD_INPUT(check(), HasSubstr("/file is a file"));
  config_.run.directory.clear();
  config_.calibration.cache = locked;
  EXPECT_BAD_INPUT(check(), StartsWith("calibration.cache: "));
}

TEST_F(Places, SpaceIsCountedPerFileSystem) {
  plan_.forecast.disk = {{"boundaries", 1000}, {"checkpoint", kTooMuch}};
  EXPECT_BAD_INPUT(check(), AllOf(StartsWith("output.path: "), HasSubstr("boundaries 1.0 kB, checkpoint 1152921"),
                                  HasSubstr("are free; free some space")));
  plan_.forecast.disk = {{"boundaries", kTooMuch}, {"checkpoint", 1000}};
  config_.run.directory = folder_.path() + "/run";
  EXPECT_BAD_INPUT(check(), StartsWith("run.directory: " + config_.run.directory));
  // In a shared cache the boundaries may be there already.
  config_.calibration.cache = folder_.path() + "/model";
  EXPECT_NO_THROW(check());
  // A run that resumes has written a part.
  config_.calibration.cache.clear();
  fs::create_directory(config_.run.directory);
  Journal(config_.run.directory + "/journal").append(record::Run{"1", {}, {}, config_.output.path});
  EXPECT_NO_THROW(check());
}

TEST_F(Places, BlocksThatTheOutputIsMadeFromAreInTheRunDirectory) {
  plan_.tuned_in_place = false;
  config_.run.directory = folder_.path() + "/run";
  plan_.forecast.disk = {{"tuned blocks", kTooMuch}, {"checkpoint", 1000}};
  EXPECT_BAD_INPUT(check(), StartsWith("run.directory: " + config_.run.directory + "/tuned"));
  const auto free = static_cast<std::int64_t>(fs::space(folder_.path()).available);
  plan_.forecast.disk = {{"tuned blocks", free / 5 * 2}, {"checkpoint", free / 5 * 2}};
  EXPECT_NO_THROW(check());
  plan_.forecast.disk.push_back({"qdq", free / 5 * 2});
  EXPECT_BAD_INPUT(check(), AllOf(HasSubstr("(tuned blocks "), HasSubstr(", qdq ")));
}

TEST_F(Places, FilesNextToTheModelThatCannotBeRead) {
  folder_.put("model/tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n");
  EXPECT_BAD_INPUT(check(), AllOf(HasSubstr("model/tokenizer.json: is a git-lfs pointer"), HasSubstr("git lfs pull")));
  fs::remove(folder_.path() + "/model/tokenizer.json");
  fs::create_symlink("../blobs/12", folder_.path() + "/model/tokenizer.json");
  EXPECT_BAD_INPUT(check(), HasSubstr("model/tokenizer.json: is a link to ../blobs/12, where there is no file"));
  fs::permissions(folder_.put("model/tokenizer.json", "{}"), fs::perms::none);
  const AsAnotherUser other;
  EXPECT_BAD_INPUT(check(), AllOf(HasSubstr("model/tokenizer.json"), HasSubstr("Permission denied")));
}

TEST_F(Places, OnlyItsOwnFileIsOverwrittenByLogits) {
  const std::string path = folder_.path() + "/logits.safetensors";
  EXPECT_NO_THROW(check_logits_path(path));
  write_safetensors(path, {}, {{"format", kLogitsFormat}});
  EXPECT_NO_THROW(check_logits_path(path));
  for (const char* format : {"pt", "roundtable.tokens"}) {
    write_safetensors(path, {}, {{"format", format}});
    EXPECT_BAD_INPUT(check_logits_path(path), AllOf(StartsWith("run.logits: " + path), HasSubstr("would overwrite")));
  }
  EXPECT_BAD_INPUT(check_logits_path(config_.model.path), HasSubstr("would overwrite"));
  EXPECT_BAD_INPUT(check_logits_path(config_.model.path + "/tokenizer.json"), HasSubstr("would overwrite"));
  EXPECT_BAD_INPUT(check_logits_path(folder_.path() + "/none/l"), HasSubstr("its folder cannot be found"));
}

}  // namespace
}  // namespace roundtable

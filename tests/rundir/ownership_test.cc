// Whose a folder is, from folders made by hand.
#include "rundir/ownership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/hash.h"
#include "rundir/journal.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

class Ownership : public ::testing::Test {
 protected:
  Ownership() { config_.output.path = folder_.path() + "/out"; }

  RunPaths paths() const { return RunPaths(config_, true); }
  // The run directory of a run that began with `output`, with a record for each of `files` of the output.
  void begin_run(const std::string& output, const std::vector<std::string>& files = {}) const {
    make_directory(paths().directory);
    Journal journal(paths().journal());
    journal.append(record::Run{"1", {}, {}, output});
    for (const std::string& file : files) {
      record::Outside record;
      record.file = file;
      record.digest = hash_file(folder_.path() + "/out/" + file);
      journal.append(record);
    }
  }
  std::vector<Record> records(Work work = Work::kRun) const {
    return records_of_own(work, paths().directory, "run.directory");
  }
  void check_output() const { refuse_foreign_output(paths(), records()); }
  std::string put(const std::string& name, const std::string& content) const {
    fs::create_directories(fs::path(folder_.path() + "/" + name).parent_path());
    return folder_.put(name, content);
  }

  TemporaryFolder folder_;
  Config config_;
};

TEST_F(Ownership, OfARunDirectoryThatNobodyHasUsed) {
  EXPECT_THAT(records(), SizeIs(0));
  make_directory(paths().directory);
  EXPECT_THAT(records(), SizeIs(0));
  // What a start leaves that ends before its first record.
  put("out.run/journal", "");
  put("out.run/config.yaml.tmp-node1-12", "half");
  EXPECT_THAT(records(), SizeIs(0));
}

TEST_F(Ownership, OfOurRunDirectoryWithFilesOfTheUserInIt) {
  begin_run(paths().output);
  put("out.run/notes.txt", "the user's");
  EXPECT_THAT(records(), SizeIs(1));
}

TEST_F(Ownership, ScoresMayBeThereBeforeARunBegins) {
  EXPECT_TRUE(is_scores_name("scores-0123456789abcdef0123456789abcdef.json"));
  for (const char* name : {"scores-.json", "scores-0123456789ABCDEF0123456789abcdef.json", "scores.json"}) {
    EXPECT_FALSE(is_scores_name(name)) << name;
  }
  put("out.run/scores-0123456789abcdef0123456789abcdef.json", "{}");
  EXPECT_THAT(records(), SizeIs(0));
  EXPECT_THROW(records(Work::kConversion), Error);  // which makes none
}

TEST_F(Ownership, FilesOfAUserInTheRunDirectoryAreRefused) {
  put("out.run/config.yaml", "the user's");
  EXPECT_BAD_INPUT(records(), AllOf(StartsWith("run.directory: " + paths().directory), HasSubstr("(config.yaml)"),
                                    HasSubstr("no journal of a run"), HasSubstr("choose a folder")));
  put("out.run/journal", "");  // an empty file of that name is no proof
  EXPECT_BAD_INPUT(records(), HasSubstr("is not one of roundtable quantize"));
  for (const char* text : {"x", "Monday", "Monday: rain", "Monday: it rained all day long"}) {
    put("out.run/journal", text);
    EXPECT_BAD_INPUT(records(), HasSubstr("choose another run"));
    EXPECT_EQ(content_of(paths().journal()), text);
  }
  fs::remove_all(paths().directory);
  put("out.run", "a file");
  EXPECT_BAD_INPUT(records(), HasSubstr("is a file, and a folder is needed"));
}

TEST_F(Ownership, OfOtherWorkIsRefused) {
  begin_run(paths().output);
  EXPECT_BAD_INPUT(records(Work::kConversion), HasSubstr("is not one of roundtable convert"));
  fs::remove(paths().journal());
  Journal(paths().journal()).append(record::Conversion{"1", {}});
  EXPECT_THAT(records(Work::kConversion), SizeIs(1));
  EXPECT_BAD_INPUT(records(), HasSubstr("is not one of roundtable quantize"));
}

TEST_F(Ownership, OfAnOutput) {
  const std::string file = put("out/model-1", "block");
  EXPECT_BAD_INPUT(check_output(), AllOf(StartsWith("output.path: " + paths().output), HasSubstr("is not empty"),
                                         HasSubstr("choose another output.path")));
  begin_run(paths().output);
  EXPECT_NO_THROW(check_output());  // the first block's file has no record yet
  begin_run(paths().output, {"model-1"});
  EXPECT_NO_THROW(check_output());
  put("out/model-1", "damaged");  // it is still the run's
  EXPECT_NO_THROW(check_output());
  // The user has removed the checkpoint and keeps other files there.
  fs::remove(file);
  EXPECT_NO_THROW(check_output());
  put("out/model-1.tmp-node1-12", "half");
  EXPECT_NO_THROW(check_output());
  put("out/README.md", "the user's");
  EXPECT_BAD_INPUT(check_output(), AllOf(HasSubstr("(README.md)"), HasSubstr("knows no file in it")));
}

TEST_F(Ownership, OfAnOutputThatTheJournalDoesNotName) {
  put("out/model-1", "block");
  begin_run("elsewhere/out", {"model-1"});
  EXPECT_NO_THROW(check_output());      // moved together with its run directory
  put("out/model-1", "another model");  // most checkpoints have files of this name
  EXPECT_BAD_INPUT(check_output(), HasSubstr("knows no file in it"));
  EXPECT_EQ(content_of(paths().output + "/model-1"), "another model");
}

TEST_F(Ownership, OfAnOutputThatIsMadeFromBlocksElsewhere) {
  const RunPaths made(config_, false);
  put("out/model.safetensors", "made");
  put("out.run/tuned/model-1", "block");
  begin_run(paths().output);
  EXPECT_NO_THROW(refuse_foreign_output(made, records()));
  RunPaths other = made;
  other.output = folder_.path() + "/other";
  put("other/thesis.txt", "the user's");
  EXPECT_BAD_INPUT(refuse_foreign_output(other, records()), HasSubstr("(thesis.txt)"));
}

}  // namespace
}  // namespace roundtable

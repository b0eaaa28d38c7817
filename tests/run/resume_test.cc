// What a restart takes as done, from journals and files made by hand.
#include "run/resume.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <optional>

#include "base/version.h"
#include "comm/communicator.h"
#include "tests/io/throws_error.h"
#include "tests/run/run_fixture.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class Resume : public ::testing::Test {
 protected:
  RunState& open(const nlohmann::json& print = {{"model", "a"}}) {
    state_.reset();
    state_.emplace(run_.paths(), print, run_.plan);
    state_->take_stock(damaged_files(alone_, state_->files_on_record()));
    return *state_;
  }
  // Blocks [0, count) as an earlier start left them.
  void finish_blocks(std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) open().journal().append(run_.block(i, "content " + std::to_string(i)));
  }

  testing::RunFixture run_;
  SelfCommunicator alone_;
  std::optional<RunState> state_;
};

TEST_F(Resume, ANewRunHasNothingDoneAndItsJournalSaysWhatItIs) {
  const RunState& state = open({{"model", "a"}, {"bits", 4}});
  EXPECT_THAT(state.finished(), ElementsAre(0, 0));
  EXPECT_THAT(state.needed_boundaries(), ElementsAre(0, 2));
  EXPECT_EQ(state.assembled(), nullptr);
  const auto* run = state.journal().last<record::Run>();
  ASSERT_NE(run, nullptr);
  EXPECT_EQ(run->version, program_version());
  EXPECT_EQ(run->fingerprint, (nlohmann::json{{"model", "a"}, {"bits", 4}}));
  ASSERT_EQ(run->stages.size(), 2u);
  EXPECT_EQ(run->stages[1].first, 2);
  EXPECT_EQ(run->output, run_.config.output.path);
}

TEST_F(Resume, AnotherRunIsRefusedByWhatDiffers) {
  open({{"model", "a"}, {"bits", 4}});
  state_.reset();
  EXPECT_BAD_INPUT(RunState(run_.paths(), {{"model", "a"}, {"bits", 3}}, run_.plan),
                   AllOf(HasSubstr("differs in: bits"), Not(HasSubstr("model"))));
  EXPECT_NO_THROW(open({{"model", "a"}, {"bits", 4}}));
}

TEST_F(Resume, TheFixOfADifferenceIsNamed) {
  run_.config.output.path = run_.folder.path() + "/out";
  const nlohmann::json print = {{"model", "a"}, {"number of stages", 2}, {"output.formats", {"auto_round"}}};
  open(print);
  state_.reset();
  const auto refused = [&](const char* key, const nlohmann::json& value, const auto& matcher) {
    nlohmann::json other = print;
    other[key] = value;
    EXPECT_BAD_INPUT(RunState(run_.paths(), other, run_.plan), AllOf(matcher, HasSubstr("choose another output.path")));
  };
  refused("model", "b", Not(HasSubstr("parallel.stages")));
  refused("number of stages", 3, HasSubstr("differs in: number of stages; set parallel.stages=2 to keep"));
  refused("output.formats", {"auto_round", "gguf"},
          AllOf(HasSubstr("set output.formats to auto_round as before"),
                HasSubstr("roundtable convert " + run_.config.output.path + " --format gguf --output " +
                          run_.config.output.path + "-gguf;")));
  refused("output.formats", {"gguf"}, HasSubstr("--format gguf"));
}

TEST_F(Resume, FilesOfSomebodyElseAreRefusedAndKept) {
  fs::create_directories(run_.config.output.path);
  const std::string theirs = run_.folder.put("out/thesis.tex", "years of work");
  EXPECT_BAD_INPUT(open(), HasSubstr("is not empty"));
  EXPECT_EQ(content_of(theirs), "years of work");
  EXPECT_FALSE(fs::exists(run_.paths().directory));
}

TEST_F(Resume, ASecondJobIsRefusedInTheRunDirectoryAndInTheOutput) {
  open();
  EXPECT_BAD_INPUT(RunState(run_.paths(), {{"model", "a"}}, run_.plan), HasSubstr("another job is at work"));
  testing::RunFixture other;
  RunPaths paths = run_.paths();
  paths.directory = other.folder.path() + "/its-own.run";  // but the same output
  fs::create_directories(paths.directory);
  Journal(paths.journal()).append(record::Run{"1", {{"model", "a"}}, {}, ""});
  EXPECT_BAD_INPUT(RunState(paths, {{"model", "a"}}, run_.plan), HasSubstr("at work in this output directory"));
}

TEST_F(Resume, BlocksAreDoneWhileTheirFilesAreOnDiskAsTheyWereWritten) {
  finish_blocks(3);
  EXPECT_THAT(open().finished(), ElementsAre(2, 1));
  EXPECT_EQ(open().finished_blocks(), 3);
  EXPECT_THAT(open().needed_boundaries(), ElementsAre(2));
  // A block that was changed does not count, nor do those after it in its stage.
  run_.folder.put("out/block-0", "damaged");
  EXPECT_THAT(open().finished(), ElementsAre(0, 1));
  fs::remove(run_.folder.path() + "/out/block-2");
  EXPECT_THAT(open().finished(), ElementsAre(0, 0));
  EXPECT_EQ(open().blocks_on_record().size(), 3u);
}

TEST_F(Resume, TheLastRecordOfABlockCounts) {
  finish_blocks(1);
  const record::Block again = run_.block(0, "tuned again");
  EXPECT_THAT(open().finished(), ElementsAre(0, 0));
  state_->journal().append(again);
  EXPECT_THAT(open().finished(), ElementsAre(1, 0));
  ASSERT_EQ(state_->tuned_files().size(), 1u);
  EXPECT_EQ(state_->tuned_files()[0].digest, again.files[0].digest);
}

TEST_F(Resume, ABlockIsDoneWithAllOfItsFiles) {
  run_.plan.expert_parts = 2;
  for (std::int64_t i = 0; i < 2; ++i) {
    open();
    record::Block block = run_.block(i, "first part");
    const std::string name = block.files[0].name + "-second";
    block.files.push_back({name, hash_file(run_.folder.put("out/" + name, "second part")), 11});
    state_->journal().append(block);
  }
  EXPECT_THAT(open().finished(), ElementsAre(2, 0));
  EXPECT_EQ(state_->tuned_files().size(), 4u);
  for (const char* name : {"out/block-1", "out/block-1-second"}) {
    const std::string content = content_of(run_.folder.path() + "/" + name);
    run_.folder.put(name, "damaged");
    EXPECT_THAT(open().finished(), ElementsAre(1, 0)) << name;
    fs::remove(run_.folder.path() + "/" + name);
    EXPECT_THAT(open().finished(), ElementsAre(1, 0)) << name;
    run_.folder.put(name, content);
    EXPECT_THAT(open().finished(), ElementsAre(2, 0)) << name;
  }
}

TEST_F(Resume, AnotherNumberOfPartsIsRefusedWithTheSettingsThatFit) {
  EXPECT_EQ(parts_on_record(run_.paths()), 0);
  run_.plan.expert_parts = 4;
  open();
  EXPECT_EQ(parts_on_record(run_.paths()), 4);
  state_.reset();
  EXPECT_NO_THROW(open());
  state_.reset();
  for (const int parts : {1, 2}) {
    run_.plan.expert_parts = parts;
    EXPECT_BAD_INPUT(RunState(run_.paths(), {{"model", "a"}}, run_.plan),
                     AllOf(HasSubstr("holds this run with its experts divided into 4 parts"),
                           HasSubstr("set parallel.shards=4 and parallel.experts=divided on a multiple of 4 ranks, or choose another")));
  }
  // What differs in the fingerprint, too, is another run.
  EXPECT_BAD_INPUT(RunState(run_.paths(), {{"model", "b"}}, run_.plan), HasSubstr("differs in: model"));
  testing::RunFixture whole;
  { const RunState begun(whole.paths(), {}, whole.plan); }
  whole.plan.expert_parts = 2;
  EXPECT_BAD_INPUT(RunState(whole.paths(), {}, whole.plan),
                   AllOf(HasSubstr("with its experts not divided"), HasSubstr("set parallel.experts=replicated, or")));
  // A journal that cannot be read tells no number.
  run_.folder.put("out.run/journal", "no journal");
  EXPECT_EQ(parts_on_record(run_.paths()), 0);
}

TEST_F(Resume, JointBlocksAreDoneTogetherOrNotAtAll) {
  testing::RunFixture joint({{0, 4}});
  joint.plan.joint_blocks = 2;
  std::optional<RunState> state(std::in_place, joint.paths(), nlohmann::json(), joint.plan);
  for (std::int64_t i = 0; i < 3; ++i) state->journal().append(joint.block(i, "x"));
  state.reset();
  EXPECT_THAT(RunState(joint.paths(), {}, joint.plan).finished(), ElementsAre(2));
}

TEST_F(Resume, ABoundaryCountsIfItHasItsSize) {
  open().journal().append(record::Boundary{0, 5});
  state_->journal().append(record::Boundary{2, 5});
  run_.folder.put("out.run/boundary-00000.h5", "12345");
  run_.folder.put("out.run/boundary-00002.h5", "123");
  EXPECT_THAT(open().missing_boundaries(), ElementsAre(2));
  fs::remove(run_.paths().boundary(0));
  EXPECT_THAT(open().missing_boundaries(), ElementsAre(0, 2));
}

TEST_F(Resume, ARunIsCompleteWithAllItsFiles) {
  finish_blocks(4);
  EXPECT_EQ(open().assembled(), nullptr);
  const std::string outside = run_.folder.put("out/outside", "embedding");
  state_->journal().append(record::Outside{"outside", "a digest of an earlier start"});
  state_->journal().append(record::Outside{"outside", hash_file(outside)});
  state_->journal().append(record::Assembled{});
  EXPECT_NE(open().assembled(), nullptr);
  EXPECT_EQ(state_->finished_summary(), nullptr);
  state_->journal().append(record::Summary{});
  EXPECT_NE(open().finished_summary(), nullptr);
  EXPECT_THAT(state_->needed_boundaries(), IsEmpty());
  run_.folder.put("out/outside", "damaged");
  EXPECT_EQ(open().finished_summary(), nullptr);
}

// A finished run: blocks, a companion and a further format, each as the journal says.
class FinishedRun : public Resume {
 protected:
  FinishedRun() {
    finish_blocks(4);
    fs::create_directories(run_.folder.path() + "/out/gguf");
    for (const char* name : {"config.json", "tokenizer.json"}) run_.folder.put(std::string("out/") + name, "content");
    state_->record_tuned_files({"config.json", "tokenizer.json"});
    state_->journal().append(record::Assembled{});
    for (const char* name : {"gguf/model.gguf", "README.md"}) {
      const std::string path = run_.folder.put(std::string("out/") + name, "content");
      state_->record_output_files({{path, hash_file(path)}});
    }
    state_->journal().append(record::Summary{});
  }
  std::string at(const std::string& name) const { return run_.folder.path() + "/out/" + name; }
};

TEST_F(FinishedRun, IsFinishedWhileEveryFileIsAsItWasWritten) {
  EXPECT_NE(open().finished_summary(), nullptr);
  EXPECT_EQ(state_->files_on_record().size(), 8u);
  for (const char* name : {"config.json", "tokenizer.json", "gguf/model.gguf", "block-3"}) {
    const bool is_tuned = std::string(name) != "gguf/model.gguf";
    for (const bool missing : {false, true}) {
      const std::string content = content_of(at(name));
      if (missing) {
        fs::remove(at(name));
      } else {
        run_.folder.put(std::string("out/") + name, "damaged");
      }
      EXPECT_EQ(open().finished_summary(), nullptr) << name;
      EXPECT_EQ(state_->assembled() == nullptr, is_tuned) << name;
      if (is_tuned) {  // what a further format lacks is made from the tuned checkpoint
        EXPECT_BAD_INPUT(state_->refuse_what_stays_damaged("the model"),
                         AllOf(HasSubstr(at(name)), HasSubstr("put it into the model")));
      }
      run_.folder.put(std::string("out/") + name, content);
      EXPECT_NO_THROW(state_->refuse_what_stays_damaged("the model"));
    }
  }
  EXPECT_NE(open().finished_summary(), nullptr);
}

TEST_F(FinishedRun, AFileIsRecordedOnceForEachContent) {
  const std::size_t records = state_->journal().records().size();
  state_->record_tuned_files({"config.json"});
  EXPECT_EQ(state_->journal().records().size(), records);
  run_.folder.put("out/config.json", "other");
  state_->record_tuned_files({"config.json"});
  EXPECT_EQ(state_->journal().records().size(), records + 1);
  EXPECT_EQ(state_->assembled(), nullptr) << "it was written after the checkpoint was complete";
}

TEST_F(FinishedRun, ACardThatWasEditedStays) {
  run_.folder.put("out/README.md", "my own words");
  EXPECT_NE(open().finished_summary(), nullptr);
  EXPECT_TRUE(state_->was_edited(at("README.md")));
  EXPECT_FALSE(state_->was_edited(at("gguf/model.gguf")));
  fs::remove(at("README.md"));
  EXPECT_EQ(open().finished_summary(), nullptr);
  EXPECT_FALSE(state_->was_edited(at("README.md")));
}

TEST_F(FinishedRun, ABlockThatWasTunedAgainIsToBeAssembledAgain) {
  open().journal().append(run_.block(1, "tuned again"));
  EXPECT_EQ(open().assembled(), nullptr);
  state_->journal().append(record::Assembled{});
  EXPECT_NE(open().assembled(), nullptr);
  EXPECT_EQ(state_->finished_summary(), nullptr) << "further formats are to be compared with it";
}

TEST_F(Resume, TemporaryFilesOfADeadJobAreRemovedAndNoOthers) {
  open();
  const std::vector<std::string> dead = {"out/model.tmp-node1-123", "out.run/boundary-00002.h5.tmp",
                                         "out.run/trial.h5.tmp"};
  const std::vector<std::string> kept = {"out/model.tmp", "out.run/boundary-2.txt"};
  for (const std::string& name : dead) run_.folder.put(name, "x");
  for (const std::string& name : kept) run_.folder.put(name, "x");
  open();
  for (const std::string& name : dead) EXPECT_FALSE(fs::exists(run_.folder.path() + "/" + name)) << name;
  for (const std::string& name : kept) EXPECT_TRUE(fs::exists(run_.folder.path() + "/" + name)) << name;
}

}  // namespace
}  // namespace roundtable

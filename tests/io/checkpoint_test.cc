// Model directories: single files, shards, and indexes that promise what is not there.
#include "io/checkpoint.h"

#include <gmock/gmock.h>

#include <thread>

#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kIndex = "model.safetensors.index.json";

TensorView text(const std::string& name, const std::string& bytes) {
  return {name, ElementType::kU8, {static_cast<std::int64_t>(bytes.size())}, bytes.data()};
}

// Two shards and their index: "a" and "c" in the first, "b" in the second.
void make_sharded(const TemporaryFolder& folder) {
  static const std::string a = "one", b = "three", c = "seven";
  write_safetensors(folder.path() + "/m-1.safetensors", {text("a", a), text("c", c)});
  write_safetensors(folder.path() + "/m-2.safetensors", {text("b", b)});
  write_checkpoint_index(folder.path(), {{"a", "m-1.safetensors"}, {"b", "m-2.safetensors"}, {"c", "m-1.safetensors"}},
                         13);
}

std::string read_text(const Checkpoint& checkpoint, const std::string& name) {
  std::string bytes(checkpoint.info(name).bytes, '\0');
  checkpoint.read(name, bytes.data());
  return bytes;
}

TEST(Checkpoint, ReadsASingleFile) {
  const TemporaryFolder folder;
  write_safetensors(folder.path() + "/model.safetensors", {text("a", "one"), text("b", "three")});
  const Checkpoint checkpoint(folder.path());
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b"));
  EXPECT_TRUE(checkpoint.contains("a"));
  EXPECT_FALSE(checkpoint.contains("c"));
  EXPECT_EQ(read_text(checkpoint, "b"), "three");
  EXPECT_EQ(checkpoint.total_bytes(), 8u);
}

TEST(Checkpoint, ReadsShards) {
  const TemporaryFolder folder;
  make_sharded(folder);
  const Checkpoint checkpoint(folder.path());
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(checkpoint.file_of("b"), "m-2.safetensors");
  EXPECT_EQ(read_text(checkpoint, "a"), "one");
  EXPECT_EQ(read_text(checkpoint, "b"), "three");
  EXPECT_EQ(read_text(checkpoint, "c"), "seven");
  EXPECT_EQ(checkpoint.total_bytes(), 13u);
}

TEST(Checkpoint, OpensAShardWhenItIsFirstAskedFor) {
  const TemporaryFolder folder;
  make_sharded(folder);
  folder.put("m-2.safetensors", "broken");
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(read_text(checkpoint, "a"), "one");
  EXPECT_BAD_INPUT(checkpoint.info("b"), HasSubstr("m-2.safetensors: holds 6 bytes"));
  EXPECT_BAD_INPUT(checkpoint.info("b"), HasSubstr("m-2.safetensors: holds 6 bytes"));  // and again
}

TEST(Checkpoint, RefusesASingleFileNextToAnIndexOfOthers) {
  const TemporaryFolder folder;
  make_sharded(folder);
  write_safetensors(folder.path() + "/model.safetensors", {text("x", "y")});
  EXPECT_BAD_INPUT(Checkpoint(folder.path()),
                   AllOf(StartsWith(folder.path() + ": holds model.safetensors and model.safetensors.index.json"),
                         HasSubstr("(m-1.safetensors)"), EndsWith("; remove the one that is out of date")));
  std::filesystem::remove(folder.path() + "/m-1.safetensors");  // only the index was left behind
  EXPECT_BAD_INPUT(Checkpoint(folder.path()), EndsWith("; remove the one that is out of date"));
}

TEST(Checkpoint, TakesASingleFileThatTheIndexNames) {
  const TemporaryFolder folder;
  write_safetensors(folder.path() + "/model.safetensors", {text("a", "one"), text("b", "three")});
  write_checkpoint_index(folder.path(), {{"a", "model.safetensors"}}, 3);
  EXPECT_THAT(Checkpoint(folder.path()).names(), ElementsAre("a", "b"));
  EXPECT_TRUE(Checkpoint(folder.path()).strays().empty());
}

TEST(Checkpoint, TheIndexDecidesOnATensorInTwoShards) {
  const TemporaryFolder folder;
  const std::string old = "old";
  make_sharded(folder);
  write_safetensors(folder.path() + "/m-2.safetensors", {text("a", old), text("b", "three"), text("d", old)});
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(read_text(checkpoint, "a"), "one");
  EXPECT_FALSE(checkpoint.contains("d"));
  const std::vector<Checkpoint::Stray> strays = checkpoint.strays();
  ASSERT_EQ(strays.size(), 2u);
  EXPECT_EQ(strays[0].name + " in " + strays[0].file, "a in m-2.safetensors");
  EXPECT_EQ(strays[1].name + " in " + strays[1].file, "d in m-2.safetensors");
}

TEST(Checkpoint, ServesThreadsAtOnce) {
  const TemporaryFolder folder;
  make_sharded(folder);
  for (int i = 0; i < 50; ++i) {
    const Checkpoint checkpoint(folder.path());
    std::thread other([&] { EXPECT_EQ(read_text(checkpoint, "b"), "three"); });
    EXPECT_EQ(read_text(checkpoint, "b"), "three");
    EXPECT_EQ(read_text(checkpoint, "a"), "one");
    other.join();
  }
}

TEST(Checkpoint, RefusesAMissingFolder) {
  EXPECT_BAD_INPUT(Checkpoint("/nowhere"), StartsWith("/nowhere: there is no such folder"));
}

TEST(Checkpoint, RefusesAFolderWithoutWeights) {
  const TemporaryFolder folder;
  EXPECT_BAD_INPUT(Checkpoint(folder.path()), HasSubstr("holds neither model.safetensors nor model.safetensors.index"));
}

TEST(Checkpoint, NamesTheOlderFormat) {
  const TemporaryFolder folder;
  folder.put("pytorch_model.bin", "x");
  EXPECT_BAD_INPUT(Checkpoint(folder.path()), HasSubstr("convert pytorch_model.bin"));
}

TEST(Checkpoint, NamesATensorThatIsMissing) {
  const TemporaryFolder folder;
  make_sharded(folder);
  const Checkpoint checkpoint(folder.path());
  EXPECT_BAD_INPUT(
      checkpoint.info("lm_head.weight"),
      AllOf(StartsWith(folder.path()), EndsWith("tensor 'lm_head.weight': is missing from the checkpoint")));
  char byte = 0;
  EXPECT_BAD_INPUT(checkpoint.read("d", &byte), HasSubstr("'d': is missing"));
}

TEST(CheckpointIndex, RefusesAMissingShard) {
  const TemporaryFolder folder;
  make_sharded(folder);
  std::filesystem::remove(folder.path() + "/m-2.safetensors");
  EXPECT_BAD_INPUT(Checkpoint(folder.path()), AllOf(HasSubstr(kIndex), HasSubstr("m-2.safetensors, which is missing")));
}

TEST(CheckpointIndex, RefusesATensorThatTheShardLacks) {
  const TemporaryFolder folder;
  make_sharded(folder);
  write_checkpoint_index(folder.path(), {{"a", "m-2.safetensors"}}, 3);
  const Checkpoint checkpoint(folder.path());
  EXPECT_BAD_INPUT(checkpoint.info("a"), HasSubstr("m-2.safetensors: tensor 'a': is missing, though"));
  EXPECT_BAD_INPUT(checkpoint.total_bytes(), HasSubstr("tensor 'a': is missing, though"));
}

TEST(CheckpointIndex, RefusesNamesThatLeadOutOfTheFolder) {
  for (const char* name : {"../x.safetensors", "/etc/passwd", "a/b", "..", ".", ""}) {
    const TemporaryFolder folder;
    write_checkpoint_index(folder.path(), {{"a", name}}, 0);
    EXPECT_BAD_INPUT(Checkpoint(folder.path()), HasSubstr("is not the name of a file next to it"));
  }
}

TEST(CheckpointIndex, RefusesABrokenIndex) {
  const TemporaryFolder folder;
  folder.put(kIndex, "{");
  EXPECT_BAD_INPUT(Checkpoint(folder.path()), HasSubstr("is not valid JSON"));
  folder.put(kIndex, "{}");
  EXPECT_BAD_INPUT(Checkpoint(folder.path()), HasSubstr("key 'weight_map': is missing"));
  folder.put(kIndex, R"({"weight_map": {"a": 1}})");
  EXPECT_BAD_INPUT(Checkpoint(folder.path()), HasSubstr("key 'weight_map.a': must be a string, not 1"));
}

TEST(CheckpointIndex, IsWrittenAsHuggingFaceDoes) {
  const TemporaryFolder folder;
  write_checkpoint_index(folder.path(), {{"b", "m-2"}, {"a", "m-1"}}, 12);
  EXPECT_EQ(content_of(folder.path() + "/" + kIndex),
            "{\n  \"metadata\": {\n    \"total_size\": 12\n  },\n  \"weight_map\": {\n    \"a\": \"m-1\",\n"
            "    \"b\": \"m-2\"\n  }\n}\n");
}

}  // namespace
}  // namespace roundtable

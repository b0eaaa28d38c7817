// The name of the base model in a card.
#include "phases/model_card.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

class BaseModel : public ::testing::Test {
 protected:
  // A folder below the temporary one, with a config.json of this text.
  std::string model(const std::string& name, const std::string& json = "{}") const {
    fs::create_directories(folder_.path() + "/" + name);
    folder_.put(name + "/config.json", json);
    return folder_.path() + "/" + name;
  }

  TemporaryFolder folder_;
};

TEST_F(BaseModel, IsTheRepositoryOfASnapshot) {
  const std::string snapshots = "hub/models--Qwen--Qwen3-0.6B/snapshots/";
  const std::string hash = snapshots + "c1899de289a04d12100db370d81485cdf75e47ca";
  const std::string path = model(hash, R"({"_name_or_path": "Qwen/the-one-before"})");
  EXPECT_EQ(base_model(path), "Qwen/Qwen3-0.6B");
  EXPECT_EQ(base_model(path + "/"), "Qwen/Qwen3-0.6B");
  EXPECT_EQ(base_model(path + "/../" + fs::path(hash).filename().string()), "Qwen/Qwen3-0.6B");
  fs::create_directory_symlink(path, folder_.path() + "/link");
  EXPECT_EQ(base_model(folder_.path() + "/link"), "Qwen/Qwen3-0.6B");
  EXPECT_EQ(base_model(model("models--gpt2/snapshots/607a")), "gpt2");
}

TEST_F(BaseModel, ElseTheNameInConfigJsonOrTheFolders) {
  EXPECT_EQ(base_model(model("mine", R"({"_name_or_path": "org/name"})")), "org/name");
  EXPECT_EQ(base_model(model("mine", R"({"_name_or_path": "/home/me/name"})")), "mine");
  EXPECT_EQ(base_model(model("mine")), "mine");
  EXPECT_EQ(base_model(model("mine") + "/"), "mine");
  EXPECT_EQ(base_model(model("snapshots/mine")), "mine");
  EXPECT_EQ(base_model(model("models--a--b/mine")), "mine");
}

}  // namespace
}  // namespace roundtable

// A cluster file over a config file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "config/config.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

class ClusterFile : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
};

TEST_F(ClusterFile, GoesOverTheConfigAndUnderTheOptions) {
  const std::string config = folder_.put("run.yaml", "model: {path: m}\ncluster: {nodes: 1, latency: 7}\n");
  const std::string cluster = folder_.put("big.yaml", "cluster: {nodes: 8, devices_a_node: 4}\n");
  EXPECT_EQ(load_config(config, {}).cluster.nodes, 1);
  const Config both = load_config(config, {"cluster.devices_a_node=2"}, cluster);
  EXPECT_EQ(both.cluster.nodes, 8);
  EXPECT_EQ(both.cluster.devices_a_node, 2);
  EXPECT_EQ(both.cluster.latency, 7);
  EXPECT_EQ(both.model.path, "m");
}

TEST_F(ClusterFile, ErrorsNameThatFile) {
  const std::string config = folder_.put("run.yaml", "model: {path: m}\n");
  const auto refused = [&](const std::string& text, const std::string& words) {
    const std::string cluster = folder_.put("cluster.yaml", text);
    try {
      load_config(config, {}, cluster);
      ADD_FAILURE() << "accepted: " << text;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr(cluster), ::testing::HasSubstr(words)));
    }
  };
  refused("cluster:\n  node: 8\n", "nodes");
  refused("cluster:\n  link_bandwidth: 0\n", "at least");
  refused("cluster:\n  matrix_rate: .inf\n", "cluster.matrix_rate");
  EXPECT_THROW(load_config(config, {}, folder_.path() + "/none.yaml"), Error);
}

TEST_F(ClusterFile, TheOnesThatComeAlongAreRead) {
  const std::string config = folder_.put("run.yaml", "model: {path: m}\n");
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(ROUNDTABLE_CONFIGS "/clusters")) {
    EXPECT_GE(load_config(config, {}, entry.path()).cluster.nodes, 1) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 5);
}

}  // namespace
}  // namespace roundtable

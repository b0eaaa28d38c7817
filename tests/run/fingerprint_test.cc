// The fingerprint of a run: every key of the config either changes it or is on the list of keys that do not matter.
#include "run/fingerprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/error.h"
#include "tests/config/other_value.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

// The keys that change no byte of the checkpoint. Whoever adds a key decides whether it belongs here.
const std::set<std::string> kDoNotMatter = {
    // Places.
    "calibration.cache", "output.path", "run.directory", "run.eval_tokens", "run.logits",
    // What the graphs compute is a part of its own.
    "model.graph", "model.trust_remote_code",
    // Its values are what matters.
    "tuning.recipe",
    // How the work is divided: the fingerprint holds the number of stages that comes of it.
    "parallel.shards", "parallel.stages", "parallel.threads", "parallel.backend", "parallel.share_devices", "tuning.enable_deterministic_algorithms", "parallel.experts",
    "tuning.micro_batch",
    "tuning.low_gpu_mem_usage", "cluster.nodes", "cluster.devices_a_node", "cluster.device_memory",
    "cluster.matrix_rate", "cluster.memory_bandwidth", "cluster.link_bandwidth", "cluster.network_bandwidth",
    "cluster.file_system_bandwidth", "cluster.latency",
    // How boundary files are written, what else is kept, and when the run ends.
    "storage.alignment", "storage.stripe_count", "storage.stripe_size", "storage.collective", "run.max_time",
    "run.time_limit", "run.keep_boundaries", "run.save_gradients",
    // What is refused.
    "calibration.check_tokenizer"};

// The keys that name something on disk that the result is made from.
const std::set<std::string> kByTheirContent = {"model.path", "calibration.tokens", "calibration.estimate"};

// The keys that take a single value.
const std::set<std::string> kOneValue = {"quantization.scale_dtype"};

// Gives one key another valid value, the others stay. Counts keys where none is to be changed.
class ChangeOne {
 public:
  explicit ChangeOne(int which) : left_(which) {}

  template <class Struct>
  void section(const char* name, Struct& fields, const char*) {
    section_ = name;
    fields.visit(*this);
  }
  template <class T>
  void operator()(const char* key, T& field, Effect, const char*, const Constraint<T>& constraint) {
    if (left_-- != 0) return;
    key_ = section_ + "." + key;
    const std::optional<T> other = other_value(field, constraint);
    changed_ = other.has_value();
    if (changed_) field = *other;
  }

  const std::string& key() const { return key_; }  // empty: there are not so many keys
  bool changed() const { return changed_; }

 private:
  int left_;
  std::string section_;
  std::string key_;
  bool changed_ = false;
};

TEST(Fingerprint, EveryKeyChangesItOrIsOnAList) {
  const nlohmann::json before = settings_fingerprint(Config());
  std::set<std::string> keys;
  for (int which = 0;; ++which) {
    Config config;
    ChangeOne change(which);
    config.visit(change);
    const std::string& key = change.key();
    if (key.empty()) break;
    keys.insert(key);
    EXPECT_NE(change.changed(), kOneValue.contains(key)) << key;
    const bool listed = kDoNotMatter.contains(key) || kByTheirContent.contains(key);
    EXPECT_NE(before.contains(key), listed) << key << ": does it change the result?";
    if (!change.changed()) continue;
    const nlohmann::json after = settings_fingerprint(config);
    EXPECT_EQ(fingerprint_difference(before, after), listed ? "" : key);
    EXPECT_EQ(fingerprint_digest(before) == fingerprint_digest(after), listed) << key;
  }
  EXPECT_GT(keys.size(), 50u);
  for (const auto* list : {&kDoNotMatter, &kByTheirContent, &kOneValue}) {
    for (const std::string& key : *list) EXPECT_TRUE(keys.contains(key)) << key << " is not a key of the config";
  }
}

TEST(Fingerprint, EveryValueOfAChoiceIsAnother) {
  std::set<std::string> digests;
  for (const Choice<LrScheduler>& choice : kChoices<LrScheduler>) {
    Config config;
    config.tuning.lr_scheduler = choice.value;
    EXPECT_EQ(settings_fingerprint(config)["tuning.lr_scheduler"], choice.word);
    digests.insert(fingerprint_digest(settings_fingerprint(config)));
  }
  EXPECT_EQ(digests.size(), std::size(kChoices<LrScheduler>));
}

// ---- content ---------------------------------------------------------------------------------------------------

constexpr std::uint64_t kSpread = 3 << 20;  // more than the pieces that are read of a file

// A model directory of one tensor of `kSpread` bytes, each of them `byte`.
std::string put_model(const TemporaryFolder& folder, const std::string& name, const std::string& config_json,
                      char byte) {
  std::filesystem::create_directory(folder.path() + "/" + name);
  std::string header = fmt::format(R"({{"w":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}})", kSpread);
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i));
  folder.put(name + "/config.json", config_json);
  folder.put(name + "/model.safetensors", length + header + std::string(kSpread, byte));
  return folder.path() + "/" + name;
}

TEST(Fingerprint, PathsCountByWhatTheyLeadTo) {
  const TemporaryFolder folder;
  Config config;
  config.model.path = put_model(folder, "model", "{}", 'a');
  config.calibration.tokens = folder.put("tokens", "1 2 3");
  const nlohmann::json before = content_fingerprint(config);
  std::set<std::string> keys;
  for (const auto& item : before.items()) keys.insert(item.key());
  EXPECT_EQ(keys, kByTheirContent);
  EXPECT_EQ(before["calibration.estimate"], "") << "there is none";

  const auto difference = [&](const Config& other) {
    return fingerprint_difference(before, content_fingerprint(other));
  };
  Config moved = config;
  moved.model.path = put_model(folder, "moved", "{}", 'a');
  moved.calibration.tokens = folder.put("moved tokens", "1 2 3");
  EXPECT_EQ(difference(moved), "") << "the same content elsewhere";

  Config other = config;
  other.calibration.tokens = folder.put("other tokens", "1 2 4");
  EXPECT_EQ(difference(other), "calibration.tokens");
  other = config;
  other.model.path = put_model(folder, "other weights", "{}", 'b');
  EXPECT_EQ(difference(other), "model.path");
  other.model.path = put_model(folder, "other config", "{ }", 'a');
  EXPECT_EQ(difference(other), "model.path");
  other = config;
  other.calibration.estimate = config.model.path;
  EXPECT_EQ(difference(other), "calibration.estimate");
  other.calibration.estimate = folder.path() + "/nowhere";
  EXPECT_THROW(content_fingerprint(other), Error);
}

TEST(Fingerprint, HoldsSettingsContentGraphsAndTheNumberOfStages) {
  const TemporaryFolder folder;
  Config config;
  config.model.path = put_model(folder, "model", "{}", 'a');
  config.calibration.tokens = folder.put("tokens", "1 2 3");
  Plan plan;
  plan.model = testing::tiny_llama_model({.tied = true});
  plan.stages = {{0, 2}, {2, 4}};
  const nlohmann::json before = fingerprint(config, plan);
  EXPECT_EQ(before.size(), settings_fingerprint(config).size() + content_fingerprint(config).size() + 3);
  EXPECT_EQ(before["number of stages"], 2);
  EXPECT_TRUE(before.contains("version"));
  plan.model = plan.model.with_stored_head();
  EXPECT_EQ(fingerprint_difference(before, fingerprint(config, plan)), "graphs of the model");
  plan.model = testing::tiny_llama_model({.tied = true});
  plan.stages = {{0, 4}};
  EXPECT_EQ(fingerprint_difference(before, fingerprint(config, plan)), "number of stages");
  config.quantization.bits = 3;
  EXPECT_EQ(fingerprint_difference(before, fingerprint(config, plan)), "number of stages, quantization.bits");
}

}  // namespace
}  // namespace roundtable

// Damaged files at random, from a fixed seed: each must be read in full or refused with an Error. Nothing else may
// leave the readers, and none may read past the file (the address sanitizer watches in the asan preset).
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "base/error.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

constexpr int kRounds = 6000;

class Mutator {
 public:
  explicit Mutator(unsigned seed) : random_(seed) {}

  std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_); }

  // `head` is the part worth hitting.
  std::string mutate(std::string bytes, std::size_t head) {
    for (std::size_t left = 1 + below(3); left > 0 && !bytes.empty(); --left) {
      const std::size_t at = below(std::min(bytes.size(), head));
      switch (below(6)) {
        case 0:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
          break;
        case 1:
          bytes[at] = kTelling[below(sizeof kTelling - 1)];
          break;
        case 2:
          bytes.resize(at);
          break;
        case 3:
          bytes.erase(at, 1 + below(8));
          break;
        case 4:
          bytes.insert(at, bytes.substr(below(bytes.size()), 1 + below(40)));
          break;
        case 5:
          bytes.insert(bytes.size(), 1 + below(9), 'x');
          break;
      }
    }
    return bytes;
  }

 private:
  static constexpr char kTelling[] = "{}[]\",:0123456789-.eE\\u \n\xff";
  std::mt19937 random_;
};

TEST(Mutation, DamagedSafetensorsAreReadOrRefused) {
  const TemporaryFolder folder;
  const std::string data(64, 'd');
  const std::string path = folder.path() + "/x.safetensors";
  write_safetensors(path,
                    {{"model.a", ElementType::kF32, {2, 3}, data.data()},
                     {"model.b", ElementType::kBF16, {5}, data.data()},
                     {"model.c", ElementType::kI64, {1, 2, 1}, data.data()},
                     {"model.d", ElementType::kU8, {0}, data.data()}},
                    {{"format", "pt"}});
  const std::string whole = content_of(path);
  Mutator mutator(20240607);
  int read = 0, refused = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::string bytes = mutator.mutate(whole, whole.size());
    if (mutator.below(8) == 0 && bytes.size() >= 8) {  // a header length near the truth, or far
      const std::uint64_t length = mutator.below(2) == 0 ? mutator.below(2 * whole.size()) : ~mutator.below(1 << 30);
      std::memcpy(bytes.data(), &length, 8);
    } else if (mutator.below(2) == 0 && bytes.size() >= 8) {  // keep the length true, so that the JSON is reached
      const std::uint64_t length = bytes.size() - std::min<std::size_t>(bytes.size() - 8, whole.size() % 8 + 50) - 8;
      std::memcpy(bytes.data(), &length, 8);
    }
    folder.put("x.safetensors", bytes);
    try {
      const SafetensorsFile file(path);
      for (const auto& [name, info] : file.tensors()) {
        ASSERT_LE(info.offset + info.bytes, bytes.size());
        std::vector<char> content(info.bytes);
        file.read(info, content.data());
      }
      ++read;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::kBadInput) << error.what();
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      ++refused;
    }
  }
  // Both ways were taken, or the mutations are too harsh or too mild to mean anything.
  EXPECT_GT(read, kRounds / 100);
  EXPECT_GT(refused, kRounds / 2);
}

TEST(Mutation, DamagedJsonIsReadOrRefused) {
  const TemporaryFolder folder;
  const std::string whole =
      R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 576, "rms_norm_eps": 1e-05, "tie": true,
          "rope_scaling": {"factor": 8.0, "rope_type": "llama3"}, "eos_token_id": null, "name": "\u00fc ü"})";
  const std::string path = folder.path() + "/config.json";
  Mutator mutator(7);
  int read = 0, refused = 0;
  for (int round = 0; round < kRounds; ++round) {
    folder.put("config.json", mutator.mutate(whole, whole.size()));
    try {
      const JsonObject config = JsonObject::load(path);
      config.get_strings("architectures");
      config.get_int("hidden_size", 1, 1 << 20);
      config.get_double("rms_norm_eps", 0, 1);
      config.get_bool_or("tie", false);
      config.get_object("rope_scaling").get_double("factor");
      config.get_int_or("eos_token_id", 2);
      config.get_string("name");
      ++read;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::kBadInput) << error.what();
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(read, kRounds / 100);
  EXPECT_GT(refused, kRounds / 2);
}

}  // namespace
}  // namespace roundtable

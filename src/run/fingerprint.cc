// Fingerprints: the walk over the config's keys, and digests of the files that they name.
#include "run/fingerprint.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "io/checkpoint.h"
#include "io/file.h"

namespace roundtable {
namespace {

// ---- content ---------------------------------------------------------------------------------------------------

// A file's size, its first bytes (the header) and 16 pieces spread over its data. This refuses another model at once,
// by name. Hashing hundreds of gigabytes at every start would cost minutes: what differs between the pieces is found
// when the tensors are read (model/load/tensor_record.h).
void update_with_file(Hasher& hasher, const std::string& path) {
  constexpr std::uint64_t kPiece = 64 << 10;
  constexpr std::uint64_t kPieces = 16;
  const InputFile file(path);
  hasher.update(std::to_string(file.size()));
  std::vector<char> piece(kPiece);
  for (std::uint64_t i = 0; i <= kPieces; ++i) {
    const std::uint64_t last = file.size() > kPiece ? file.size() - kPiece : 0;
    const std::uint64_t offset = last / kPieces * i;
    const std::uint64_t bytes = std::min(kPiece, file.size() - offset);
    file.read_at(offset, piece.data(), bytes);
    hasher.update(piece.data(), bytes);
  }
}

// ---- settings --------------------------------------------------------------------------------------------------

nlohmann::json json_of(bool value) { return value; }
nlohmann::json json_of(std::int64_t value) { return value; }
nlohmann::json json_of(double value) { return value; }
nlohmann::json json_of(const std::string& text) { return text; }
nlohmann::json json_of(const std::vector<std::string>& items) { return items; }
nlohmann::json json_of(const WeightRules& rules) { return written(rules); }
nlohmann::json json_of(const AutoScheme& auto_scheme) { return written(auto_scheme); }
nlohmann::json json_of(const ByteSize& size) { return size.bytes(); }
nlohmann::json json_of(const TimeSpan& span) { return span.seconds(); }
template <IsChoice E>
nlohmann::json json_of(E value) {
  return word_of(value);
}

// A visitor of the config. Hands every key to `take` by its full name.
template <class Take>
class KeyWalk {
 public:
  explicit KeyWalk(const Take& take) : take_(take) {}

  template <class Struct>
  void section(const char* name, Struct& fields, const char*) {
    section_ = name;
    fields.visit(*this);
  }
  template <class T>
  void operator()(const char* key, T& field, Effect effect, const char*, const Constraint<T>&) {
    take_(section_ + "." + key, field, effect);
  }

 private:
  const Take& take_;
  std::string section_;
};

template <class Take>
void for_each_key(Config config, const Take& take) {
  KeyWalk<Take> walk(take);
  config.visit(walk);
}

// Of a file all of its bytes, of a model directory what model_digest() takes of it; empty for no path.
std::string content_digest(const std::string& path) {
  if (path.empty()) return "";
  return std::filesystem::is_directory(path) ? model_digest(path) : hash_file(path);
}

}  // namespace

std::string model_digest(const std::string& directory) {
  Hasher hasher;
  hasher.update(read_text_file(directory + "/config.json", 16 << 20));
  const Checkpoint checkpoint(directory);
  std::set<std::string> files;
  for (const std::string& name : checkpoint.names()) {
    hasher.update(name);
    files.insert(checkpoint.file_of(name));
  }
  for (const std::string& file : files) update_with_file(hasher, directory + "/" + file);
  return hasher.digest();
}

nlohmann::json settings_fingerprint(const Config& config) {
  nlohmann::json print;
  for_each_key(config, [&](const std::string& key, const auto& field, Effect effect) {
    if (effect == kChangesResult) print[key] = json_of(field);
  });
  return print;
}

nlohmann::json content_fingerprint(const Config& config) {
  nlohmann::json print;
  for_each_key(config, [&](const std::string& key, const auto& field, Effect effect) {
    if (effect != kByContent) return;
    if constexpr (std::is_same_v<decltype(field), const std::string&>) {
      print[key] = content_digest(field);
    } else {
      RT_UNREACHABLE("a key that counts by its content is a path");
    }
  });
  return print;
}

nlohmann::json fingerprint(const Config& config, const Plan& plan) {
  // The version is to be raised if the same settings give another result than before.
  nlohmann::json print = {
      {"version", 7}, {"number of stages", plan.stages.size()}, {"graphs of the model", plan.model.digest()}};
  print.update(settings_fingerprint(config));
  print.update(content_fingerprint(config));
  return print;
}

std::string fingerprint_difference(const nlohmann::json& old_print, const nlohmann::json& new_print) {
  std::string names;
  for (const auto& [key, value] : new_print.items()) {
    if (old_print.contains(key) && old_print[key] == value) continue;
    names += (names.empty() ? "" : ", ") + key;
  }
  return names;
}

std::string fingerprint_digest(const nlohmann::json& print) {
  Hasher hasher;
  hasher.update(print.dump());
  return hasher.digest();
}

}  // namespace roundtable

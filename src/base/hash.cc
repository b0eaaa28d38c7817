// XXH3 through the xxHash library.
#include "base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <fstream>
#include <vector>

#include "base/activity.h"
#include "base/error.h"

namespace roundtable {

std::uint64_t xxh3_64(const void* data, std::size_t bytes) { return XXH3_64bits(data, bytes); }

struct Hasher::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Hasher::Hasher() : state_(std::make_unique<State>()) {
  RT_CHECK(state_->xxh != nullptr);
  XXH3_128bits_reset(state_->xxh);
}

Hasher::~Hasher() = default;

void Hasher::update(const void* data, std::size_t bytes) { XXH3_128bits_update(state_->xxh, data, bytes); }

std::string Hasher::digest() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string hash_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw bad_input(path, "cannot be opened");
  Hasher hasher;
  std::vector<char> piece(1 << 20);
  while (file) {
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    hasher.update(piece.data(), static_cast<std::size_t>(file.gcount()));
    note_progress();
  }
  if (file.bad()) throw machine_error(path, "reading failed");
  return hasher.digest();
}

}  // namespace roundtable

#include "tests/standin/device/races.h"

#include <cstdint>
#include <map>

#include "tests/standin/device/checks.h"
#include "tests/standin/device/memory.h"

namespace roundtable::standin {
namespace {

struct Done {
  Moment moment;
  std::string what;
};

// Bytes from the key of the map up to `end` that were last used alike.
struct Piece {
  std::uintptr_t end = 0;
  Done write;
  std::vector<Done> reads;  // since then, the last one per stream
};

using Pieces = std::map<std::uintptr_t, Piece>;

Pieces& pieces() {
  static auto* made = new Pieces;
  return *made;
}

// Makes `at` a border between pieces.
void split(std::uintptr_t at) {
  auto next = pieces().upper_bound(at);
  if (next == pieces().begin()) return;
  auto& [begin, piece] = *std::prev(next);
  if (begin == at || piece.end <= at) return;
  Piece second = piece;
  piece.end = at;
  pieces().emplace_hint(next, at, std::move(second));
}

void must_be_done(const Done& other, const char* other_use, const Clock& before, const char* use,
                  const std::string& what) {
  if (before.covers(other.moment)) return;
  fault(what + " " + use + " memory that " + other.what + " " + other_use +
        " on another stream, and does not wait for it");
}

void note_read(Piece& piece, const Moment& moment, const std::string& what) {
  for (Done& read : piece.reads) {
    if (read.moment.stream == moment.stream) {
      read = {moment, what};
      return;
    }
  }
  piece.reads.push_back({moment, what});
}

void check_one(const Access& access, const Clock& before, const Moment& moment, const std::string& what) {
  const auto begin = reinterpret_cast<std::uintptr_t>(access.begin);
  const std::uintptr_t end = begin + access.bytes;
  split(begin);
  split(end);
  std::uintptr_t at = begin;
  for (auto i = pieces().lower_bound(begin); at < end;) {
    if (i == pieces().end() || i->first > at) {  // memory that nobody has used yet
      const std::uintptr_t gap_end = i == pieces().end() ? end : std::min(end, i->first);
      i = pieces().emplace_hint(i, at, Piece{gap_end, {}, {}});
    }
    Piece& piece = i->second;
    must_be_done(piece.write, "writes", before, access.writes ? "writes" : "reads", what);
    if (access.writes) {
      for (const Done& read : piece.reads) must_be_done(read, "reads", before, "writes", what);
    } else {
      note_read(piece, moment, what);
    }
    at = piece.end;
    ++i;
  }
  if (!access.writes) return;
  pieces().erase(pieces().lower_bound(begin), pieces().lower_bound(end));
  pieces()[begin] = {end, {moment, what}, {}};
}

}  // namespace

void check_accesses(const std::vector<Access>& accesses, const Clock& before, const Moment& moment,
                    const std::string& what) {
  for (const Access& access : accesses) {
    if (access.bytes > 0 && device_of(access.begin) >= 0) check_one(access, before, moment, what);
  }
}

void forget_accesses(const void* begin, std::size_t bytes) {
  const auto from = reinterpret_cast<std::uintptr_t>(begin);
  split(from);
  split(from + bytes);
  pieces().erase(pieces().lower_bound(from), pieces().lower_bound(from + bytes));
}

}  // namespace roundtable::standin

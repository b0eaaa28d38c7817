// What a run has finished, on disk: the only thing that a restart trusts. What the records say is in rundir/records.h.
//
// The file is a sequence of records:
//
//   | size u32 | ~size u32 | checksum u64 (XXH3 of the payload) | payload: JSON text, size bytes |
//
// little-endian. A record is on the disk before append() returns. A torn last record (the process died while writing)
// is cut off on opening; a record whose checksum is wrong, or whose two sizes disagree, is an error, since nothing
// after it can be trusted. The second size is there because a damaged one would make whole records look torn.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "io/posix.h"
#include "rundir/at_work.h"
#include "rundir/records.h"

namespace roundtable {

struct JournalContent {
  std::vector<Record> records;
  std::size_t bytes = 0;  // of whole records
};

// The last record of type T, or null.
template <class T>
const T* last_record(const std::vector<Record>& records) {
  for (auto record = records.rbegin(); record != records.rend(); ++record) {
    if (const T* found = std::get_if<T>(&*record)) return found;
  }
  return nullptr;
}

// Calls visit(const T&) for every record of type T, in order.
template <class T, class Visit>
void for_each_record(const std::vector<Record>& records, const Visit& visit) {
  for (const Record& record : records) {
    if (const T* found = std::get_if<T>(&record)) visit(*found);
  }
}

// The records of `path`, up to a torn last one; the file is not changed, and another job may be writing it. Throws
// Error as Journal() does, also for a record that this version does not know (record_from_json).
JournalContent read_journal(const std::string& path);

// Whether a process holds the journal `path` at this moment. False too where the file system knows no locks.
bool journal_is_held(const std::string& path);

// Only rank 0, the coordinator's process, has one.
class Journal {
 public:
  // Opens or creates `path` and reads its records. Throws Error when it is damaged or another process holds it
  // (kBadInput), or when it cannot be read or written.
  explicit Journal(const std::string& path);
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // The records found on opening and appended since, in order.
  const std::vector<Record>& records() const { return records_; }
  template <class T>
  const T* last() const {
    return last_record<T>(records_);
  }

  // The kernel keeps other processes from the journal. False where the file system knows no locks: there a file of this
  // job in the folder does (rundir/at_work.h).
  bool locked() const { return locked_; }

  // Safe to call from one thread at a time.
  void append(const Record& record);

 private:
  void lock();
  void cut_torn_tail(std::size_t whole);

  std::string path_;
  UniqueFd fd_;
  bool locked_ = false;
  std::unique_ptr<AtWork> at_work_;  // where there are no locks
  std::vector<Record> records_;
};

}  // namespace roundtable

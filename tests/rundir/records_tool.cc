// Writes a run directory with one of each record and event, for tests of those that read them: records_tool FOLDER
#include <cstdio>
#include <string>

#include "rundir/events.h"
#include "rundir/journal.h"
#include "rundir/rank_status.h"
#include "tests/rundir/every_record.h"

int main(int argc, char** argv) {
  using namespace roundtable;
  if (argc != 2) {
    std::fputs("usage: records_tool FOLDER\n", stderr);
    return 2;
  }
  constexpr std::int64_t kBlock = 7;  // of the record and of the event: the same block, as in a run
  const std::string folder = argv[1];
  double time = 1.7e9;
  EventLog events(folder + "/events.jsonl", [&time] { return time += 10; });
  for (Event event : testing::one_of_each<Event>()) {
    if (auto* block = std::get_if<event::Block>(&event)) block->record.block = kBlock;
    events.append(event);
  }
  Journal journal(folder + "/journal");
  for (Record record : testing::one_of_each<Record>()) {
    if (auto* block = std::get_if<record::Block>(&record)) block->block = kBlock;
    journal.append(record);
  }
  write_rank_status(folder + "/ranks.json", {time, {{"node01", "tune", 3, 0.5, 1.5, "MPI_Iallreduce"}}});
  return 0;
}

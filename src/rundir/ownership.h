// Whose a folder is: this program's own, or a user's, in which nothing may be written.
//
// A run directory is known by its journal: the first record in it is one of ours (rundir/records.h). An output belongs
// to the journal that knows its files. Nothing here writes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "rundir/paths.h"
#include "rundir/records.h"

namespace roundtable {

// What made a run directory, by the first record of its journal.
enum class Work { kRun, kConversion };

// The records of the journal in `directory`; none for a folder that is absent or has at most scores in it, or that a start
// has left before its first record. `place` begins the line of errors and names the setting ("run.directory"). Throws Error (kBadInput)
// for a folder with anything else in it, and for a journal of other work.
std::vector<Record> records_of_own(Work work, const std::string& directory, const std::string& place);

// The files of weights that the groups of a run have written: name -> digests that the journal has of it, in its order.
std::multimap<std::string, std::string> weight_files_on_record(const std::vector<Record>& records);

// Throws Error (kBadInput) where the output of a run holds files that are not the run's own. `records` are those of its
// run directory.
void refuse_foreign_output(const RunPaths& paths, const std::vector<Record>& records);

// Throws Error (kBadInput) where `output` holds files and none of `known`, the names that its owner gives to files.
// What a job that was killed left half-written does not count. `owner` is for the line: "the journal in out.run".
void refuse_foreign_files(const std::string& output, const std::vector<std::string>& known, const std::string& owner,
                          const std::string& place);

// Whether this is the name of a file that scores_in() gives: they may be there before a run begins.
bool is_scores_name(const std::string& name);

// Whether this is the name of a file that one of our jobs has not finished writing.
bool is_unfinished_name(const std::string& name);

}  // namespace roundtable

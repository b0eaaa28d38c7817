// Phase prove: the checkpoint is read back from the file system and compared with what was written.
#pragma once

#include "run/run_context.h"

namespace roundtable {

// Every rank reads its share of the checkpoint's files and compares their digests with the journal's. Collective over
// the world. Throws AgreedError (kMachine) naming a file that differs, and (kStartAgain) when a rank is asked to leave.
void prove(const RunContext& context);

}  // namespace roundtable

// The graphs of a model: found where they are kept, or exported from the model's code by launch/export_model.py.
//
//   model.graph, or $XDG_CACHE_HOME/roundtable/graphs/<digest of config.json>/   (~/.cache if that is not set)
//     2048-bfloat16/    a graph folder (FORMAT.md) for 2048 tokens per sample, computed in bf16
#pragma once

#include <string>

#include "comm/communicator.h"
#include "graph/model.h"

namespace roundtable {

struct GraphRequest {
  std::string model;   // the model's folder, with its config.json
  std::string folder;  // a graph folder, or one with several in it; empty: where graphs are kept
  std::int64_t seqlen = 0;
  c10::ScalarType dtype = c10::ScalarType::Float;
  bool trust_remote_code = false;
};

// Reads the graphs on rank 0, which exports them first if they are kept nowhere, and gives them to all ranks.
// Collective over `world`. Throws AgreedError: kBadInput for a model that cannot be exported, and a graph that is
// damaged, of another model or another size; kMachine where the tool cannot run; kStartAgain when rank 0 is asked to
// leave meanwhile.
Model obtain_model(HostCommunicator& world, const GraphRequest& request);

// The same of one process.
Model obtain_model(const GraphRequest& request);

}  // namespace roundtable

// What the environment asks of the stand-in; README.md lists the variables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace roundtable::standin {

// The n-th of something in one rank; 0: never.
struct Nth {
  std::int64_t count = 0;
};

struct Settings {
  int rank = 0;            // of the job
  int devices = 8;         // that this process sees
  int driver = 13000;      // CUDA's number of its driver; 0: no driver
  std::string name = "Stand-in H100";
  int capability = 90;     // ten times the compute capability
  std::size_t memory = 0;  // bytes of each device
  bool late = false;       // work of NCCL and copies to the host run as late as possible, not at once
  Nth full;                // the n-th tensor on a device finds no memory
  Nth broken;              // from the n-th operator on, the device answers with an error
  Nth nccl_error;          // the n-th question for an asynchronous error of NCCL is answered with one
  std::string folder;      // of NCCL's messages
  std::string report;      // where each process writes what it did, "" for nowhere
};

const Settings& settings();

}  // namespace roundtable::standin

// What the config tells the tuner, and the writer of boundary files.
#pragma once

#include "cache/file_layout.h"
#include "config/config.h"
#include "tune/block_tuner.h"

namespace roundtable {

// The type in which a group sums gradients (parallel.gradient_dtype).
ElementType gradient_type(const Config& config);

// `shards` is the number of ranks per group.
TuneSettings tune_settings(const Config& config, int shards);

// How boundary files are laid out (the storage section).
FileLayout file_layout(const Config& config);

}  // namespace roundtable

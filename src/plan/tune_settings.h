// What the tuner is told, from the config.
#pragma once

#include "cache/file_layout.h"
#include "config/config.h"
#include "tune/block_tuner.h"

namespace roundtable {

// parallel.gradient_dtype.
ElementType gradient_type(const Config& config);

TuneSettings tune_settings(const Config& config, int shards);

// The storage section.
FileLayout file_layout(const Config& config);

}  // namespace roundtable

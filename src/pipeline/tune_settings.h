// What the tuner is told, from the config.
#pragma once

#include "config/config.h"
#include "tune/block_tuner.h"

namespace roundtable {

// parallel.gradient_dtype.
ElementType gradient_type(const Config& config);

TuneSettings tune_settings(const Config& config, int shards);

}  // namespace roundtable

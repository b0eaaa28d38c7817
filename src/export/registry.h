// The formats of the table (base/format_table.h): all of them, by name, and by what they are.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/format_table.h"
#include "export/format.h"

namespace roundtable {

// One function per format, defined in the format's own file.
#define ROUNDTABLE_FORMAT_DECLARATION(name, format) const CheckpointFormat& format();
ROUNDTABLE_FORMATS(ROUNDTABLE_FORMAT_DECLARATION)
#undef ROUNDTABLE_FORMAT_DECLARATION

// All formats, in the order of the table.
const std::vector<const CheckpointFormat*>& checkpoint_formats();
std::vector<const PackedFormat*> packed_formats();
// `name` is one of output.formats.
const CheckpointFormat& format_named(std::string_view name);

// Null where the format is of another kind.
const SafetensorsFormat* as_safetensors(const CheckpointFormat& format);
const PackedFormat* as_packed(const CheckpointFormat& format);

// The format that a run tunes such weights into if the first format of its output is not packed: a run cannot resume
// from such a format.
const PackedFormat& home_of(WeightType type);

// "auto_round:auto_gptq, qdq"
std::string names_of(const std::vector<const CheckpointFormat*>& formats);

// Throws Error (kBadInput), opened by `place`, if the format has an obstacle(), and names the formats that have none.
void refuse_obstacle(const std::string& place, const CheckpointFormat& format, const ModelConfig& model,
                     const CheckpointScheme& checkpoint);

}  // namespace roundtable

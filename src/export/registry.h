// The checkpoint formats: the one table of them, and looking them up by name and by what they are.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "export/format.h"

// The formats, one line each: the name that output.formats takes, and the function of formats/ or gguf/ that returns
// the format. Messages and --help name them in this order.
#define ROUNDTABLE_FORMATS(FORMAT)                           \
  FORMAT("auto_round:auto_gptq", auto_round_auto_gptq_format) \
  FORMAT("auto_round", auto_round_format)                     \
  FORMAT("auto_round:auto_awq", auto_round_auto_awq_format)   \
  FORMAT("auto_gptq", auto_gptq_format)                       \
  FORMAT("auto_awq", auto_awq_format)                         \
  FORMAT("llm_compressor", llm_compressor_format)             \
  FORMAT("mxfp4", mxfp4_format)                               \
  FORMAT("nvfp4", nvfp4_format)                               \
  FORMAT("gguf", gguf_format)                                 \
  FORMAT("qdq", qdq_format)

namespace roundtable {

// One function per format, defined in the format's own file.
#define ROUNDTABLE_FORMAT_DECLARATION(name, format) const CheckpointFormat& format();
ROUNDTABLE_FORMATS(ROUNDTABLE_FORMAT_DECLARATION)
#undef ROUNDTABLE_FORMAT_DECLARATION

// All formats, in the order of the table.
const std::vector<const CheckpointFormat*>& checkpoint_formats();
std::vector<const PackedFormat*> packed_formats();
// The format of this name. Throws Error (kBadInput), which begins with `place` and lists the formats, if there is none.
const CheckpointFormat& format_named(std::string_view name, std::string_view place);

// Null where the format is of another kind.
const SafetensorsFormat* as_safetensors(const CheckpointFormat& format);
const PackedFormat* as_packed(const CheckpointFormat& format);

// The format that a run tunes such weights into if the first format of its output is not packed: a run cannot resume
// from such a format.
const PackedFormat& home_of(WeightType type);

// "auto_round:auto_gptq, qdq"
std::string names_of(const std::vector<const CheckpointFormat*>& formats);

// Throws Error (kBadInput), opened by `place`, if the format has an obstacle(), and names the formats that have none.
void refuse_obstacle(const std::string& place, const CheckpointFormat& format, const CheckpointModel& model,
                     const CheckpointScheme& checkpoint);

}  // namespace roundtable

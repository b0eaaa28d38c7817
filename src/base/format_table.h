// The formats of checkpoints, one line each: the name that output.formats takes, and the function of src/export/formats/
// or src/export/gguf/ that returns the format. Messages name them in this order. It lies here because the settings,
// which do not know src/export, take the names from it.
#pragma once

#include <string>
#include <vector>

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

#define ROUNDTABLE_FORMAT_NAME(name, format) name,
inline const std::vector<std::string> kFormats = {ROUNDTABLE_FORMATS(ROUNDTABLE_FORMAT_NAME)};
#undef ROUNDTABLE_FORMAT_NAME

}  // namespace roundtable

// The formats that the table in format.cc lists, each by its own name for code that must know one of them.
#pragma once

#include "export/format.h"

namespace roundtable {

const PackedFormat& auto_round_auto_gptq_format();  // auto_round_auto_gptq.cc
const PackedFormat& auto_round_format();            // auto_round.cc
const PackedFormat& auto_round_auto_awq_format();   // auto_round_auto_awq.cc
const PackedFormat& auto_gptq_format();             // auto_gptq.cc
const PackedFormat& auto_awq_format();              // auto_awq.cc
const PackedFormat& llm_compressor_format();        // llm_compressor.cc
const PackedFormat& mxfp4_format();                 // mxfp4.cc
const PackedFormat& nvfp4_format();                 // nvfp4.cc
const CheckpointFormat& gguf_format();              // gguf.cc
const CheckpointFormat& qdq_format();               // qdq.cc

}  // namespace roundtable

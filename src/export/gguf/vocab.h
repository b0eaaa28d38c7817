// A tokenizer as GGUF entries: byte-level BPE, which Llama 3, Qwen, SmolLM and most others have.
//
// Source: llama.cpp's convert_hf_to_gguf.py, as auto-round 0.16.1 carries it (export/export_to_gguf/conversion/base.py:
// get_vocab_base, _set_vocab_gpt2), and gguf 0.19.0, vocab.py, SpecialVocab. llama.cpp cuts words by rules of its own,
// chosen by `tokenizer.ggml.pre`; its script finds the name by what the tokenizer makes of a text, we by the rules
// themselves.
#pragma once

#include <optional>
#include <string>

#include "export/gguf/container.h"
#include "model/description/model_config.h"

namespace roundtable {

// Why the tokenizer in a model directory has no place in GGUF, or nothing.
std::optional<std::string> gguf_vocab_obstacle(const std::string& directory);

// Adds the tokenizer, its special tokens and the chat template of a directory without an obstacle. Throws Error
// (kBadInput) with file and key where tokenizer.json is damaged.
void add_gguf_vocab(GgufEntries& entries, const std::string& directory, const ModelConfig& model);

}  // namespace roundtable

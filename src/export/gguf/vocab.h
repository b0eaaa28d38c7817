// A tokenizer as GGUF entries: byte-level BPE, which Llama 3, Qwen, SmolLM and most others have.
//
// Source: llama.cpp's convert_hf_to_gguf.py, as auto-round 0.16.1 carries it (export/export_to_gguf/conversion/base.py:
// get_vocab_base, _set_vocab_gpt2), and gguf 0.19.0, vocab.py, SpecialVocab. llama.cpp cuts words by its own rules,
// which `tokenizer.ggml.pre` names. Its script finds the name by tokenizing a text; we find it by comparing the rules.
#pragma once

#include <optional>
#include <string>

#include "export/gguf/container.h"
#include "export/checkpoint_model.h"

namespace roundtable {

// Why GGUF cannot hold the tokenizer in a model directory; nothing if it can.
std::optional<std::string> gguf_vocab_obstacle(const std::string& directory);

// Adds the tokenizer, its special tokens and the chat template of a directory without an obstacle. Throws Error
// (kBadInput) with file and key if tokenizer.json is damaged.
void add_gguf_vocab(GgufEntries& entries, const std::string& directory, const CheckpointModel& model);

}  // namespace roundtable

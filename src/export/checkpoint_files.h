// The files of a checkpoint's directory: how those of weights are named and filled, and which others go along.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace roundtable {

// File `index` (from 0) of `count`, named as Hugging Face names them: "model-00001-of-00003.safetensors".
std::string shard_name(std::int64_t index, std::int64_t count);

// Spreads items of `sizes` bytes over files of at most `max_bytes`: the indices in each file. An item that is larger
// than a file has a file of its own. As huggingface_hub cuts (serialization/_base.py): a file is full when the next
// item would make it too large.
std::vector<std::vector<std::size_t>> cut_by_size(const std::vector<std::uint64_t>& sizes, std::int64_t max_bytes);

// Throws Error (kBadInput) if a folder holds files of weights, or indexes of them, other than `own`: readers would take
// them for the checkpoint, or for a part of it. The folder may be missing.
void refuse_other_weights(const std::string& directory, const std::set<std::string>& own);

// The files next to a model's weights that say how these are quantized (quantize_config.json, hf_quant_config.json and
// others), by name.
std::vector<std::string> quantization_files(const std::string& directory);

// Copies what lies next to a model's weights and goes along with them (tokenizer, generation config, chat templates,
// licence), each file atomically. Weights, config.json and quantization_files() are left out: they are written for the
// new checkpoint. With `card` the model card (README.md) is copied too. Returns their names ("tokenizer.json",
// "additional_chat_templates/tools.jinja").
std::vector<std::string> copy_companions(const std::string& from, const std::string& to, bool card);

// Throws Error (kBadInput) for one of these that cannot be read: no permission, a link to nothing, a git-lfs pointer.
void check_companions(const std::string& from);

// Copies of these the licence, notices and, with `card`, the model card alone, for a format that has the rest inside.
// Returns their names.
std::vector<std::string> copy_notes(const std::string& from, const std::string& to, bool card);

}  // namespace roundtable

// What lies beside a model's weights and goes along with them: tokenizer, generation config, chat template, licence.
#pragma once

#include <string>

namespace roundtable {

// Copies them, each atomically, but for weights, config.json and quantization configs, which are written anew; with
// `card` the model card (README.md) too.
void copy_companions(const std::string& from, const std::string& to, bool card);

// Of these the licence, notices and model card alone, for a format that has the rest inside.
void copy_notes(const std::string& from, const std::string& to);

}  // namespace roundtable

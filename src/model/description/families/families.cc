// The table of families.
#include "model/description/families/family.h"

namespace roundtable {

const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      {"llama", read_llama}, {"mistral", read_mistral},   {"qwen2", read_qwen2},        {"qwen3", read_qwen3},
      {"phi3", read_phi3},   {"gemma2", read_gemma2},     {"gemma3_text", read_gemma3}, {"opt", read_opt},
      {"gpt2", read_gpt2},   {"gpt_neox", read_gpt_neox}, {"mixtral", read_mixtral},    {"qwen3_moe", read_qwen3_moe},
  };
  return all;
}

}  // namespace roundtable

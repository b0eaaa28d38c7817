// What Roundtable needs to know of a model: one description that covers every family. The defaults are Llama's; each
// file of families/ says where its family departs from them. See README.md in this folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace roundtable {

// How positions turn into angles. Names and formulas as in transformers 5.23, modeling_rope_utils.py.
struct RopeConfig {
  std::string type = "default";  // default | linear | dynamic | llama3 | yarn; empty: no rotation at all
  double theta = 10000;
  double factor = 1;
  double partial_rotary_factor = 1;               // the part of head_dim that is rotated
  std::int64_t max_position_embeddings = 2048;    // dynamic: beyond it the base grows
  std::int64_t original_max_position_embeddings = 8192;  // llama3, yarn
  // llama3
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  // yarn
  double attention_factor = 1;
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;

  std::int64_t rotary_dim(std::int64_t head_dim) const;
};

enum class NormKind {
  kRms,         // w * x / rms(x)
  kRmsPlusOne,  // (1 + w) * x / rms(x), rounded to the dtype once (Gemma)
  kLayer,       // LayerNorm with bias
};

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };

// Where the norms stand. A norm without a name is left out, so that kBefore with norms behind the parts too is
// Gemma's sandwich.
enum class Residual {
  kBefore,    // h = x + out_norm(attention(norm(x))), y = h + out_norm(mlp(norm(h)))
  kAfter,     // h = norm(x + attention(x)),           y = norm(h + mlp(h))            (OPT-350m)
  kParallel,  // y = x + attention(norm(x)) + mlp(norm(x))                              (GPT-NeoX)
};

// How a fused query-key-value layer's output is laid out.
enum class FusedQkv {
  kBlocks,   // all heads' q, then all k, then all v
  kByHead,   // head by head: its q, k and v
};

// Names of a block's parts, below the block's prefix. Empty: the block has no such part.
struct BlockNames {
  std::string q = "self_attn.q_proj";
  std::string k = "self_attn.k_proj";
  std::string v = "self_attn.v_proj";
  std::string qkv;                      // instead of the three
  std::string o = "self_attn.o_proj";
  std::string gate = "mlp.gate_proj";   // empty with gate_up empty: no gate, y = down(act(up(x)))
  std::string up = "mlp.up_proj";
  std::string gate_up;                  // instead of gate and up
  std::string down = "mlp.down_proj";
  std::string router;                   // mixture of experts: gate, up and down are then names below an expert
  std::string experts;                  // "mlp.experts": expert 3's gate is mlp.experts.3.GATE
  std::string attention_norm = "input_layernorm";
  std::string attention_out_norm;
  std::string mlp_norm = "post_attention_layernorm";
  std::string mlp_out_norm;
  std::string q_norm;                   // over each head
  std::string k_norm;
};

// Names of what lies outside the blocks.
struct ModelNames {
  std::string blocks = "model.layers";  // block 7 is model.layers.7
  std::string embedding = "model.embed_tokens";
  std::string positions;                // learned positions
  std::string project_in;               // between embedding and hidden size, where they differ (OPT-350m)
  std::string project_out;
  std::string final_norm = "model.norm";
  std::string head = "lm_head";
};

struct ModelConfig {
  std::string model_type;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;  // of one expert, where there are experts
  std::int64_t n_blocks = 0;           // num_hidden_layers
  std::int64_t n_heads = 0;            // num_attention_heads
  std::int64_t n_kv_heads = 0;         // num_key_value_heads
  std::int64_t head_dim = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_position_embeddings = 0;
  std::int64_t embedding_size = 0;     // of a token's row; 0: hidden_size

  // Linear layers.
  bool conv1d = false;                 // transformers' Conv1D: the file holds weights [in, out]
  bool attention_bias = false;         // q, k and v
  bool attention_out_bias = false;
  bool mlp_bias = false;

  // Attention.
  std::int64_t sliding_window = 0;     // 0: none
  std::vector<bool> sliding;           // blocks that slide; empty: all
  double attention_scale = 0;          // of q k^T; 0: 1 / sqrt(head_dim)
  bool scale_by_inverse_block = false; // and divided by the block's number from 1
  double attention_soft_cap = 0;       // scores become cap * tanh(scores / cap); 0: none
  FusedQkv fused_qkv = FusedQkv::kBlocks;
  RopeConfig rope;
  RopeConfig sliding_rope;             // of sliding blocks, where it differs (has_sliding_rope)
  bool has_sliding_rope = false;

  // The rest of a block.
  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-6;
  Residual residual = Residual::kBefore;
  Activation activation = Activation::kSilu;
  std::int64_t n_experts = 0;          // 0: one dense MLP
  std::int64_t experts_per_token = 0;
  bool normalize_router = true;        // a token's expert weights sum to 1

  // Outside the blocks.
  double embedding_scale = 1;
  std::int64_t position_offset = 0;    // row of position 0 in the table of learned positions
  bool tie_word_embeddings = false;
  bool stored_head = false;  // config.json ties the head, but the checkpoint has another (load/stored_head.h)
  double final_soft_cap = 0;

  BlockNames block_names;
  ModelNames names;

  // "model.layers.7"
  std::string block_name(std::int64_t block) const { return names.blocks + "." + std::to_string(block); }
  bool slides(std::int64_t block) const;
  double attention_scale_of(std::int64_t block) const;
  std::int64_t embedding_width() const { return embedding_size > 0 ? embedding_size : hidden_size; }
};

// Reads DIRECTORY/config.json. Throws Error (kBadInput) with file and key for a missing or senseless value, a
// model_type that is not supported (naming those that are), an activation or RoPE type that is not.
ModelConfig load_model_config(const std::string& directory);

}  // namespace roundtable

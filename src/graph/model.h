// A model as its graphs describe it: its blocks, their layers and tensors, and what lies outside of the blocks. For one
// sequence length and one dtype, which are those of the graphs.
#pragma once

#include <nlohmann/json.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/pattern.h"
#include "graph/format/manifest.h"
#include "graph/format/read_manifest.h"
#include "model/load/parameter.h"

namespace roundtable {

// A tensor of the checkpoint, or an expert's part of one, and where it goes in a graph's parameter: elements, with
// `shape` as ParameterSpec has it.
struct PlacedTensor {
  ParameterSpec spec;
  std::string param;
  std::int64_t offset = 0;
  std::vector<std::int64_t> stride;
};

// What a kind of block is made of. Names are those below the block's.
struct KindTable {
  std::vector<LinearSpec> linears;      // that are quantized unless the config says otherwise; as Block::linears()
  std::vector<LinearSpec> fixed;        // linear layers that are not, such as routers
  std::set<std::string> by_rule;        // those of `fixed` that a rule may quantize: see Model::with_linears()
  std::vector<ParameterSpec> others;    // tensors that are no weight of `linears`; those of `fixed` are among them
  std::vector<PlacedTensor> placed;     // weights of `linears`, then `others`
  std::int64_t experts = 0;             // of `linears` that belong to one; 0: none do
  // Why the ranks of a group cannot divide them: "are multiplied in one product"; empty: they can.
  std::string undivided;
};

// A handle: copies share what they refer to. Immutable but for untie_head(), so thread-safe.
class Model {
 public:
  Model() : data_(std::make_shared<const Data>()) {}  // of nothing, to be assigned to
  // `config` is the model's config.json; `digest` tells graphs apart that compute something else (obtain.h).
  Model(GraphManifest manifest, TensorsByName constants, nlohmann::json config, std::string digest = "");

  const std::string& digest() const { return data_->digest; }

  const GraphManifest& graphs() const { return data_->manifest; }
  const TensorsByName& constants() const { return data_->constants; }
  const nlohmann::json& config() const { return data_->config; }
  const std::string& type() const { return data_->manifest.model_type; }  // model_type of config.json

  std::int64_t n_blocks() const { return std::ssize(data_->manifest.blocks); }
  std::int64_t seqlen() const { return data_->manifest.seqlen; }
  std::int64_t vocab_size() const { return data_->manifest.vocab_size; }
  c10::ScalarType dtype() const { return data_->manifest.dtype; }

  const std::string& block_prefix(std::int64_t block) const { return entry(block).prefix; }  // "model.layers.7."
  std::string block_name(std::int64_t block) const;                                          // "model.layers.7"
  std::size_t kind_of(std::int64_t block) const { return entry(block).kind; }
  const GraphBlock& entry(std::int64_t block) const { return data_->manifest.blocks[static_cast<std::size_t>(block)]; }
  std::size_t kinds() const { return data_->tables.size(); }
  const KindTable& kind(std::size_t kind) const { return data_->tables[kind]; }
  const KindTable& table(std::int64_t block) const { return kind(kind_of(block)); }
  const std::vector<LinearSpec>& linears(std::int64_t block) const { return table(block).linears; }

  // Carried tensors, by their names in `boundary`, that blocks before `block` (or embed) give and it or a later one
  // takes.
  const std::vector<std::string>& carried_into(std::int64_t block) const;

  bool takes_tokens() const;  // some block does

  // What lies outside of the blocks, by full name, each once.
  const std::vector<ParameterSpec>& outside() const { return data_->outside; }
  // The output head, by its full name; nothing where it is tied to the embedding, or no plain linear layer.
  const std::optional<LinearSpec>& head() const { return data_->head; }
  // Whether the checkpoint's tensor `name`, which no table names, is of another part of the model (vision, prediction of
  // several tokens): it is copied as it is.
  bool is_carried_over(const std::string& name) const;
  // Calls body(spec) for every parameter by its full name: block after block as it is loaded, then what lies outside.
  template <class Body>
  void for_each_parameter(const Body& body) const {
    for (std::int64_t block = 0; block < n_blocks(); ++block) {
      for (const PlacedTensor& placed : table(block).placed) body(placed.spec.below(block_prefix(block)));
    }
    for (const ParameterSpec& spec : outside()) body(spec);
  }
  // Linear layers outside of the blocks that are not the head (projections of embeddings).
  const std::vector<std::string>& outside_linears() const { return data_->outside_linears; }
  // The head's layer, tied or not: "lm_head".
  std::string head_layer() const;
  std::int64_t head_elements() const;  // of its weight
  // What `config` says of the text part: the whole of it where nothing else is in it.
  const nlohmann::json& text_config() const;
  const std::string& embedding() const { return data_->embedding; }  // of its table: "model.embed_tokens.weight"

  // The name that the head's weight has where the checkpoint holds it, although it is tied; empty: it is not tied.
  const std::string& tied_head() const { return data_->tied_head; }
  // The same model with the head that the checkpoint has in its own right. For a model with a tied_head().
  Model with_stored_head() const;
  bool stored_head() const { return data_->stored_head; }

  // The same model in which those layers of KindTable::by_rule are `linears` that are wanted in any block of their kind.
  // `is_wanted` gets them by their full names.
  Model with_linears(const std::function<bool(const LinearSpec& linear)>& is_wanted) const;

 private:
  struct Data {
    GraphManifest manifest;
    TensorsByName constants;
    nlohmann::json config;
    std::string digest;
    std::vector<KindTable> tables;
    std::vector<std::vector<std::string>> carried;  // by block; one more for what leaves the last
    std::vector<ParameterSpec> outside;
    std::set<std::string> untouched;
    std::vector<Pattern> ignored;
    std::vector<std::string> outside_linears;
    std::optional<LinearSpec> head;
    std::string embedding;
    std::string tied_head;
    bool stored_head = false;
  };
  static std::shared_ptr<Data> describe(GraphManifest manifest, TensorsByName constants, nlohmann::json config);

  std::shared_ptr<const Data> data_;
};

}  // namespace roundtable

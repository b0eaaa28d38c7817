// Parts of a model from names.
#include "round/layers.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "graph/stored_head.h"
#include "io/json_file.h"
#include "round/matrices.h"
#include "round/names.h"

namespace roundtable {
namespace {

// Where config.json describes the text part of a larger model, innermost first.
std::string text_part_of(const nlohmann::json& config) {
  const auto is_object = [](const nlohmann::json& at, const char* key) {
    return at.is_object() && at.contains(key) && at[key].is_object();
  };
  for (const char* key : {"text_config", "llm_config", "language_config"}) {
    if (is_object(config, key)) return key;
  }
  if (!is_object(config, "thinker_config")) return "";
  return is_object(config["thinker_config"], "text_config") ? "thinker_config.text_config" : "thinker_config";
}

class Namer {
 public:
  Namer(const CheckpointSource& source, const std::string& directory, const nlohmann::json& config)
      : source_(source), checkpoint_(source.checkpoint()), directory_(directory), config_(config) {
    model_.facts.config = config;
    model_.facts.type = JsonObject(config, place()).get_string_or("model_type", "");
    model_.facts.text_config = text_part_of(config);
    text_ = config;
    if (!model_.facts.text_config.empty()) text_ = config.at(nlohmann::json::json_pointer(pointer()));
  }

  NamedModel name() {
    matrices_ = find_matrices(checkpoint_, model_.facts.type);
    find_published();
    find_blocks();
    add_layers();
    find_outside();
    find_carried_over();
    refuse_unknown();
    return std::move(model_);
  }

 private:
  std::string place() const { return directory_ + "/config.json"; }

  std::string pointer() const {
    std::string path = "/" + model_.facts.text_config;
    std::replace(path.begin(), path.end(), '.', '/');
    return path;
  }

  void find_published() {
    for (const StoredMatrix& matrix : matrices_) {
      if (!matrix.published) continue;
      std::vector<StoredTensor> tensors = source_.stored_tensors(matrix.linear.weight());
      for (const StoredTensor& tensor : tensors) consumed_.insert(tensor.name);
      model_.published.emplace_back(matrix.linear, std::move(tensors));
    }
  }

  // The list of blocks with the most weights, but for those of other parts.
  void find_blocks() {
    std::map<std::string, std::int64_t> weights;
    for (const StoredMatrix& matrix : matrices_) {
      const auto place = place_of(matrix.linear.name + ".weight");
      if (!place || is_of_other_part(place->list) || !is_linear_layer(matrix.linear.name)) continue;
      weights[place->list] += matrix.linear.out * matrix.linear.in;
    }
    if (weights.empty()) {
      throw bad_input(directory_, "has no blocks: no matrix has a name like model.layers.3.mlp.up_proj.weight",
                      "check that this folder holds a language model");
    }
    list_ = std::max_element(weights.begin(), weights.end(), [](const auto& a, const auto& b) {
              return a.second < b.second;
            })->first;
    std::set<std::int64_t> numbers;
    for (const std::string& name : checkpoint_.names()) {
      const auto place = place_of(name);
      if (place && place->list == list_) numbers.insert(place->block);
    }
    const std::int64_t there = *numbers.rbegin() + 1;
    const JsonObject text(text_, place());
    constexpr const char* kKey = "num_hidden_layers";
    model_.facts.n_blocks = text.has(kKey) ? text.get_int(kKey, 1) : there;
    for (std::int64_t block = 0; block < model_.facts.n_blocks; ++block) {
      if (numbers.contains(block)) continue;
      const std::string said = text.has(kKey) ? fmt::format(", and config.json says {} {}", kKey, model_.facts.n_blocks)
                                              : fmt::format(", and there is one of number {}", there - 1);
      throw bad_input(directory_, fmt::format("has no block {}.{}{}", list_, block, said), "fetch the rest of the model");
    }
    model_.facts.first_block = list_ + ".0";
  }

  // The place of a layer among the blocks; nothing outside of them.
  std::optional<BlockPlace> block_of(const std::string& layer) const {
    std::optional<BlockPlace> place = place_of(layer);
    if (!place || place->list != list_ || place->block >= model_.facts.n_blocks) return std::nullopt;
    return place;
  }

  void add_layers() {
    std::map<std::string, std::int64_t> inputs;  // of each attention's o_proj
    for (const StoredMatrix& matrix : matrices_) {
      const std::string& name = matrix.linear.name;
      if (name.ends_with(".o_proj")) inputs[name.substr(0, name.rfind('.'))] = matrix.linear.in;
    }
    for (const StoredMatrix& matrix : matrices_) {
      const LinearSpec& linear = matrix.linear;
      const auto place = block_of(linear.name);
      if (!place || !is_linear_layer(place->below)) continue;
      FoundLayer layer{linear, FoundLayer::Use::kDefault, place->block, place->below, ""};
      const KeptName* kept = kept_by(place->below, [&] {
        const auto found = inputs.find(linear.name.substr(0, linear.name.rfind('.')));
        return found != inputs.end() && linear.out < found->second;
      });
      if (is_router(place->below)) {
        layer.use = FoundLayer::Use::kNever;
      } else if (kept != nullptr || is_of_other_part(place->below)) {
        layer.use = FoundLayer::Use::kKept;
        layer.reason = kept != nullptr ? kept->reason : "it belongs to another part than the text";
      }
      model_.layers.push_back(std::move(layer));
    }
    std::stable_sort(model_.layers.begin(), model_.layers.end(),
                     [](const FoundLayer& a, const FoundLayer& b) { return a.block < b.block; });
  }

  // The embedding, the head, and other layers that belong to no block.
  void find_outside() {
    std::vector<LinearSpec> outside;
    std::int64_t rows = 0;
    for (const StoredMatrix& matrix : matrices_) {
      const LinearSpec& linear = matrix.linear;
      if (place_of(linear.name + ".weight") || is_of_other_part(linear.name)) continue;
      if (is_embedding(linear.name)) {
        if (linear.out > rows) model_.facts.embedding = linear.name + ".weight";
        rows = std::max(rows, linear.out);
      } else {
        outside.push_back(linear);
      }
    }
    const LinearSpec* head = nullptr;
    for (const LinearSpec& linear : outside) {
      const auto rank = rank_of_head(linear.name);
      if (!rank || (head != nullptr && *rank_of_head(head->name) <= *rank)) continue;
      head = &linear;
    }
    model_.facts.vocab_size = JsonObject(text_, place()).get_int_or("vocab_size", rows, 0);
    add_head(head);
    for (const LinearSpec& linear : outside) {
      if (&linear != head && is_linear_layer(linear.name)) model_.facts.outside_linears.push_back(linear.name);
    }
  }

  // A head that config.json ties is the embedding, unless the checkpoint has one with other bytes (graph/stored_head.h).
  void add_head(const LinearSpec* head) {
    model_.facts.head_layer = head == nullptr ? "lm_head" : head->name;
    model_.facts.tied_head = head == nullptr;
    if (head == nullptr) return;
    constexpr const char* kKey = "tie_word_embeddings";
    const bool on_top = JsonObject(config_, place()).get_bool_or(kKey, false);
    const bool tied = JsonObject(text_, place()).get_bool_or(kKey, on_top);
    if (tied && !model_.facts.embedding.empty()) {
      model_.facts.tied_head =
          same_tensors(directory_, checkpoint_, head->weight().name, model_.facts.embedding);
      model_.facts.stored_head = !model_.facts.tied_head;
    }
    if (!model_.facts.tied_head) model_.head = *head;
  }

  void find_carried_over() {
    for (const std::string& name : checkpoint_.names()) {
      const auto place = place_of(name);
      const bool of_text = place ? place->list == list_ && place->block < model_.facts.n_blocks : !is_of_other_part(name);
      if (!of_text) model_.carried_over.push_back(name);
    }
  }

  void refuse_unknown() const {
    for (const std::string& name : checkpoint_.names()) {
      const TensorInfo& info = checkpoint_.info(name);
      if (info.shape.size() < 2 || consumed_.contains(name) || is_activation_scale(name)) continue;
      const ElementType type = info.type;
      if (type != ElementType::kF8E4M3 && type != ElementType::kF8E8M0 && type != ElementType::kU8 &&
          type != ElementType::kI8 && type != ElementType::kI32) {
        continue;
      }
      throw bad_input(checkpoint_.place_of(name),
                      fmt::format("is of type {}, and is no part of a matrix that is stored in a known way",
                                  safetensors_dtype(type)),
                      "round the float model, or one that is published as " + readable_methods());
    }
  }

  const CheckpointSource& source_;
  const Checkpoint& checkpoint_;
  std::string directory_;
  nlohmann::json config_, text_;
  std::vector<StoredMatrix> matrices_;
  std::set<std::string> consumed_;
  std::string list_;
  NamedModel model_;
};

}  // namespace

NamedModel name_model(const CheckpointSource& source, const std::string& directory, const nlohmann::json& config) {
  return Namer(source, directory, config).name();
}

}  // namespace roundtable

// What a layer is, by its name alone: which part of a model it belongs to, and whether it is quantized by default.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace roundtable {

// Where a tensor lies: "model.layers" and 3 of "model.layers.3.mlp.up_proj.weight". Nothing where no part of its name is
// a number.
struct BlockPlace {
  std::string list;
  std::int64_t block = 0;
  std::string below;  // "mlp.up_proj.weight"
};
std::optional<BlockPlace> place_of(const std::string& name);

// Whether a list of blocks, or a tensor outside of all lists, belongs to another part of the model than its text:
// vision, audio, a projector between them, the prediction of more tokens.
bool is_of_other_part(const std::string& name);

// Whether a matrix of this layer is multiplied by: norms, embeddings, convolutions and tables are not.
bool is_linear_layer(const std::string& layer);

bool is_router(const std::string& layer);

// Layers that stay in 16 bits unless a rule asks for them alone: because of what they are, and because engines build
// them so. `narrow`: only where the layer has fewer outputs than the block's o_proj has inputs. The reasons and the
// sources are those of KEPT in launch/graph_export/roles.py, and the expressions too; tests/e2e/round_test.py compares
// them.
struct KeptName {
  std::string_view pattern;
  std::string_view reason;
  bool narrow = false;
};
const std::vector<KeptName>& kept_names();
// The entry that keeps a layer, or null. `is_narrow` is asked only where it matters.
template <class IsNarrow>
const KeptName* kept_by(const std::string& layer, const IsNarrow& is_narrow);

bool matches_kept(const KeptName& kept, const std::string& layer);

template <class IsNarrow>
const KeptName* kept_by(const std::string& layer, const IsNarrow& is_narrow) {
  for (const KeptName& kept : kept_names()) {
    if (matches_kept(kept, layer) && (!kept.narrow || is_narrow())) return &kept;
  }
  return nullptr;
}

// The number of the expert in "mlp.experts.3.up_proj"; -1: it belongs to none.
std::int64_t expert_in(const std::string& layer);

// A tensor outside of the blocks by its layer's name.
bool is_embedding(const std::string& layer);
// 0 for the name that heads have most often, then 1, 2, ...; nothing for no head.
std::optional<std::size_t> rank_of_head(const std::string& layer);

}  // namespace roundtable

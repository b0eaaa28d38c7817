// What a kind of block costs, counted from its graph as it is run: after fusing.
#pragma once

#include <cstdint>

#include "graph/model.h"

namespace roundtable {

// Of one token where nothing else is said. Bytes become elements of the graph's dtype.
struct KindCost {
  double parameters = 0;        // weights of the layers that may be quantized, all experts
  double expert_parameters = 0; // of these, those of experts
  double routed = 0;            // elements that go to experts and come back, where the ranks of a group divide them
  double largest = 0;           // of one layer
  double active = 0;            // weights that a token meets: of all experts, those it is sent to
  double input_parameters = 0;  // of these, those of layers that read the block's input: no gradient goes through them
  double other_flops = 0;       // of products that are neither these layers nor attention, forward
  double attention_flops = 0;   // forward; half of what a causal mask hides is not computed
  double kept = 0;              // elements that live from forward to backward
  double spare = 0;             // elements that live within backward
  double other_parameters = 0;  // of the block: what is not quantized
  std::int64_t window = 0;      // of attention; 0: none
  bool plain_attention = false; // attention by our operator, on a CPU in tiles
};

KindCost count_kind(const Model& model, std::size_t kind);

}  // namespace roundtable

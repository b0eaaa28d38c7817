// A head cut in front of its product with the vocabulary, so that logits can be made for a few positions at a time: those
// of all positions of a sample are the largest tensor of a whole evaluation.
#pragma once

#include <optional>

#include "graph/format/manifest.h"

namespace roundtable {

struct HeadParts {
  GraphPart features;               // hidden states -> what the product takes, [..., width], as kHidden
  std::optional<GraphPart> logits;  // features of any positions -> their logits; none: the head cannot be cut, and
                                    // `features` is the whole head and gives the logits
};

// `head` is one that read_manifest() returned. It can be cut where its last operators are aten::linear with a parameter,
// and behind it only those that work on each number by itself: a product or quotient with a number, tanh (a soft cap), a
// conversion.
HeadParts cut_head(const GraphPart& head);

}  // namespace roundtable

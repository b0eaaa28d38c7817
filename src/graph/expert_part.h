// Which experts of a block a rank holds, where the ranks of a group divide them. All else in a block they all hold.
#pragma once

#include <cstdint>

namespace roundtable {

// Part `part` of `parts`, which divides the number of experts: the experts [part * E / parts, (part + 1) * E / parts).
// One part is all of them.
struct ExpertPart {
  int part = 0;
  int parts = 1;

  bool divides() const { return parts > 1; }

  // Whether a layer of expert `expert` (LinearSpec::expert; -1: of no expert) is held here, of `experts` in the block.
  bool holds(std::int64_t expert, std::int64_t experts) const {
    return expert < 0 || !divides() || expert * parts / experts == part;
  }

  bool operator==(const ExpertPart&) const = default;
};

}  // namespace roundtable

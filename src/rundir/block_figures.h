// Figures of a tuned block, as its record and its event have them.
#pragma once

#include <cstdint>
#include <optional>

namespace roundtable {

// Relative error of one layer's output, rounded to nearest and tuned (tune/losses/layer_error.h).
struct LayerErrorPair {
  double nearest = 0;
  double tuned = 0;

  template <class Fields>
  void fields(Fields& f) {
    f("nearest", nearest);
    f("tuned", tuned);
  }
};

// What it took to sum a block's gradients over its group.
struct ReductionTimes {
  std::int64_t bytes = 0;        // sent per rank, over all steps
  double seconds_under_way = 0;  // while at least one sum was in transit
  double seconds_waiting = 0;    // of these: nothing was left to compute

  template <class Fields>
  void fields(Fields& f) {
    f("bytes", bytes);
    f("seconds_under_way", seconds_under_way);
    f("seconds_waiting", seconds_waiting);
  }
};

// Experts of a block that saw fewer tokens than tuning.min_expert_tokens.
struct FewTokens {
  std::int64_t least = 0;           // tuning.min_expert_tokens
  std::int64_t experts = 0;         // of the block that are quantized
  std::int64_t in_calibration = 0;  // experts that fewer tokens of the calibration set chose
  std::int64_t tokens_added = 0;    // that the search of scales showed to these
  std::int64_t left = 0;            // experts that saw fewer even then
  std::int64_t in_tuning = 0;       // experts that saw fewer in the steps of tuning

  // Of another block of the same run.
  FewTokens& operator+=(const FewTokens& other) {
    least = other.least;
    experts += other.experts;
    in_calibration += other.in_calibration;
    tokens_added += other.tokens_added;
    left += other.left;
    in_tuning += other.in_tuning;
    return *this;
  }

  template <class Fields>
  void fields(Fields& f) {
    f("least", least);
    f("experts", experts);
    f("in_calibration", in_calibration);
    f("tokens_added", tokens_added);
    f("left", left);
    f("in_tuning", in_tuning);
  }
};

// What one step moves per rank, in the mean of all steps.
struct StepBytes {
  // Gradients and loss that are summed; none in a group of one rank, and with run.reproducible, which sums another way.
  std::optional<double> all_reduce;
  // Tokens that go to other ranks, which hold their experts, and back, and the same of their gradients, in the mean of
  // the group's ranks; none where the experts are not divided.
  std::optional<double> all_to_all;

  template <class Fields>
  void fields(Fields& f) {
    f("all_reduce", all_reduce);
    f("all_to_all", all_to_all);
  }
};

}  // namespace roundtable

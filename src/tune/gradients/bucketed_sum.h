// The sum of an arena of gradients over a group, in buckets that are sent while the backward pass still works on the
// rest (as PyTorch's DistributedDataParallel does).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/element_type.h"
#include "model/group/tensor_group.h"
#include "tune/gradients/gradient_arena.h"

namespace roundtable {

// Smaller buckets pay the latency of a reduction, larger ones start late.
inline constexpr std::int64_t kBucketBytes = std::int64_t{4} << 20;

// What the sums have cost this rank, all steps together, by the clock of its host. With NCCL it is the device that
// waits: these figures do not show it.
struct ReductionFigures {
  std::int64_t bytes = 0;        // summed
  double seconds_under_way = 0;  // with a sum on its way
  double seconds_waiting = 0;    // of these: with nothing else to do
};

// A backward pass completes the last layer's gradient first. Where the layers lie in the arena in the order of the
// forward pass, it is filled from its end to its start:
//
//   arena    | layer 0 | layer 1 | ...           | layer k | tail |     all fp32
//   buckets  |        last       | ...   |         first          |     at least kBucketBytes each
//
// Where they lie in another order, a bucket also ends where its layers do not lie one behind the other. The tail, two
// numbers that are complete before that pass begins, travels with the first bucket, or right after it where it is not
// its neighbour, and always in fp32.
class BucketedSum {
 public:
  // `layers`: the parts of `arena` [n] that are summed, in the order of the forward pass; the tail is the arena's end.
  // `transport`: the type that is sent. kF32; kBF16, rounded; kI8, the sign alone, so that the sum is a majority vote
  // (an experiment; up to 127 ranks).
  BucketedSum(torch::Tensor arena, const std::vector<ArenaPart>& layers, ElementType transport, TensorGroup group,
              std::int64_t bucket_bytes = kBucketBytes);
  ~BucketedSum();
  BucketedSum(const BucketedSum&) = delete;
  BucketedSum& operator=(const BucketedSum&) = delete;

  // The last backward pass of a step begins on this rank. Before this, whole() does nothing: later micro-batches still
  // add to every gradient.
  void begin();

  // Layer `i` has its whole gradient on this rank. Starts every bucket whose turn has come: buckets leave in the same
  // order on all ranks, whatever the order of the layers. Does not block.
  void whole(std::size_t i);

  // Collective over the group: starts the buckets that are left, waits for all sums (PendingSum::wait()), and leaves
  // them in the arena. The same bits on every rank.
  void finish();

  const ReductionFigures& figures() const { return figures_; }

 private:
  struct Bucket {
    std::int64_t begin = 0, end = 0;  // in the arena
    std::int64_t layers = 0;
    std::int64_t missing = 0;  // layers that are not whole yet
    torch::Tensor sent;        // what is summed: the arena's part itself, or its copy in another type
    std::unique_ptr<PendingSum> sum;
  };

  void start_next();
  std::unique_ptr<PendingSum> start(const torch::Tensor& data);
  bool poll();  // all that was started is done
  torch::Tensor part(std::int64_t begin, std::int64_t end) const;

  torch::Tensor arena_;
  ElementType transport_;
  TensorGroup group_;
  std::vector<Bucket> buckets_;         // in the order in which they are sent
  std::vector<std::size_t> bucket_of_;  // of each layer
  std::unique_ptr<PendingSum> tail_;    // where it goes by itself
  std::size_t started_ = 0;             // buckets of this step that are on their way, or done
  bool begun_ = false;
  bool under_way_ = false;
  Stopwatch since_start_;
  ReductionFigures figures_;
};

}  // namespace roundtable

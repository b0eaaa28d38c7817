// Buckets of an arena, in the order of a backward pass.
#include "tune/gradients/bucketed_sum.h"

#include <utility>

#include "base/error.h"

namespace roundtable {
namespace {

constexpr std::int64_t kTail = GradientArena::kTail;

// What a rank sends of its gradients.
torch::Tensor packed(const torch::Tensor& gradients, ElementType transport) {
  if (transport == ElementType::kF32) return gradients;  // in place
  return transport == ElementType::kBF16 ? gradients.to(torch::kBFloat16) : gradients.sign().to(torch::kInt8);
}

}  // namespace

BucketedSum::BucketedSum(torch::Tensor arena, const std::vector<ArenaPart>& layers, ElementType transport,
                         TensorGroup group, std::int64_t bucket_bytes)
    : arena_(std::move(arena)), transport_(transport), group_(group), bucket_of_(layers.size()) {
  RT_CHECK(transport != ElementType::kI8 || group.size() <= 127);
  for (std::size_t i = layers.size(); i-- > 0;) {
    if (buckets_.empty() || buckets_.back().begin != layers[i].end ||
        (buckets_.back().end - buckets_.back().begin) * 4 >= bucket_bytes) {
      buckets_.emplace_back().end = layers[i].end;
    }
    buckets_.back().begin = layers[i].begin;
    ++buckets_.back().layers;
    bucket_of_[i] = buckets_.size() - 1;
  }
  const std::int64_t tail = arena_.numel() - kTail;
  if (buckets_.empty()) buckets_.push_back({.begin = tail, .end = tail});  // the tail alone
  for (Bucket& bucket : buckets_) bucket.missing = bucket.layers;
}

BucketedSum::~BucketedSum() {
  if (started_ == 0) return;
  // An error came in between. MPI cannot cancel a collective and may write to these buffers until the job has ended.
  static_cast<void>(new std::pair(arena_, std::move(buckets_)));
}

void BucketedSum::begin() { begun_ = group_.size() > 1; }

void BucketedSum::whole(std::size_t i) {
  if (!begun_) return;
  RT_CHECK(buckets_[bucket_of_[i]].missing > 0);
  --buckets_[bucket_of_[i]].missing;
  while (started_ < buckets_.size() && buckets_[started_].missing == 0) start_next();
  poll();
}

void BucketedSum::finish() {
  if (group_.size() == 1) return;
  while (started_ < buckets_.size()) start_next();
  const Stopwatch waiting;
  for (Bucket& bucket : buckets_) bucket.sum->wait();
  if (tail_) tail_->wait();
  if (under_way_) figures_.seconds_waiting += waiting.seconds();
  poll();
  for (Bucket& bucket : buckets_) {
    if (transport_ != ElementType::kF32) part(bucket.begin, bucket.end).copy_(bucket.sent);
    bucket.sum.reset();
    bucket.sent = torch::Tensor();
    bucket.missing = bucket.layers;
  }
  tail_.reset();
  started_ = 0;
  begun_ = false;
}

void BucketedSum::start_next() {
  Bucket& bucket = buckets_[started_];
  if (!under_way_) since_start_ = Stopwatch();
  under_way_ = true;
  const bool first = started_++ == 0;
  // In fp32 the tail is the end of the first bucket, if it lies there; another type would round it.
  const std::int64_t tail = arena_.numel() - kTail;
  const bool with_tail = first && bucket.end == tail && transport_ == ElementType::kF32;
  bucket.sent = packed(part(bucket.begin, bucket.end + (with_tail ? kTail : 0)), transport_);
  bucket.sum = start(bucket.sent);
  if (first && !with_tail) tail_ = start(part(tail, arena_.numel()));
}

std::unique_ptr<PendingSum> BucketedSum::start(const torch::Tensor& data) {
  figures_.bytes += static_cast<std::int64_t>(data.nbytes());
  return group_.start_sum(data);
}

bool BucketedSum::poll() {
  bool done = !tail_ || tail_->poll();
  for (std::size_t i = 0; i < started_; ++i) done = buckets_[i].sum->poll() && done;
  if (done && under_way_) {
    figures_.seconds_under_way += since_start_.seconds();
    under_way_ = false;
  }
  return done;
}

torch::Tensor BucketedSum::part(std::int64_t begin, std::int64_t end) const {
  return arena_.narrow(0, begin, end - begin);
}

}  // namespace roundtable

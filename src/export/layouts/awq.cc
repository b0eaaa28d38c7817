// Packing and unpacking AWQ's words.
#include "export/layouts/awq.h"

#include <fmt/format.h>
#include <torch/types.h>

#include "quant/packing.h"

namespace roundtable {
namespace {

constexpr int kBits = 4;
constexpr std::int64_t kWord = 8;  // values per word
constexpr std::int64_t kNibble[kWord] = {0, 4, 1, 5, 2, 6, 3, 7};

// For each place in the stream of nibbles, the output that is stored there.
torch::Tensor stream_order(std::int64_t outputs) {
  torch::Tensor order = torch::empty({outputs}, torch::kInt64);
  auto* to = order.data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < outputs; ++i) to[i / kWord * kWord + kNibble[i % kWord]] = i;
  return order;
}

// [out, n] uint8 -> [n, out / 8] int32
torch::Tensor pack_words(const torch::Tensor& values) {
  return pack_rows(values.index_select(0, stream_order(values.size(0))), kBits).t().contiguous();
}

// The inverse.
torch::Tensor unpack_words(const torch::Tensor& words, std::int64_t outputs) {
  const torch::Tensor stream = unpack_rows(words.t(), kBits, outputs);
  return torch::empty_like(stream).index_copy_(0, stream_order(outputs), stream);
}

}  // namespace

std::optional<std::string> AwqFormat::scheme_obstacle(const QuantScheme& scheme) const {
  if (scheme.bits != kBits) return fmt::format("it holds only {} bits, not {}", kBits, scheme.bits);
  return std::nullopt;
}

std::optional<std::string> AwqFormat::layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const {
  if (linear.out % kWord != 0) return fmt::format("its output dimension {} is not a multiple of {}", linear.out, kWord);
  return group_size_obstacle(linear, scheme);
}

std::vector<TensorSpec> AwqFormat::layout(const LinearSpec& linear, const QuantScheme& scheme,
                                          torch::ScalarType) const {
  const std::int64_t groups = scheme.groups(linear.in);
  return {{linear.name + ".qweight", torch::kInt32, {linear.in, linear.out / kWord}},
          {linear.name + ".qzeros", torch::kInt32, {groups, linear.out / kWord}},
          {linear.name + ".scales", torch::kFloat16, {groups, linear.out}}};
}

std::vector<NamedTensor> AwqFormat::pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                         torch::ScalarType) const {
  return {{linear.name + ".qweight", pack_words(weight.q.cpu())},
          {linear.name + ".qzeros", pack_words(weight.zero_point.cpu())},
          {linear.name + ".scales", weight.scale.cpu().t().to(torch::kFloat16).contiguous()}};
}

QuantizedWeight AwqFormat::unpack(const TensorReader& reader, const LinearSpec& linear,
                                  const QuantScheme& scheme) const {
  const std::vector<TensorSpec> specs = layout(linear, scheme, torch::kFloat16);
  const torch::Tensor qweight = reader.read_tensor(specs[0]);
  const torch::Tensor qzeros = reader.read_tensor(specs[1]);
  return {scheme, unpack_words(qweight, linear.out), read_scales(reader, specs[2]).t().contiguous(),
          unpack_words(qzeros, linear.out)};
}

}  // namespace roundtable

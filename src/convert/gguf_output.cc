// GGUF: one file, or several as llama.cpp's gguf-split cuts them.
//
// Source: llama.cpp, tools/gguf-split/gguf-split.cpp: all entries in the first file, split.no, split.count and
// split.tensors.count in each, and names model-00001-of-00003.gguf.
#include <fmt/format.h>
#include <torch/types.h>

#include <map>
#include <optional>

#include "base/error.h"
#include "convert/output.h"
#include "export/checkpoint_files.h"
#include "export/gguf/blocks.h"
#include "export/gguf/model.h"
#include "export/gguf/vocab.h"
#include "run/stop.h"

namespace roundtable {
namespace {

struct Item {
  GgufTensor tensor;
  std::optional<LinearSpec> layer;  // a quantized one
  TensorSpec stored;                // of a tensor as it is
};

// Norms and biases in fp32, tables as they are.
torch::ScalarType type_of_plain(const TensorSpec& tensor) {
  return tensor.shape.size() == 1 ? torch::kFloat32 : tensor.type;
}

GgufType float_type(torch::ScalarType type, const std::string& name) {
  if (type == torch::kFloat32) return GgufType::kF32;
  if (type == torch::kFloat16) return GgufType::kF16;
  if (type == torch::kBFloat16) return GgufType::kBF16;
  throw bad_input(name, "is no float tensor");
}

constexpr const char* kRopeFactors = "rope_freqs.weight";

class GgufOutput final : public ConversionOutput {
 public:
  GgufOutput(const ConversionSource& source, const CheckpointFormat& format, std::int64_t max_bytes)
      : source_(source), format_(format) {
    add_layers();
    add_plain();
    std::vector<std::uint64_t> sizes;
    for (const Item& item : items_) sizes.push_back(item.tensor.bytes);
    files_ = cut_by_size(sizes, max_bytes);
  }

  std::int64_t files() const override { return static_cast<std::int64_t>(files_.size()); }
  std::string file_name(std::int64_t file) const override {
    return files() == 1 ? "model.gguf" : fmt::format("model-{:05d}-of-{:05d}.gguf", file + 1, files());
  }
  std::int64_t bytes_of(std::int64_t file) const override {
    std::uint64_t bytes = 0;
    for (const GgufTensor& tensor : tensors(file)) bytes += tensor.bytes;
    return static_cast<std::int64_t>(bytes);
  }

  std::string write(const std::string& directory, std::int64_t file) const override {
    return write_gguf(directory + "/" + file_name(file), entries(file), tensors(file), data(file));
  }
  // The tokenizer is inside; licences and notes go along.
  std::vector<std::string> finish(const std::string& directory, bool card) const override {
    return copy_notes(source_.directory(), directory, card);
  }

 private:
  void add(const std::string& name, GgufType type, const std::vector<std::int64_t>& shape, std::uint64_t bytes,
           const std::optional<LinearSpec>& layer, const TensorSpec& stored) {
    const std::string theirs = gguf_name(source_.model(), name);
    if (theirs.empty()) throw bad_input(name, "has no place in GGUF");
    items_.push_back({{theirs, type, shape, bytes}, layer, stored});
  }

  void add_layers() {
    std::map<GgufType, std::int64_t> counts;
    for (const LayerScheme& layer : source_.layers().layers) {
      if (!layer.scheme) continue;
      const LinearSpec& linear = layer.linear;
      const GgufType type = gguf_type(*layer.scheme, linear.in);
      if (++counts[type] > counts[main_type_]) main_type_ = type;
      add(linear.name + ".weight", type, {linear.out, linear.in},
          static_cast<std::uint64_t>(linear.out * gguf_row_bytes(type, linear.in)), linear, {});
    }
  }

  void add_plain() {
    for (const TensorSpec& tensor : source_.plain()) {
      // A tied head that the file has all the same is the embedding.
      const CheckpointModel& model = source_.model();
      if (model.tied_head && tensor.name == model.head_layer + ".weight") continue;
      if (is_derived_table(tensor.name)) continue;
      TensorSpec own = tensor;
      own.type = type_of_plain(tensor);
      add(tensor.name, float_type(own.type, tensor.name), tensor.shape, own.bytes(), std::nullopt, tensor);
    }
    const torch::Tensor factors = gguf_rope_factors(source_.model());
    if (!factors.defined()) return;
    items_.push_back({{kRopeFactors, GgufType::kF32, factors.sizes().vec(), factors.nbytes()}, std::nullopt, {}});
  }

  GgufEntries entries(std::int64_t file) const {
    GgufEntries entries;
    if (file == 0) {
      add_gguf_model(entries, source_.model(), main_type_);
      add_gguf_vocab(entries, source_.directory(), source_.model());
    }
    if (files() > 1) {
      entries.add("split.no", static_cast<std::uint16_t>(file));
      entries.add("split.count", static_cast<std::uint16_t>(files()));
      entries.add("split.tensors.count", static_cast<std::int32_t>(items_.size()));
    }
    return entries;
  }

  std::vector<GgufTensor> tensors(std::int64_t file) const {
    std::vector<GgufTensor> tensors;
    for (const std::size_t item : files_[static_cast<std::size_t>(file)]) tensors.push_back(items_[item].tensor);
    return tensors;
  }

  GgufData data(std::int64_t file) const {
    return [this, file](std::size_t index) {
      leave_here_if_asked();
      const torch::Tensor tensor = values(items_[files_[static_cast<std::size_t>(file)][index]]).contiguous();
      const auto* bytes = static_cast<const char*>(tensor.const_data_ptr());
      return std::vector<char>(bytes, bytes + tensor.nbytes());
    };
  }

  torch::Tensor values(const Item& item) const {
    if (item.tensor.name == kRopeFactors) return gguf_rope_factors(source_.model());
    const std::string name = item.layer ? item.layer->name + ".weight" : item.stored.name;
    const torch::Tensor order = gguf_row_order(source_.model(), name.substr(0, name.rfind('.')));
    const auto ordered = [&](const torch::Tensor& rows) {
      return order.defined() ? rows.index_select(0, order) : rows;
    };
    if (!item.layer) return ordered(source_.read_plain(item.stored).to(type_of_plain(item.stored)));
    const QuantizedWeight weight = source_.read_layer(*item.layer, format_);
    if (const auto reason = gguf_minimum_obstacle(weight.scheme, item.layer->in, {weight.scale, weight.zero_point})) {
      throw bad_input(fmt::format("{}: layer '{}'", source_.directory(), item.layer->name), *reason,
                      "choose another format");
    }
    return gguf_blocks({weight.scheme, ordered(weight.q), ordered(weight.scale), ordered(weight.zero_point)});
  }

  const ConversionSource& source_;
  const CheckpointFormat& format_;
  std::vector<Item> items_;
  std::vector<std::vector<std::size_t>> files_;
  GgufType main_type_ = GgufType::kQ4_0;
};

}  // namespace

std::unique_ptr<ConversionOutput> make_gguf_output(const ConversionSource& source, const CheckpointFormat& format,
                                                   std::int64_t max_bytes) {
  return std::make_unique<GgufOutput>(source, format, max_bytes);
}

}  // namespace roundtable

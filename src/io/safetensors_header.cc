// Two steps: the events of the JSON parser fill TensorInfos, then the layout is checked as a whole.
#include "io/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace roundtable {

namespace {

constexpr std::size_t kMaxRank = 64;  // PyTorch's own limit
constexpr const char* kDamaged = "the file is damaged; fetch or write it again";
constexpr std::uint64_t kMaxDimension = std::numeric_limits<std::int64_t>::max();

class HeaderEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderEvents(const std::string& path) : path_(path) {}

  // Offsets still count from the start of the data; bytes is end - begin, which is checked to be not negative.
  SafetensorsHeader header;

  bool null() override { return unexpected("null"); }
  bool boolean(bool value) override { return unexpected(value ? "true" : "false"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_integer(number_integer_t value) override {  // the parser calls this for negative numbers alone
    return in_list() ? fail(fmt::format("{} holds {}, which is negative", list_name(), value))
                     : unexpected(fmt::to_string(value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return in_list() ? fail(fmt::format("{} holds {}, which is not a 64-bit integer", list_name(), printable(text)))
                     : unexpected(printable(text));
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_list()) return unexpected(fmt::to_string(value));
    if (where_ == Where::kShape && value > kMaxDimension) fail(fmt::format("shape holds {}, which is too big", value));
    std::vector<std::uint64_t>& list = where_ == Where::kShape ? shape_ : offsets_;
    if (list.size() == kMaxRank) fail(fmt::format("{} holds more than {} numbers", list_name(), kMaxRank));
    list.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (where_ == Where::kMetadata) {
      header.metadata[key_] = value;
      return true;
    }
    if (where_ != Where::kTensor || key_ != "dtype") return unexpected(fmt::format("\"{}\"", printable(value)));
    dtype_ = value;
    return true;
  }

  bool start_object(std::size_t) override {
    if (where_ == Where::kStart) {
      where_ = Where::kTop;
    } else if (where_ == Where::kTop) {
      where_ = name_ == "__metadata__" ? Where::kMetadata : Where::kTensor;
      keys_.clear();
    } else {
      unexpected("an object");
    }
    return true;
  }
  bool end_object() override {
    if (where_ == Where::kTensor) finish_tensor();
    where_ = where_ == Where::kTop ? Where::kEnd : Where::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (where_ != Where::kTensor || key_ == "dtype") return unexpected("a list");
    where_ = key_ == "shape" ? Where::kShape : Where::kOffsets;
    return true;
  }
  bool end_array() override {
    where_ = Where::kTensor;
    return true;
  }

  bool key(string_t& value) override {
    if (where_ == Where::kTop) {
      name_ = value;
      const bool seen = name_ == "__metadata__" ? std::exchange(has_metadata_, true) : header.tensors.contains(name_);
      if (seen) fail("occurs twice in the header");
      if (name_.find('\0') != std::string::npos) fail("the name holds a null character");
      return true;
    }
    if (where_ == Where::kTensor && value != "dtype" && value != "shape" && value != "data_offsets") {
      fail(fmt::format("has an unknown field '{}'", printable(value)));
    }
    if (!keys_.insert(value).second) fail(fmt::format("the field '{}' occurs twice", printable(value)));
    key_ = value;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    throw bad_input(path_, fmt::format("the header is not valid JSON at its byte {}", position), kDamaged);
  }

 private:
  enum class Where { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool in_list() const { return where_ == Where::kShape || where_ == Where::kOffsets; }
  const char* list_name() const { return where_ == Where::kShape ? "shape" : "data_offsets"; }

  [[noreturn]] bool fail(const std::string& problem, const char* fix = kDamaged) const {
    throw bad_input(name_ == "__metadata__" ? path_ + ": __metadata__" : tensor_place(path_, name_), problem, fix);
  }

  [[noreturn]] bool unexpected(const std::string& found) const {
    switch (where_) {
      case Where::kTensor:
        fail(fmt::format("{} must be {}, not {}", key_, key_ == "dtype" ? "a string" : "a list of integers", found));
      case Where::kShape:
      case Where::kOffsets:
        fail(fmt::format("{} must be a list of integers, and holds {}", list_name(), found));
      case Where::kMetadata:
        fail(fmt::format("'{}' must be a string, not {}", printable(key_), found));
      case Where::kTop:
        fail(fmt::format("must be an object, not {}", found));
      default:
        throw bad_input(path_, fmt::format("the header must be a JSON object, not {}", found), kDamaged);
    }
  }

  void finish_tensor() {
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (!keys_.contains(field)) fail(fmt::format("{} is missing", field));
    }
    if (offsets_.size() != 2) fail(fmt::format("data_offsets holds {} numbers, not 2", offsets_.size()));
    if (offsets_[1] < offsets_[0]) {
      fail(fmt::format("data_offsets are reversed: [{}, {}]", offsets_[0], offsets_[1]));
    }
    const std::optional<ElementType> type = parse_safetensors_dtype(dtype_);
    if (!type) {
      fail(fmt::format("dtype {} is not supported", printable(dtype_)), "convert it to BF16, F16 or F32 first");
    }
    TensorInfo info{name_, *type, {shape_.begin(), shape_.end()}, offsets_[0], offsets_[1] - offsets_[0]};
    header.tensors.emplace(name_, std::move(info));
    shape_.clear();
    offsets_.clear();
  }

  std::string path_;
  Where where_ = Where::kStart;
  bool has_metadata_ = false;
  std::string name_;            // the member of the outermost object that is being read
  std::string key_;             // the member of that
  std::set<std::string> keys_;  // its members so far
  std::string dtype_;
  std::vector<std::uint64_t> shape_;
  std::vector<std::uint64_t> offsets_;
};

// Nothing where the number of bytes does not fit 64 bits.
std::optional<std::uint64_t> bytes_of(const TensorInfo& info) {
  std::uint64_t bytes = size_of(info.type);
  for (const std::int64_t dimension : info.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(dimension), &bytes)) return std::nullopt;
  }
  return bytes;
}

void check_shape(const TensorInfo& info, const std::string& path) {
  const std::optional<std::uint64_t> bytes = bytes_of(info);
  if (!bytes) throw bad_input(tensor_place(path, info.name), "the shape overflows 64 bits", kDamaged);
  if (*bytes != info.bytes) {
    throw bad_input(tensor_place(path, info.name),
                    fmt::format("shape [{}] of {} takes {} bytes, and data_offsets give {}",
                                fmt::join(info.shape, ", "), safetensors_dtype(info.type), *bytes, info.bytes),
                    kDamaged);
  }
}

// The tensors, in the order of their bytes, must tile the data.
void check_layout(const TensorMap& tensors, const std::string& path, std::uint64_t data_bytes) {
  std::vector<const TensorInfo*> by_offset;
  for (const auto& [name, info] : tensors) by_offset.push_back(&info);
  std::sort(by_offset.begin(), by_offset.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::tie(a->offset, a->bytes, a->name) < std::tie(b->offset, b->bytes, b->name);
  });
  std::uint64_t end = 0;
  const TensorInfo* last = nullptr;
  for (const TensorInfo* info : by_offset) {
    const std::string place = tensor_place(path, info->name);
    if (info->offset + info->bytes > data_bytes) {  // the sum is data_offsets[1], so it does not overflow
      throw bad_input(place,
                      fmt::format("data_offsets [{}, {}] reach beyond the {} bytes of data in the file", info->offset,
                                  info->offset + info->bytes, data_bytes),
                      "the file is cut short; fetch or write it again");
    }
    if (info->offset < end) {
      throw bad_input(place, fmt::format("its data overlaps that of tensor '{}'", printable(last->name)), kDamaged);
    }
    if (info->offset > end) {
      throw bad_input(place, fmt::format("a hole of {} bytes lies in front of its data", info->offset - end), kDamaged);
    }
    end += info->bytes;
    last = info;
  }
  if (end != data_bytes) {
    throw bad_input(path, fmt::format("{} bytes after the last tensor belong to no tensor", data_bytes - end),
                    kDamaged);
  }
}

}  // namespace

std::string tensor_place(std::string_view path, std::string_view name) {
  return fmt::format("{}: tensor '{}'", path, printable(name));
}

SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& path, std::uint64_t data_offset,
                                           std::uint64_t data_bytes) {
  // The format wants the brace first, so that a file can be told by its first bytes.
  if (!text.starts_with('{')) {
    throw bad_input(path, "the header does not begin with '{'", "it is not a safetensors file, or it is damaged");
  }
  HeaderEvents events(path);
  nlohmann::json::sax_parse(text.begin(), text.end(), &events);
  SafetensorsHeader header = std::move(events.header);
  for (const auto& [name, info] : header.tensors) check_shape(info, path);
  check_layout(header.tensors, path, data_bytes);
  for (auto& [name, info] : header.tensors) info.offset += data_offset;
  return header;
}

}  // namespace roundtable

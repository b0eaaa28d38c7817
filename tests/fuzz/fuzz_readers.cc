// Damaged files, from a seed, for as long as is asked: each must be read in full or refused with one line. No crash, no
// hang, and no memory out of proportion to the file.
//
//   fuzz_readers [--seconds 20] [--seed 1]
//
// A failure prints the reader, seed and round, and keeps the file.
#include <malloc.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <new>
#include <random>

#include "base/error.h"
#include "base/hash.h"
#include "data/token_set.h"
#include "export/gguf/vocab.h"
#include "export/quantized_checkpoint.h"
#include "export/registry.h"
#include "graph/block.h"
#include "io/safetensors.h"
#include "rundir/journal.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"

namespace {

// What operator new holds at the moment, and the most it held.
std::atomic<std::size_t> live{0};
std::atomic<std::size_t> peak{0};

void* counted_if_any(void* block) noexcept {
  if (block == nullptr) return nullptr;
  const std::size_t now = live += malloc_usable_size(block);
  std::size_t most = peak;
  while (now > most && !peak.compare_exchange_weak(most, now)) {
  }
  return block;
}

void* counted(void* block) {
  if (block == nullptr) throw std::bad_alloc();
  return counted_if_any(block);
}

void release(void* block) {
  if (block != nullptr) live -= malloc_usable_size(block);
  std::free(block);
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(std::malloc(bytes)); }
void* operator new[](std::size_t bytes) { return counted(std::malloc(bytes)); }
// std::stable_sort asks for its buffer in this way.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return counted_if_any(std::malloc(bytes)); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return counted_if_any(std::malloc(bytes)); }
void operator delete(void* block) noexcept { release(block); }
void operator delete[](void* block) noexcept { release(block); }
void operator delete(void* block, std::size_t) noexcept { release(block); }
void operator delete[](void* block, std::size_t) noexcept { release(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { release(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { release(block); }

namespace roundtable {
namespace {

// A tree of JSON takes some hundred bytes for what may be two in the file; the rest is buffers of fixed size.
constexpr std::size_t kBytesPerByte = 512;
constexpr std::size_t kFixedBytes = 8 << 20;
constexpr unsigned kHang = 20;  // seconds

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_); }

  std::string bytes(std::string text) {
    for (std::size_t left = 1 + below(4); left > 0 && !text.empty(); --left) {
      const std::size_t at = below(text.size());
      switch (below(6)) {
        case 0:
          text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
          break;
        case 1:
          text[at] = kTelling[below(sizeof kTelling - 1)];
          break;
        case 2:
          text.resize(at);
          break;
        case 3:
          text.erase(at, 1 + below(16));
          break;
        case 4:
          text.insert(at, text.substr(below(text.size()), 1 + below(64)));
          break;
        case 5:
          text.append(1 + below(16), static_cast<char>(below(256)));
          break;
      }
    }
    return text;
  }

  // One value of a document is another, is gone, or is there under another key.
  std::string json(const std::string& text) {
    nlohmann::json root = nlohmann::json::parse(text);
    for (std::size_t left = 1 + below(2); left > 0; --left) {
      nlohmann::json* at = &root;
      while (at->is_structured() && !at->empty() && (at == &root || below(4) != 0)) {
        auto item = at->begin();
        std::advance(item, static_cast<std::ptrdiff_t>(below(at->size())));
        if (at->is_object() && below(16) == 0) {
          at->erase(item);
          break;
        }
        at = &*item;
      }
      *at = value();
    }
    return root.dump();
  }

 private:
  nlohmann::json value() {
    switch (below(12)) {
      case 0:
        return nullptr;
      case 1:
        return below(2) == 0;
      case 2:
        return -1;
      case 3:
        return 0;
      case 4:
        return std::int64_t{1} << below(63);
      case 5:
        return 1e308;
      case 6:
        return "";
      case 7:
        return std::string(1 + below(300), 'a');
      case 8:
        return nlohmann::json::array();
      case 9:
        return nlohmann::json::object();
      case 10:
        return nlohmann::json::array({1, "x", nullptr});
      default:
        return below(1000);
    }
  }

  static constexpr char kTelling[] = "{}[]\",:0123456789-.eE\\u \n\xff\x00";
  std::mt19937_64 random_;
};

// The JSON part of a safetensors file made longer or shorter, with a length that fits.
std::string mutate_safetensors(Mutator& mutator, const std::string& whole) {
  std::uint64_t length = 0;
  std::memcpy(&length, whole.data(), 8);
  if (mutator.below(3) == 0) return mutator.bytes(whole);
  const std::string old_header = whole.substr(8, length);
  const std::string header = mutator.below(2) == 0 ? mutator.json(old_header) : mutator.bytes(old_header);
  length = header.size();
  if (mutator.below(16) == 0) length = mutator.below(2) == 0 ? mutator.below(2 * whole.size()) : ~mutator.below(1 << 30);
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + whole.substr(8 + old_header.size());
}

// A record with a checksum that fits its damaged text, or a damaged file.
std::string mutate_journal(Mutator& mutator, const std::string& whole) {
  if (mutator.below(2) == 0) return mutator.bytes(whole);
  const std::string text = mutator.bytes(R"({"type": "block", "block": 3, "files": [{"name": "model-00001-of-00002.safetensors"}]})");
  const auto size = static_cast<std::uint32_t>(text.size());
  const std::uint32_t not_size = ~size;
  const std::uint64_t checksum = xxh3_64(text.data(), text.size());
  std::string record(reinterpret_cast<const char*>(&size), 4);
  record.append(reinterpret_cast<const char*>(&not_size), 4);
  record.append(reinterpret_cast<const char*>(&checksum), 8);
  return whole + record + text;
}

// A reader, the file that it reads, and how that is damaged. Other files of the folder stay as they are.
struct Target {
  std::string name;
  std::string file;
  std::string whole;
  std::function<std::string(Mutator&, const std::string&)> mutate;
  std::function<void()> read;
  std::int64_t reads = 0;
  std::int64_t refusals = 0;
};

std::string json_or_bytes(Mutator& mutator, const std::string& whole) {
  return mutator.below(3) == 0 ? mutator.bytes(whole) : mutator.json(whole);
}

class Fuzzer {
 public:
  explicit Fuzzer(std::uint64_t seed) : seed_(seed), mutator_(seed) {
    add_safetensors();
    add_tokens();
    add_journal();
    add_quantized();
    add_published();
    add_tokenizer();
    add_graph();
  }

  // Whether nothing failed.
  bool run(double seconds) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    for (std::int64_t round = 0; std::chrono::steady_clock::now() < end; ++round) {
      if (!once(targets_[static_cast<std::size_t>(round) % targets_.size()], round)) return false;
    }
    bool both = true;
    for (const Target& target : targets_) {
      fmt::print("{}: {} read, {} refused\n", target.name, target.reads, target.refusals);
      both = both && target.reads > 0 && target.refusals > 0;  // else the mutations say nothing
    }
    return both;
  }

 private:
  bool once(Target& target, std::int64_t round) {
    const std::string damaged = target.mutate(mutator_, target.whole);
    const std::string path = folder_.put(target.file, damaged);
    const std::size_t before = live;
    peak = before;
    std::string failure;
    alarm(kHang);
    try {
      target.read();
      ++target.reads;
    } catch (const Error& error) {
      ++target.refusals;
      const std::string line = error.what();
      if (error.code() != ExitCode::kBadInput && error.code() != ExitCode::kNumeric) failure = "is no bad input: " + line;
      if (line.find('\n') != std::string::npos) failure = "is more than one line: " + line;
    } catch (const std::exception& error) {
      failure = std::string("leaves the reader: ") + error.what();
    }
    alarm(0);
    const std::size_t used = peak - before;
    const std::size_t allowed = kFixedBytes + kBytesPerByte * (damaged.size() + others_);
    if (failure.empty() && used > allowed) {
      failure = fmt::format("takes {} bytes of memory for a file of {}", used, damaged.size());
    }
    folder_.put(target.file, target.whole);
    if (failure.empty()) return true;
    const std::string name = fmt::format("fuzz-{}-{}-{}", target.name, seed_, round);
    const std::string kept = (std::filesystem::temp_directory_path() / name).string();
    std::ofstream(kept, std::ios::binary) << damaged;
    fmt::print(stderr, "{}, seed {}, round {}: {} ({})\n", target.name, seed_, round, failure, kept);
    return false;
  }

  std::string at(const std::string& file) const { return folder_.path() + "/" + file; }

  void add(const std::string& name, const std::string& file, const std::string& whole,
           const std::function<std::string(Mutator&, const std::string&)>& mutate, const std::function<void()>& read) {
    others_ += whole.size();
    folder_.put(file, whole);
    read();  // whole it must be read
    targets_.push_back({name, file, whole, mutate, read});
  }

  void add_safetensors() {
    const std::string data(96, 'd');
    write_safetensors(at("x.safetensors"),
                      {{"model.a", ElementType::kF32, {2, 3}, data.data()},
                       {"model.b", ElementType::kBF16, {5}, data.data()},
                       {"model.c", ElementType::kI64, {1, 2, 1}, data.data()},
                       {"model.d", ElementType::kU8, {0}, data.data()}},
                      {{"format", "pt"}});
    add("safetensors", "x.safetensors", content_of(at("x.safetensors")), mutate_safetensors, [this] {
      const SafetensorsFile file(at("x.safetensors"));
      for (const auto& [name, info] : file.tensors()) {
        std::vector<char> content(info.bytes);
        file.read(info, content.data());
      }
    });
  }

  void add_tokens() {
    const std::vector<std::int32_t> ids(24, 7);
    write_safetensors(at("tokens.safetensors"), {{"input_ids", ElementType::kI32, {4, 6}, ids.data()}},
                      {{"format", "roundtable.tokens"}, {"version", "1"}});
    add("tokens", "tokens.safetensors", content_of(at("tokens.safetensors")), mutate_safetensors,
        [this] { load_tokens(at("tokens.safetensors"), 0, 0, 32); });
  }

  void add_journal() {
    {
      Journal journal(at("journal"));
      journal.append(record::Run{"1.0", {{"model", "abc"}}, {{0, 2}, {2, 4}}, "out"});
      journal.append(record::Block{.block = 1, .files = {{"x", "y", 9}}, .experts_without_tokens = {"experts.1"}});
    }
    add("journal", "journal", content_of(at("journal")), mutate_journal, [this] { Journal(at("journal")).last<record::Run>(); });
  }

  // The shards, the index and quantization_config of each format.
  void add_quantized() {
    const LinearSpec linear{"model.layers.0.mlp.up_proj", 64, 64};
    for (const PackedFormat* format : packed_formats()) {
      QuantScheme scheme{.bits = 4, .group_size = 32};
      if (format->has_place_for(WeightType::kMxFp4)) scheme.type = WeightType::kMxFp4;
      if (format->has_place_for(WeightType::kNvFp4)) {
        scheme.type = WeightType::kNvFp4;
        scheme.group_size = 16;
      }
      const QuantizedWeight weight = round_to_nearest(torch::randn({64, 64}), scheme);
      std::string folder(format->name());
      std::replace(folder.begin(), folder.end(), ':', '-');
      std::filesystem::create_directory(at(folder));
      std::vector<TensorView> views;
      const auto tensors = format->pack(linear, weight, torch::kBFloat16);
      for (const NamedTensor& tensor : tensors) views.push_back(tensor.view());
      write_safetensors(at(folder + "/part.safetensors"), views, {{"format", "pt"}});
      std::map<std::string, std::string> weight_map;
      for (const TensorView& view : views) weight_map[view.name] = "part.safetensors";
      write_checkpoint_index(at(folder), weight_map, 1);
      const Model model = testing::tiny_llama_model();
      CheckpointScheme checkpoint{scheme, 1, {{linear, scheme}}};
      checkpoint.layers.push_back({{"model.layers.0.mlp.down_proj", 64, 64}, QuantScheme{.bits = 8, .group_size = 64}});
      if (obstacle(*format, model, checkpoint)) checkpoint.layers.pop_back();
      const nlohmann::json config = {{"model_type", "llama"},
                                     {"quantization_config", format->quantization_config(checkpoint, model)}};
      const auto read = [this, folder, linear] {
        const QuantizedCheckpoint opened(at(folder));
        if (opened.is_quantized(linear)) opened.read(linear);
      };
      folder_.put(folder + "/config.json", config.dump());
      const std::string part = folder + "/part.safetensors", index = folder + "/model.safetensors.index.json";
      add("config.json in " + folder, folder + "/config.json", config.dump(), json_or_bytes, read);
      add("shard in " + folder, part, content_of(at(part)), mutate_safetensors, read);
      add("index in " + folder, index, content_of(at(index)), json_or_bytes, read);
    }
  }

  // The tensors and the config of a checkpoint as it was published: each storage once.
  void add_published() {
    std::filesystem::create_directory(at("published"));
    const torch::Tensor bytes = torch::full({64 * 64}, 0x33, torch::kUInt8), ones = torch::ones({512});
    const torch::Tensor words = torch::zeros({64, 8}, torch::kInt32), shape = torch::tensor({64, 64}, torch::kInt64);
    const auto view = [](const char* name, ElementType type, std::vector<std::int64_t> sizes, const torch::Tensor& data) {
      return TensorView{name, type, std::move(sizes), data.const_data_ptr()};
    };
    write_safetensors(at("published/model.safetensors"),
                      {view("fp8.weight", ElementType::kF8E4M3, {64, 64}, bytes),
                       view("fp8.weight_scale_inv", ElementType::kF32, {4, 4}, ones),
                       view("v4.weight", ElementType::kI8, {64, 32}, bytes),
                       view("v4.scale", ElementType::kF8E8M0, {64, 2}, bytes),
                       view("nv.weight", ElementType::kU8, {64, 32}, bytes),
                       view("nv.weight_scale", ElementType::kF8E4M3, {64, 4}, bytes),
                       view("nv.weight_scale_2", ElementType::kF32, {1}, ones),
                       view("int.weight_packed", ElementType::kI32, {64, 8}, words),
                       view("int.weight_scale", ElementType::kF32, {64, 1}, ones),
                       view("int.weight_shape", ElementType::kI64, {2}, shape),
                       view("fused.down_proj", ElementType::kF32, {2, 4, 64}, ones),
                       view("experts.down_proj_blocks", ElementType::kU8, {2, 4, 2, 16}, bytes),
                       view("experts.down_proj_scales", ElementType::kU8, {2, 4, 2}, bytes)});
    const std::string config = R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}})";
    folder_.put("published/config.json", config);
    const auto read = [this] {
      const CheckpointSource source(at("published"));
      for (const char* name : {"fp8.weight", "v4.weight", "nv.weight", "int.weight"}) {
        if (!source.stored_tensors({name, {64, 64}}).empty()) source.read({name, {64, 64}});
      }
      source.read({"experts.1", {4, 64}, true, StackPlace{"experts.down_proj", 1, 2}});
      source.read({"fused.1.down_proj.weight", {4, 64}});
    };
    add("published config.json", "published/config.json", config, json_or_bytes, read);
    add("published weights", "published/model.safetensors", content_of(at("published/model.safetensors")),
        mutate_safetensors, read);
  }

  void add_tokenizer() {
    const std::string whole =
        R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"], "b a"]},
            "added_tokens": [{"id": 3, "content": "<s>", "special": true}],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
              {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]},
            "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}]}})";
    std::filesystem::create_directory(at("tokenizer"));
    folder_.put("tokenizer/tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": {"content": "<s>"}})");
    const Model model = testing::tiny_llama_model({.vocab = 8});
    add("tokenizer.json", "tokenizer/tokenizer.json", whole, json_or_bytes, [this, model] {
      if (gguf_vocab_obstacle(at("tokenizer"))) throw bad_input("tokenizer", "is of another kind");
      GgufEntries entries;
      add_gguf_vocab(entries, at("tokenizer"), model);
    });
  }

  // A graph that is read makes a program too. It is not run: what it would compute may be of any size.
  void add_graph() {
    std::filesystem::create_directory(at("graph"));
    testing::GraphFiles files = testing::llama_model({.blocks = 2}, 8, torch::kBFloat16);
    const TemporaryFolder made;
    files.write(made);
    folder_.put("graph/constants.safetensors", content_of(made.path() + "/constants.safetensors"));
    const auto read = [this] {
      const GraphManifest manifest = read_manifest(at("graph"));
      const TensorsByName constants = read_constants(at("graph"), manifest);
      for (std::size_t i = 0; i < manifest.kinds.size(); ++i) BlockKind(manifest, i, constants, torch::kCPU);
    };
    add("model.json of a graph", "graph/model.json", files.model.dump(), json_or_bytes, read);
    add("constants of a graph", "graph/constants.safetensors", content_of(at("graph/constants.safetensors")),
        mutate_safetensors, read);
  }

  const TemporaryFolder folder_;
  std::uint64_t seed_;
  Mutator mutator_;
  std::vector<Target> targets_;
  std::size_t others_ = 0;  // bytes of the files that a reader may open beside
};

}  // namespace
}  // namespace roundtable

int main(int argc, char** argv) {
  CLI::App app("Reads damaged files.");
  double seconds = 20;
  std::uint64_t seed = 1;
  app.add_option("--seconds", seconds, "how long")->capture_default_str();
  app.add_option("--seed", seed, "where the damage begins")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  torch::set_num_threads(1);
  return roundtable::Fuzzer(seed).run(seconds) ? 0 : 1;
}

// Reading tokenizer.json.
#include "export/gguf/vocab.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <utility>

#include "base/error.h"
#include "io/file.h"
#include "io/json_file.h"

namespace roundtable {
namespace {

enum TokenType : std::int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

// The regular expressions of tokenizer.json's Split steps, and llama.cpp's name for them (src/llama-vocab.cpp).
constexpr std::pair<std::string_view, std::string_view> kSplits[] = {
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "llama-bpe"},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "qwen2"},
};

const nlohmann::json& member(const nlohmann::json& object, const char* key) {
  static const nlohmann::json nothing;
  return object.is_object() && object.contains(key) ? object[key] : nothing;
}

// llama.cpp's name for how a tokenizer cuts words; empty if we know none.
std::string pre_tokenizer_name(const nlohmann::json& pre) {
  nlohmann::json steps = member(pre, "pretokenizers");
  if (!steps.is_array()) steps = nlohmann::json::array({pre});
  if (steps.empty() || member(steps.back(), "type") != "ByteLevel" ||
      member(steps.back(), "add_prefix_space") == true) {
    return "";
  }
  const bool own_rules = member(steps.back(), "use_regex") != false;
  if (steps.size() == 1) return own_rules ? "gpt-2" : "";
  if (steps.size() > 2) return "";
  const nlohmann::json& first = steps.front();
  if (member(first, "type") == "Digits" && member(first, "individual_digits") == true && own_rules) return "smollm";
  if (member(first, "type") != "Split" || own_rules) return "";
  for (const auto& [regex, name] : kSplits) {
    if (member(member(first, "pattern"), "Regex") == regex) return std::string(name);
  }
  return "";
}

struct Token {
  std::string text;
  std::int32_t type = kUnused;
};

std::vector<Token> tokens_of(const JsonObject& tokenizer, std::int64_t vocab_size) {
  std::vector<Token> tokens(static_cast<std::size_t>(vocab_size));
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i].text = fmt::format("[PAD{}]", i);
  const JsonObject vocab = tokenizer.get_object("model").get_object("vocab");
  for (const auto& item : vocab.json().items()) {
    tokens[static_cast<std::size_t>(vocab.get_int(item.key(), 0, vocab_size - 1))] = {item.key(), kNormal};
  }
  const nlohmann::json& added = member(tokenizer.json(), "added_tokens");
  for (const nlohmann::json& entry : added.is_array() ? added : nlohmann::json::array()) {
    const JsonObject token(entry, tokenizer.place() + ": added_tokens");
    tokens[static_cast<std::size_t>(token.get_int("id", 0, vocab_size - 1))] = {
        token.get_string("content"), token.get_bool_or("special", false) ? kControl : kUserDefined};
  }
  return tokens;
}

// Each is "a b", as older transformers wrote it, or a pair.
std::vector<std::string> merges_of(const JsonObject& tokenizer) {
  const JsonObject model = tokenizer.get_object("model");
  const nlohmann::json& merges = member(model.json(), "merges");
  if (!merges.is_array()) model.fail("merges", "must be a list");
  std::vector<std::string> out;
  for (const nlohmann::json& merge : merges) {
    if (merge.is_string()) {
      out.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      out.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      model.fail("merges", "must hold pairs of texts");
    }
  }
  return out;
}

std::string text_of(const nlohmann::json& token) {
  if (token.is_string()) return token.get<std::string>();
  const nlohmann::json& content = member(token, "content");
  return content.is_string() ? content.get<std::string>() : "";
}

// Whether the tokenizer puts its first token in front of every text.
bool adds_bos(const nlohmann::json& tokenizer, const nlohmann::json& config, const std::string& bos) {
  const nlohmann::json& post = member(tokenizer, "post_processor");
  nlohmann::json steps = member(post, "processors");
  if (!steps.is_array()) steps = nlohmann::json::array({post});
  for (const nlohmann::json& step : steps) {
    const nlohmann::json& single = member(step, "single");
    if (member(step, "type") != "TemplateProcessing" || !single.is_array() || single.empty()) continue;
    return member(member(single.front(), "SpecialToken"), "id") == bos && !bos.empty();
  }
  return member(config, "add_bos_token") == true;
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

void add_special_tokens(GgufEntries& entries, const std::vector<Token>& tokens, const nlohmann::json& tokenizer,
                        const nlohmann::json& config) {
  std::map<std::string, std::uint32_t> ids;
  for (std::size_t i = 0; i < tokens.size(); ++i) ids.emplace(tokens[i].text, static_cast<std::uint32_t>(i));
  for (const auto& [key, name] :
       {std::pair{"bos_token", "bos"}, {"eos_token", "eos"}, {"unk_token", "unknown"}, {"pad_token", "padding"}}) {
    const auto found = ids.find(text_of(member(config, key)));
    if (found != ids.end()) entries.add(fmt::format("tokenizer.ggml.{}_token_id", name), found->second);
  }
  entries.add("tokenizer.ggml.add_bos_token", adds_bos(tokenizer, config, text_of(member(config, "bos_token"))));
}

void add_chat_template(GgufEntries& entries, const std::string& directory, const nlohmann::json& config) {
  constexpr std::uint64_t kMaxTemplate = 1 << 20;
  const std::string file = directory + "/chat_template.jinja";
  if (exists(file)) {
    entries.add("tokenizer.chat_template", read_text_file(file, kMaxTemplate));
  } else if (const nlohmann::json& text = member(config, "chat_template"); text.is_string()) {
    entries.add("tokenizer.chat_template", text.get_ref<const std::string&>());
  }
}

}  // namespace

std::optional<std::string> gguf_vocab_obstacle(const std::string& directory) {
  const std::string path = directory + "/tokenizer.json";
  if (!exists(path)) return "it contains the tokenizer, and there is no tokenizer.json";
  const nlohmann::json tokenizer = load_json(path);
  const nlohmann::json& type = member(member(tokenizer, "model"), "type");
  if (type != "BPE" || pre_tokenizer_name(member(tokenizer, "pre_tokenizer")).empty()) {
    return "it contains the tokenizer, and this one is not a byte-level BPE that cuts words as GPT-2, SmolLM, Llama 3 "
           "or Qwen 2 do";
  }
  return std::nullopt;
}

void add_gguf_vocab(GgufEntries& entries, const std::string& directory, const CheckpointModel& model) {
  const JsonObject tokenizer = JsonObject::load(directory + "/tokenizer.json");
  const std::string config_path = directory + "/tokenizer_config.json";
  const nlohmann::json config = exists(config_path) ? load_json(config_path) : nlohmann::json::object();
  const std::vector<Token> tokens = tokens_of(tokenizer, model.vocab_size);
  std::vector<std::string> texts;
  std::vector<std::int32_t> types;
  for (const Token& token : tokens) {
    texts.push_back(token.text);
    types.push_back(token.type);
  }
  entries.add("tokenizer.ggml.model", "gpt2");
  entries.add("tokenizer.ggml.pre", pre_tokenizer_name(member(tokenizer.json(), "pre_tokenizer")));
  entries.add("tokenizer.ggml.tokens", texts);
  entries.add("tokenizer.ggml.token_type", types);
  entries.add("tokenizer.ggml.merges", merges_of(tokenizer));
  add_special_tokens(entries, tokens, tokenizer.json(), config);
  add_chat_template(entries, directory, config);
}

}  // namespace roundtable

// Which files go along with a checkpoint, and which must not lie next to it.
#include "export/checkpoint_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::StartsWith;

TEST(Companions, AreAllFilesThatTokenizersReadAndNoWeightsOrQuantizationConfigs) {
  const TemporaryFolder from, to;
  // The names of transformers' tokenizers (VOCAB_FILES_NAMES) and of its other files.
  const std::vector<std::string> wanted = {"LICENSE",
                                           "added_tokens.json",
                                           "bpe.codes",
                                           "chat_template.jinja",
                                           "chat_template.json",
                                           "dict.txt",
                                           "generation_config.json",
                                           "merges.txt",
                                           "modeling_x.py",
                                           "preprocessor_config.json",
                                           "sentencepiece.bpe.model",
                                           "special_tokens_map.json",
                                           "spiece.model",
                                           "spm.model",
                                           "target.spm",
                                           "tekken.json",
                                           "tiktoken.model",
                                           "tokenizer.json",
                                           "tokenizer.model",
                                           "tokenizer.model.v3",
                                           "tokenizer_config.json",
                                           "vocab.json",
                                           "vocab.txt"};
  for (const std::string& name : wanted) from.put(name, name);
  for (const char* name :
       {"README.md", "config.json", "quantize_config.json", "quant_config.json", "quantization_config.json",
        "hf_quant_config.json", "quant_model_description.json", "model.safetensors", "model.safetensors.index.json",
        "pytorch_model.bin", ".gitattributes"}) {
    from.put(name, name);
  }
  for (const char* folder : {"additional_chat_templates", "custom_generate", "onnx"}) {
    std::filesystem::create_directory(from.path() + "/" + folder);
  }
  from.put("additional_chat_templates/tool_use.jinja", "tools");
  from.put("additional_chat_templates/rag.jinja", "rag");
  from.put("custom_generate/generate.py", "code");
  from.put("onnx/vocab.json", "of another copy");
  copy_companions(from.path(), to.path(), /*card=*/false);
  std::vector<std::string> found = to.names();
  std::vector<std::string> all = wanted;
  all.insert(all.end(), {"additional_chat_templates", "custom_generate"});
  std::sort(all.begin(), all.end());
  EXPECT_EQ(found, all);
  for (const std::string& name : wanted) EXPECT_EQ(content_of(to.path() + "/" + name), name);
  EXPECT_EQ(content_of(to.path() + "/additional_chat_templates/tool_use.jinja"), "tools");
  EXPECT_EQ(content_of(to.path() + "/additional_chat_templates/rag.jinja"), "rag");
  EXPECT_EQ(content_of(to.path() + "/custom_generate/generate.py"), "code");
  EXPECT_THAT(quantization_files(from.path()),
              ElementsAre("hf_quant_config.json", "quant_config.json", "quant_model_description.json",
                          "quantization_config.json", "quantize_config.json"));
}

TEST(OtherWeights, AreRefusedByName) {
  const TemporaryFolder folder;
  for (const char* name :
       {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
        "config.json", "notes.txt", "model-00001-of-00002.safetensors.tmp-node1-77"}) {
    folder.put(name, "");
  }
  std::filesystem::create_directory(folder.path() + "/model.safetensors");  // a folder is no file of weights
  const std::set<std::string> own = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                     "model.safetensors.index.json"};
  EXPECT_NO_THROW(refuse_other_weights(folder.path(), own));
  EXPECT_NO_THROW(refuse_other_weights(folder.path() + "/nowhere", own));
  for (const char* name : {"model-00001-of-00003.safetensors", "consolidated.safetensors", "pytorch_model.bin",
                           "pytorch_model.bin.index.json", "model.gguf"}) {
    const std::string path = folder.put(name, "mine");
    EXPECT_BAD_INPUT(
        refuse_other_weights(folder.path(), own),
        AllOf(StartsWith(path + ": is not a file of this checkpoint"), EndsWith("; move it to another folder")));
    std::filesystem::remove(path);
  }
  EXPECT_BAD_INPUT(refuse_other_weights(folder.path(), {"model.gguf"}),
                   StartsWith(folder.path() + "/model-00001-of-00002.safetensors"));
}

}  // namespace
}  // namespace roundtable

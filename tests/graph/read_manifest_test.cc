// model.json and constants.safetensors: a good folder is read, and each rule of FORMAT.md about keys, blocks, inputs,
// outputs and constants refuses what breaks it.
#include "graph/format/read_manifest.h"

#include "tests/graph/damaged_manifest.h"

namespace roundtable::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ReadManifest, ReadsAGoodOne) {
  const TemporaryFolder folder;
  const std::string path = small_model().write(folder);
  const GraphManifest manifest = read_manifest(path);
  EXPECT_EQ(manifest.architecture, "LlamaForCausalLM");
  EXPECT_EQ(manifest.boundary.at("hidden").shape, (std::vector<std::int64_t>{4, 8}));
  ASSERT_EQ(manifest.kinds.size(), 1U);
  EXPECT_EQ(manifest.kinds[0].nodes.size(), 10U);
  EXPECT_EQ(manifest.kinds[0].parameters.size(), 2U);
  EXPECT_EQ(manifest.blocks.at(0).prefix, "model.layers.0.");
  EXPECT_EQ(manifest.blocks.at(0).takes.at("seen"), "mask");
  EXPECT_EQ(manifest.kinds[0].place_of(manifest.kinds[0].nodes[2]),
            path + "/model.json: kinds[0].nodes[2] (aten::split.Tensor)");
  EXPECT_TRUE(torch::equal(read_constants(path, manifest).at("c0"), torch::ones({4, 8})));
}
TEST(ReadManifest, RefusesWrongKeys) {
  expect_refused({
      {"top_unknown", set({"colour"}, 1), {"model.json: key 'colour': is unknown"}},
      {"top_near", [](json& m) { m["blocs"] = 1; }, {"did you mean blocks?"}},
      {"top_missing", [](json& m) { m.erase("check"); }, {"key 'check'", "missing"}},
      {"kinds_missing", [](json& m) { m.erase("kinds"); }, {"key 'kinds'", "missing", "export_model.py"}},
      {"many_kinds", set({"kinds"}, std::vector<json>(4097)), {"key 'kinds'", "4097 elements, more than 4096"}},
      {"many_blocks", set({"blocks"}, std::vector<json>(65537)), {"key 'blocks'", "more than 65536"}},
      {"many_results",
       set({"kinds", "0", "nodes", "0", "out"}, std::vector<json>(65537)),
       {"nodes[0]", "more than 65536"}},
      {"many_values", set({"kinds", "0", "values"}, 262145), {"kinds[0]", "key 'values'"}},
      {"format", set({"format"}, "gguf"), {"key 'format'", "not a graph's"}},
      {"version", set({"version"}, 2), {"key 'version'", "is not 1"}},
      {"digest", set({"config_sha256"}, std::string(64, 'A')), {"config_sha256", "64 hex digits"}},
      {"own_code", set({"own_code"}, "no"), {"key 'own_code'"}},
      {"seqlen", set({"seqlen"}, 0), {"key 'seqlen'"}},
      {"dtype", set({"dtype"}, "float64"), {"key 'dtype'", "must be one of float32, bfloat16, float16"}},
      {"vocab", set({"vocab_size"}, 0), {"key 'vocab_size'"}},
      {"batch", set({"batch"}, -1), {"key 'batch'"}},
      {"check", set({"check", "output"}, -1.0), {"key 'check.output'"}},
      {"check_unknown", set({"check", "time"}, 1), {"key 'check.time': is unknown"}},
      {"untouched", set({"untouched"}, json::array({1})), {"untouched", "names"}},
      {"boundary_hidden", [](json& m) { m["boundary"].erase("hidden"); }, {"boundary", "no 'hidden'"}},
      {"boundary_seqlen", set({"boundary", "hidden", "shape"}, {5, 8}), {"boundary['hidden']", "seqlen"}},
      {"boundary_dtype", set({"boundary", "mask", "dtype"}, "int4"), {"boundary['mask']", "no dtype"}},
      {"boundary_unknown", set({"boundary", "mask", "device"}, "cpu"), {"boundary['mask']", "unknown"}},
      {"shape_dims", set({"boundary", "mask", "shape"}, {1, 1, 1, 1, 1, 1, 1, 1, 1}), {"more than 8 dimensions"}},
      {"shape_size", set({"boundary", "mask", "shape"}, {std::int64_t{1} << 41}), {"key 'shape'", "must lie in"}},
      {"shape_elements", set({"boundary", "mask", "shape"}, {1 << 30, 1 << 30}), {"too many elements"}},
      {"name_long", [](json& m) { m["untouched"] = {std::string(513, 'a')}; }, {"is no name"}},
      {"name_control", [](json& m) { m["untouched"] = {"a\nb"}; }, {"is no name"}},
      {"name_empty", [](json& m) { m["untouched"] = {""}; }, {"is no name"}},
      {"operators_type", set({"operators", "aten::add.Tensor"}, 1), {"operators", "must be text"}},
  });
}

TEST(ReadManifest, RefusesFlowsThatDoNotFit) {
  expect_refused({
      {"block_kind", set({"blocks", "0", "kind"}, 1), {"blocks[0]", "there is no kind 1"}},
      {"block_unknown", set({"blocks", "0", "index"}, 1), {"blocks[0]", "unknown"}},
      {"kind_unused", [](json& m) { m["kinds"].push_back(m["kinds"][0]); }, {"kinds[1]", "no block"}},
      {"takes_missing", set({"blocks", "0", "takes"}, json::object()), {"blocks[0]", "takes", "'seen'"}},
      {"takes_more", set({"blocks", "0", "takes", "other"}, "mask"), {"blocks[0]", "does not have"}},
      {"gives_more", set({"blocks", "0", "gives", "other"}, "mask"), {"blocks[0]", "gives names 'other'"}},
      {"takes_early", set({"blocks", "0", "takes", "seen"}, "hidden"), {"blocks[0]", "nothing before it gives"}},
      {"gives_twice",
       [](json& m) {
         kind_of(m)["outputs"].push_back({{"value", 13}, {"kind", "carried"}, {"name", "new"}});
         m["blocks"][0]["gives"] = {{"new", "mask"}};
       },
       {"blocks[0]", "'mask' is given a second time"}},
      {"gives_unknown",
       [](json& m) {
         kind_of(m)["outputs"].push_back({{"value", 13}, {"kind", "carried"}, {"name", "new"}});
         m["blocks"][0]["gives"] = {{"new", "what"}};
       },
       {"blocks[0]", "'what'", "no carried tensor of boundary"}},
      {"never_given",
       set({"boundary", "more"}, {{"shape", {1}}, {"dtype", "int64"}}),
       {"boundary", "nothing gives 'more'"}},
  });
}

TEST(ReadManifest, RefusesWrongInputsAndOutputs) {
  expect_refused({
      {"input_kind", set({"kinds", "0", "inputs", "0", "kind"}, "weight"), {"kinds[0].inputs[0]", "must be one of"}},
      {"input_unknown", set({"kinds", "0", "inputs", "0", "name"}, "x"), {"kinds[0].inputs[0]", "unknown"}},
      {"input_value", set({"kinds", "0", "inputs", "0", "value"}, 99), {"kinds[0].inputs[0]", "key 'value'"}},
      {"input_twice", set({"kinds", "0", "inputs", "2", "name"}, "proj.weight"), {"kinds[0]", "two inputs name"}},
      {"input_stranger", set({"kinds", "0", "inputs", "1", "name"}, "other"), {"'other' is not one of the part's"}},
      {"input_idle", [](json& m) { node(m, 0)["args"][2] = nullptr; }, {"nothing takes the input 'proj.bias'"}},
      {"complex_parameter", set({"kinds", "0", "inputs", "1", "complex"}, true), {"kinds[0].inputs[1]", "unknown"}},
      {"no_hidden",
       [](json& m) {
         kind_of(m)["inputs"][0] = {{"value", 0}, {"kind", "tokens"}};
       },
       {"kinds[0]", "inputs 'hidden'", "exactly one"}},
      {"embed_hidden",
       [](json& m) {
         m["embed"]["inputs"].push_back({{"value", 2}, {"kind", "hidden"}});
       },
       {"embed", "inputs 'hidden'", "none"}},
      {"head_tokens",
       [](json& m) {
         m["head"]["inputs"].push_back({{"value", 2}, {"kind", "tokens"}});
       },
       {"head", "inputs 'tokens'", "none"}},
      {"head_carried",
       [](json& m) {
         m["head"]["inputs"].push_back({{"value", 2}, {"kind", "carried"}, {"name", "mask"}});
       },
       {"head", "inputs 'carried'", "none"}},
      {"idle_tokens",
       [](json& m) {
         kind_of(m)["inputs"].push_back({{"value", 16}, {"kind", "tokens"}});
         kind_of(m)["values"] = 17;
       },
       {"kinds[0]", "nothing takes the input 'tokens'"}},
      {"embed_without_tokens",
       [](json& m) {
         m["embed"]["inputs"][1] = {{"value", 1}, {"kind", "constant"}, {"name", "c0"}};
       },
       {"embed", "inputs 'tokens'", "must have one"}},
      {"two_outputs",
       [](json& m) { kind_of(m)["outputs"].push_back(kind_of(m)["outputs"][0]); },
       {"kinds[0]", "outputs 'hidden'", "exactly one"}},
      {"head_hidden", set({"head", "outputs", "0", "kind"}, "hidden"), {"head", "outputs"}},
      {"output_int", set({"kinds", "0", "outputs", "0", "value"}, 9), {"kinds[0].outputs", "value 9 is no tensor"}},
  });
}

TEST(ReadManifest, RefusesValuesOutOfOrder) {
  expect_refused({
      {"set_twice", set({"kinds", "0", "nodes", "3", "out", "0"}, 5), {"nodes[3]", "value 5 is set a second time"}},
      {"take_early",
       set({"kinds", "0", "nodes", "0", "args", "0"}, value(13)),
       {"nodes[0]", "value 13 is taken before"}},
      {"value_beyond",
       set({"kinds", "0", "nodes", "0", "args", "0"}, value(99)),
       {"nodes[0].args[0]", "a value below"}},
      {"out_beyond", set({"kinds", "0", "nodes", "0", "out", "0"}, 99), {"nodes[0]", "values below"}},
  });
}

TEST(ReadManifest, RefusesAFileThatIsNoJson) {
  const TemporaryFolder folder;
  EXPECT_BAD_INPUT(read_manifest(folder.path()), HasSubstr("model.json"));
  folder.put("model.json", "[1, 2]");
  EXPECT_BAD_INPUT(read_manifest(folder.path()), HasSubstr("must be a JSON object"));
}

TEST(ReadConstants, RefusesWhatDoesNotFit) {
  const TemporaryFolder folder;
  GraphFiles files = small_model();
  const GraphManifest manifest = read_manifest(files.write(folder));
  EXPECT_EQ(read_constants(folder.path(), manifest).size(), 1U);
  files.constants = {{"c1", torch::ones({2})}};
  files.write(folder);
  EXPECT_BAD_INPUT(read_constants(folder.path(), manifest), AllOf(HasSubstr("'c1'"), HasSubstr("no graph takes it")));
  files.constants = {{"c0", torch::ones({1, 1, 1, 1, 1, 1, 1, 1, 2})}};
  files.write(folder);
  EXPECT_BAD_INPUT(read_constants(folder.path(), manifest), HasSubstr("too many dimensions"));
  std::filesystem::remove(folder.path() + "/constants.safetensors");
  EXPECT_BAD_INPUT(read_constants(folder.path(), manifest), HasSubstr("constants.safetensors"));
}

TEST(ReadConstants, ReadsEveryDtype) {
  const TemporaryFolder folder;
  GraphFiles files = small_model();
  GraphManifest manifest = read_manifest(files.write(folder));
  for (const auto dtype : {torch::kFloat64, torch::kFloat32, torch::kFloat16, torch::kBFloat16, torch::kInt64,
                           torch::kInt32, torch::kInt16, torch::kInt8, torch::kUInt8, torch::kBool}) {
    const torch::Tensor tensor = torch::arange(2).to(dtype);
    std::vector<TensorView> views{{"c0", ElementType::kU8, {2}, tensor.const_data_ptr()}};
    views[0].type = dtype == torch::kFloat16 ? ElementType::kF16
                    : dtype == torch::kInt16 ? ElementType::kI16
                    : dtype == torch::kInt8  ? ElementType::kI8
                    : dtype == torch::kUInt8 ? ElementType::kU8
                    : dtype == torch::kBool  ? ElementType::kBool
                                             : element_type_of(dtype);
    write_safetensors(folder.path() + "/constants.safetensors", views);
    EXPECT_TRUE(torch::equal(read_constants(folder.path(), manifest).at("c0"), tensor));
  }
  const std::vector<std::uint8_t> bytes(2);
  write_safetensors(folder.path() + "/constants.safetensors", {{"c0", ElementType::kF8E4M3, {2}, bytes.data()}});
  EXPECT_BAD_INPUT(read_constants(folder.path(), manifest), HasSubstr("F8_E4M3"));
}

TEST(ReadConstants, ComplexOnesAreStoredAsPairs) {
  const TemporaryFolder folder;
  GraphFiles files = small_model();
  files.model["kinds"][0]["inputs"][3]["complex"] = true;
  files.constants["c0"] = torch::tensor({{1.0f, 2.0f}, {3.0f, 4.0f}});
  const GraphManifest manifest = read_manifest(files.write(folder));
  const torch::Tensor read = read_constants(folder.path(), manifest).at("c0");
  EXPECT_TRUE(torch::equal(torch::view_as_real(read), files.constants["c0"]));
  files.constants["c0"] = torch::ones({3});
  files.write(folder);
  EXPECT_BAD_INPUT(read_constants(folder.path(), manifest), HasSubstr("must hold pairs"));
}
}  // namespace
}  // namespace roundtable::testing

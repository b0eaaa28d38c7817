// The rules of FORMAT.md about nodes, their arguments and results, and about tensors on disk: each refuses what breaks
// it.
#include "tests/graph/damaged_manifest.h"

namespace roundtable::testing {
namespace {

using ::testing::HasSubstr;

TEST(CheckOperators, RefusesWhatAGraphMayNotCall) {
  expect_refused({
      {"node_unknown", set({"kinds", "0", "nodes", "0", "name"}, "x"), {"nodes[0]", "key 'name': is unknown"}},
      {"node_bytes", set({"kinds", "0", "nodes", "0", "bytes"}, -1), {"nodes[0]", "key 'bytes'"}},
      {"node_no_grad", set({"kinds", "0", "nodes", "0", "no_grad"}, 1), {"nodes[0]", "key 'no_grad'"}},
      {"node_type", set({"kinds", "0", "nodes", "0"}, 3), {"nodes[0]", "must be an object"}},
      {"op_not_listed",
       [](json& m) { m["operators"].erase("aten::cat"); },
       {"nodes[6] (aten::cat)", "does not name it"}},
      {"op_unknown",
       [](json& m) {
         node(m, 8)["op"] = "aten::levitate";
         m["operators"]["aten::levitate"] = "";
       },
       {"nodes[8] (aten::levitate)", "has no such operator"}},
      {"op_schema",
       [](json& m) { m["operators"]["aten::cat"] = "aten::cat(Tensor[] tensors) -> Tensor"; },
       {"nodes[6] (aten::cat)", "in the file and", "in this LibTorch", "the torch of this program"}},
      {"op_namespace",
       [](json& m) {
         set_call(m, "fused::swiglu", {value(13), value(4)});
       },
       {"only aten::, rt:: and int::"}},
      {"op_file", [](json& m) { set_call(m, "aten::from_file", {"/etc/passwd"}); }, {"may not call it"}},
      {"op_private", [](json& m) { set_call(m, "aten::_cdist_forward", {}); }, {"may not call it"}},
      {"op_data",
       [](json& m) {
         set_call(m, "aten::set_data", {value(13), value(4)});
       },
       {"may not call it"}},
      {"op_random", [](json& m) { set_call(m, "aten::bernoulli", {value(13)}); }, {"draws random numbers"}},
      {"op_dropout",
       [](json& m) {
         set_call(m, "aten::scaled_dot_product_attention", {value(13), value(13), value(13), nullptr, 0.1});
       },
       {"draws random numbers"}},
      {"op_view_in_place", [](json& m) { set_call(m, "aten::squeeze_", {value(13)}); }, {"changes what a tensor is"}},
      {"op_out",
       [](json& m) {
         set_call(m, "aten::add.out", {value(13), value(4), 1, value(12)});
       },
       {"not its first"}},
      {"write_input", [](json& m) { node(m, 1)["args"][0] = value(4); }, {"nodes[1]", "writes into an input"}},
      {"write_view",
       [](json& m) {
         set_call(m, "aten::add_.Tensor", {value(13), value(4)});
         node(m, 7)["op"] = "aten::type_as";
         node(m, 7)["args"] = {value(3), value(12)};
         m["operators"]["aten::type_as"] = schema_text("aten::type_as");
       },
       {"nodes[8]", "writes into an input"}},
      {"int_unknown",
       [](json& m) {
         node(m, 4)["op"] = "int::pow";
         m["operators"]["int::pow"] = "";
       },
       {"nodes[4]", "no such operator"}},
      {"int_schema", [](json& m) { m["operators"]["int::mul"] = "x"; }, {"nodes[4]", "no schema"}},
      {"int_arguments", set({"kinds", "0", "nodes", "4", "args"}, json::array({2})), {"nodes[4]", "takes 2 ints"}},
      {"int_of_tensor", set({"kinds", "0", "nodes", "4", "args", "0"}, value(5)), {"nodes[4]", "takes int there"}},
  });
}

TEST(CheckOperators, RefusesWrongArguments) {
  expect_refused({
      {"too_few", set({"kinds", "0", "nodes", "6", "args"}, json::array()), {"nodes[6]", "'tensors' is missing"}},
      {"too_many", set({"kinds", "0", "nodes", "6", "args", "2"}, 1), {"nodes[6]", "2 arguments at most"}},
      {"far_too_many",
       [](json& m) { node(m, 6)["args"] = std::vector<int>(65, 1); },
       {"nodes[6]", "65 elements, more than 64"}},
      {"long_list",
       [](json& m) { node(m, 6)["args"][0] = std::vector<int>(4097, 1); },
       {"nodes[6].args[0]", "more than 4096"}},
      {"deep_list",
       [](json& m) { node(m, 6)["args"][0] = json::array({json::array({json::array({1})})}); },
       {"nodes[6].args[0]", "two levels"}},
      {"not_a_tensor",
       set({"kinds", "0", "nodes", "6", "args", "0", "0"}, "x"),
       {"argument 'tensors'", "takes Tensor there"}},
      {"int_for_tensor_list", set({"kinds", "0", "nodes", "6", "args", "0"}, 3), {"argument 'tensors'", "List"}},
      {"float_for_int", set({"kinds", "0", "nodes", "6", "args", "1"}, 1.0), {"argument 'dim'", "takes int there"}},
      {"tensor_for_int",
       set({"kinds", "0", "nodes", "6", "args", "1"}, value(5)),
       {"argument 'dim'", "takes int there"}},
      {"none_for_int", set({"kinds", "0", "nodes", "6", "args", "1"}, nullptr), {"argument 'dim'"}},
      {"int_for_dtype",
       [](json& m) {
         set_call(m, "aten::to.dtype", {value(13), 6});
       },
       {"argument 'dtype'", "ScalarType"}},
      {"tensor_for_float",
       [](json& m) {
         set_call(m, "aten::layer_norm", {value(13), json::array({8}), nullptr, nullptr, value(13)});
       },
       {"argument 'eps'", "takes float there"}},
      {"text_for_bool",
       [](json& m) {
         set_call(m, "aten::mean.dim", {value(13), json::array({-1}), "yes"});
       },
       {"argument 'keepdim'", "takes bool there"}},
      {"generator",
       [](json& m) {
         set_call(m, "aten::new_zeros", {value(13), json::array({1}), 1, 1});
       },
       {"argument 'dtype'"}},
      {"tag", set({"kinds", "0", "nodes", "0", "args", "0"}, {{"x", 1}}), {"nodes[0].args[0]", "is not an argument"}},
      {"two_tags", set({"kinds", "0", "nodes", "0", "args", "0"}, {{"v", 1}, {"float", "inf"}}), {"one key"}},
      {"bad_float", set({"kinds", "0", "nodes", "1", "args", "1"}, {{"float", "huge"}}), {"inf, -inf or nan"}},
      {"bad_dtype", set({"kinds", "0", "nodes", "1", "args", "1"}, {{"dtype", "int4"}}), {"a dtype"}},
      {"bad_device", set({"kinds", "0", "nodes", "1", "args", "1"}, {{"device", "cuda"}}), {"a device"}},
      {"bad_layout", set({"kinds", "0", "nodes", "1", "args", "1"}, {{"layout", "sparse"}}), {"a layout"}},
      {"bad_format", set({"kinds", "0", "nodes", "1", "args", "1"}, {{"memory_format", "x"}}), {"a memory format"}},
      {"big_int", set({"kinds", "0", "nodes", "1", "args", "1"}, ~std::uint64_t{0}), {"a 64-bit integer"}},
  });
}

TEST(CheckOperators, RefusesWrongResults) {
  expect_refused({
      {"results",
       set({"kinds", "0", "nodes", "6", "out"}, {12, nullptr}),
       {"nodes[6]", "gives 1 results, and 'out' has 2"}},
      {"scalar_result", [](json& m) { set_call(m, "aten::is_floating_point", {value(13)}); }, {"gives bool"}},
      {"scalar_list", [](json& m) { set_call(m, "aten::item", {value(13)}); }, {"nodes[8]", "it gives number"}},
  });
}

// The second argument of type_as gives its dtype alone: gemma3n writes into predictions, and converts them to the dtype
// of its input.
TEST(CheckOperators, AllowsWritesNextToAnInput) {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json sum = kind.call("aten::neg", {hidden});
  kind.output(kind.call("aten::type_as", {kind.call("aten::add_.Tensor", {sum, hidden}), hidden}));
  const TemporaryFolder folder;
  const std::string path = model_of(kind, {4, 8}).write(folder);
  EXPECT_NO_THROW(read_manifest(path));
}

TEST(CheckTensors, RefusesWrongTables) {
  expect_refused({
      {"tensor_param", set({"kinds", "0", "tensors", "0", "param"}, "x"), {"tensors[0]", "'x' is not one of"}},
      {"tensor_use", set({"kinds", "0", "tensors", "0", "use"}, "norm"), {"tensors[0]", "must be one of linear"}},
      {"tensor_unknown", set({"kinds", "0", "tensors", "0", "dtype"}, "x"), {"tensors[0]", "unknown"}},
      {"tensor_stride", set({"kinds", "0", "tensors", "0", "stride"}, {8}), {"tensors[0]", "as many numbers"}},
      {"tensor_in_out", set({"kinds", "0", "tensors", "1", "in_out"}, true), {"tensors[1]", "linear layers alone"}},
      {"tensor_beyond", set({"kinds", "0", "tensors", "0", "offset"}, 1), {"tensors[0]", "beyond the 64 elements"}},
      {"tensor_hole",
       set({"kinds", "0", "tensors", "0", "shape"}, {7, 8}),
       {"parameters['proj.weight']", "do not cover"}},
      {"tensor_overlap",
       set({"kinds", "0", "tensors", "0", "stride"}, {1, 1}),
       {"parameters['proj.weight']", "do not cover"}},
      {"tensor_twice",
       [](json& m) { kind_of(m)["tensors"].push_back(kind_of(m)["tensors"][0]); },
       {"parameters['proj.weight']", "do not cover"}},
      {"tensor_none", [](json& m) { kind_of(m)["tensors"].erase(1); }, {"parameters['proj.bias']", "do not cover"}},
  });
}

TEST(FindProducts, RefusesOtherUsesOfWeights) {
  expect_refused({
      {"weight_elsewhere",
       [](json& m) {
         set_call(m, "aten::mul.Tensor", {value(4), value(1)});
       },
       {"only a product may"}},
      {"weight_twice",
       [](json& m) {
         set_call(m, "aten::linear", {value(4), value(1)});
       },
       {"a second product"}},
      {"weight_output",
       [](json& m) { kind_of(m)["outputs"][0]["value"] = 1; },
       {"kinds[0].outputs", "the weight 'proj.weight' is an output"}},
      {"addmm_alpha",
       [](json& m) {
         node(m, 0)["op"] = "aten::addmm";
         node(m, 0)["args"] = {value(2), value(0), value(1), 1, 2};
         m["operators"]["aten::addmm"] = schema_text("aten::addmm");
       },
       {"beta and alpha"}},
      {"bias_computed",
       [](json& m) {
         kind_of(m)["inputs"][2] = {{"value", 2}, {"kind", "constant"}, {"name", "c1"}};
       },
       {"nodes[0]", "must be a parameter"}},
      {"rows_split",
       [](json& m) {
         json& tensors = kind_of(m)["tensors"];
         tensors[0]["shape"] = {8, 4};
         tensors.push_back(tensors[0]);
         tensors[2]["disk"] = "proj.more";
         tensors[2]["offset"] = 4;
       },
       {"nodes[0]", "is not made of whole rows"}},
      {"in_out_of_linear", set({"kinds", "0", "tensors", "0", "in_out"}, true), {"nodes[0]", "whole rows"}},
      {"embed_linear", set({"embed", "tensors", "0", "use"}, "linear"), {"embed", "only a product may"}},
  });
}

// Coverage of a parameter, with layouts that checkpoints have and some that only look like them.
TEST(CheckTensors, CoversParametersExactly) {
  struct Entry {
    std::int64_t offset;
    std::vector<std::int64_t> shape, stride;
  };
  const auto covered = [](std::vector<std::int64_t> shape, const std::vector<Entry>& entries) {
    PartBuilder kind;
    const json hidden = kind.input("hidden");
    const json weight = kind.bare_parameter("w", shape);
    for (const Entry& entry : entries) kind.tensor("t", "w", entry.offset, entry.shape, entry.stride, "other");
    kind.output(kind.call("aten::add.Tensor", {hidden, kind.call("aten::sum", {weight})}));
    const TemporaryFolder folder;
    const std::string path = model_of(kind, {4, 8}).write(folder);
    try {
      read_manifest(path);
      return true;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("parameters['w']"));
      return false;
    }
  };
  EXPECT_TRUE(covered({0, 8}, {}));
  EXPECT_TRUE(covered({1}, {{0, {}, {}}}));
  // Two experts with gate and up, one above the other, and between each other.
  EXPECT_TRUE(
      covered({2, 6, 4}, {{0, {3, 4}, {4, 1}}, {12, {3, 4}, {4, 1}}, {24, {3, 4}, {4, 1}}, {36, {3, 4}, {4, 1}}}));
  EXPECT_TRUE(
      covered({2, 6, 4}, {{0, {3, 4}, {8, 1}}, {4, {3, 4}, {8, 1}}, {24, {3, 4}, {8, 1}}, {28, {3, 4}, {8, 1}}}));
  EXPECT_TRUE(covered({2, 6, 4}, {{0, {2, 3, 4}, {24, 4, 1}}, {12, {2, 3, 4}, {24, 4, 1}}}));
  EXPECT_TRUE(covered({6, 4}, {{0, {4, 6}, {1, 4}}}));                       // transposed
  EXPECT_TRUE(covered({4, 6}, {{0, {4, 3}, {6, 2}}, {1, {4, 3}, {6, 2}}}));  // columns in turn
  EXPECT_TRUE(covered({10}, {{0, {5}, {1}}, {5, {2}, {2}}, {6, {2}, {2}}, {9, {1}, {1}}}));
  EXPECT_TRUE(covered({3, 5}, {{0, {3, 2}, {5, 1}}, {2, {3, 3}, {5, 1}}}));
  EXPECT_TRUE(covered({11}, {{0, {2, 2}, {4, 1}}, {2, {2, 2}, {4, 1}}, {8, {3}, {1}}}));  // a last row that is short
  EXPECT_FALSE(
      covered({2, 6, 4}, {{0, {3, 4}, {8, 1}}, {4, {3, 4}, {8, 1}}, {24, {3, 4}, {8, 1}}, {24, {3, 4}, {8, 1}}}));
  EXPECT_FALSE(covered({4, 6}, {{0, {4, 3}, {6, 2}}, {2, {4, 3}, {6, 1}}}));
  EXPECT_FALSE(covered({4, 4}, {{0, {4, 4}, {4, 0}}}));
  EXPECT_FALSE(covered({4}, {{0, {4}, {0}}}));
  EXPECT_FALSE(covered({8}, {{0, {2, 3}, {3, 2}}, {1, {2}, {1}}}));
  EXPECT_FALSE(covered({9}, {{0, {2, 2}, {4, 1}}, {2, {2, 2}, {4, 1}}, {8, {1}, {1}}, {8, {1}, {1}}}));
  // 2^20 x 2^20 elements: the answer does not take memory.
  const std::int64_t side = std::int64_t{1} << 20;
  EXPECT_TRUE(covered({side, side}, {{0, {side, side / 2}, {side, 2}}, {1, {side, side / 2}, {side, 2}}}));
}
}  // namespace
}  // namespace roundtable::testing

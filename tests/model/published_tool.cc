// Reads matrices of a published checkpoint for a test in Python.
//
//   model_published_tool DIRECTORY SPECS OUTPUT
//
// SPECS is JSON: [{"name", "shape", "transposed", "stack", "index", "experts"}], where a stack is the name of a tensor
// of all experts or "". OUTPUT is a safetensors file of them, by name.
#include <torch/types.h>

#include <cstdio>
#include <vector>

#include "base/error.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "model/load/tensor_source.h"

int main(int argc, char** argv) {
  using namespace roundtable;
  if (argc != 4) return 2;
  try {
    const CheckpointSource source(argv[1]);
    std::vector<torch::Tensor> kept;
    std::vector<TensorView> views;
    for (const auto& json : load_json(argv[2])) {
      ParameterSpec spec{json["name"].get<std::string>(), json["shape"].get<std::vector<std::int64_t>>(),
                         json["transposed"].get<bool>()};
      const auto stack = json["stack"].get<std::string>();
      if (!stack.empty())
        spec.stack = StackPlace{stack, json["index"].get<std::int64_t>(), json["experts"].get<std::int64_t>()};
      kept.push_back(source.read(spec));
      const bool bf16 = kept.back().scalar_type() == torch::kBFloat16;
      views.push_back({spec.name, bf16 ? ElementType::kBF16 : ElementType::kF32, kept.back().sizes().vec(),
                       kept.back().const_data_ptr()});
    }
    write_safetensors(argv[3], views);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}

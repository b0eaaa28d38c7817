// Nodes to steps, once; steps through the dispatcher, each time.
#include "graph/run/program.h"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "graph/run/integers.h"
#include "graph/run/operator_lookup.h"

namespace roundtable {
namespace {

// LibTorch puts a stack trace behind the message.
std::string first_line(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  return printable(text.substr(0, text.find('\n')));
}

Error error_of(const c10::Error& error, const std::string& place) {
  const std::string line = first_line(error);
  if (line.find("out of memory") != std::string::npos || line.find("can't allocate memory") != std::string::npos) {
    return machine_error(place, "there is not enough memory: " + line,
                         "lower tuning.micro_batch or raise parallel.shards");
  }
  return bad_input(place, line, kExportAgain);
}

}  // namespace

Program::Program(const GraphPart& part, const TensorsByName& constants, torch::Device device, std::int64_t batch)
    : part_(part), device_(device), batch_(batch), products_(products_of(part_)) {
  for (const GraphInput& input : part_.inputs) {
    if (input.kind == InputKind::kConstant) constants_[input.name] = constants.at(input.name).to(device);
  }
  std::vector<ValueType> types(static_cast<std::size_t>(part_.values));
  for (std::size_t i = 0; i < part_.nodes.size(); ++i) steps_.push_back(make_step(part_.nodes[i], i, types));
  find_last_uses();
}

Program::Step Program::make_step(const GraphNode& node, std::size_t index, std::vector<ValueType>& types) const {
  Step step{.node = index, .op = node.op, .no_grad = node.no_grad};
  const std::string place = part_.place_of(node);
  for (const auto& value : node.out) step.out.push_back(value.value_or(-1));
  const auto ints = int_arguments(node.op);
  if (ints) {
    step.kind = Step::Kind::kInt;
    for (const Argument& arg : node.args) step.operands.push_back(int_operand(arg, types, place));
  } else {
    step.handle = find_operator(node.op);
    RT_CHECK(step.handle.has_value());
    const c10::FunctionSchema& schema = step.handle->schema();
    step.gives_list = gives_list(schema);
    if (node.op == "rt::dispatch") step.experts = Step::Experts::kDispatch;
    if (node.op == "fused::to_owners") step.experts = Step::Experts::kToOwners;
    if (node.op == "fused::from_owners") step.experts = Step::Experts::kFromOwners;
    for (std::size_t i = 0; i < schema.arguments().size(); ++i) {
      step.operands.push_back(i < node.args.size()
                                  ? operand_of(node.args[i], schema.arguments()[i], types, device_, place)
                                  : default_operand(schema.arguments()[i], place));
    }
    const auto product = products_.find(index);
    if (product != products_.end()) step.product = &product->second;
  }
  for (std::size_t i = 0; i < step.out.size(); ++i) {
    const bool is_int =
        ints || (!step.gives_list && step.handle->schema().returns()[i].type()->kind() == c10::TypeKind::IntType);
    if (step.out[i] >= 0 && is_int) types[static_cast<std::size_t>(step.out[i])] = ValueType::kInt;
  }
  return step;
}

// The last step that takes a value hands it over, or clears it where it takes the value twice.
void Program::find_last_uses() {
  std::vector<bool> needed(static_cast<std::size_t>(part_.values));
  for (const GraphOutput& output : part_.outputs) needed[static_cast<std::size_t>(output.value)] = true;
  for (std::size_t i = steps_.size(); i-- > 0;) {
    Step& step = steps_[i];
    for (std::int64_t& value : step.out) {
      if (value >= 0 && !needed[static_cast<std::size_t>(value)]) value = -1;  // nobody takes it
    }
    std::map<std::int64_t, std::size_t> uses;
    for (const Argument& arg : part_.nodes[i].args) arg.for_each_value([&](std::int64_t value) { ++uses[value]; });
    for (const auto& [value, count] : uses) {
      if (!needed[static_cast<std::size_t>(value)]) step.dead.push_back(value);
      needed[static_cast<std::size_t>(value)] = true;
    }
    for (Operand& operand : step.operands) {
      operand.last = operand.value >= 0 && uses[operand.value] == 1 &&
                     std::find(step.dead.begin(), step.dead.end(), operand.value) != step.dead.end();
    }
  }
}

Program::Values Program::inputs(const GraphTensors& in, const TensorsByName& parameters) const {
  Values values(static_cast<std::size_t>(part_.values));
  for (const GraphInput& input : part_.inputs) {
    c10::IValue& value = values[static_cast<std::size_t>(input.value)];
    switch (input.kind) {
      case InputKind::kHidden:
        value = in.hidden;
        break;
      case InputKind::kTokens:
        value = in.tokens;
        break;
      case InputKind::kCarried:
        value = in.carried.at(input.name);
        break;
      case InputKind::kParameter:
        value = parameters.at(input.name);
        break;
      case InputKind::kConstant:
        value = constants_.at(input.name);
        break;
    }
  }
  return values;
}

namespace {

// Calls change(tensor) for all that are there.
template <class Tensors, class Change>
void for_each_tensor(Tensors& tensors, const Change& change) {
  if (tensors.hidden.defined()) change("hidden", tensors.hidden);
  if (tensors.tokens.defined()) change("tokens", tensors.tokens);
  for (auto& [name, tensor] : tensors.carried) change("carried." + name, tensor);
}

}  // namespace

GraphTensors Program::forward(const GraphTensors& in, const TensorsByName& parameters, ProductHooks* hooks) const {
  const std::int64_t samples = in.hidden.defined() ? in.hidden.size(0) : in.tokens.size(0);
  if (batch_ == 0 || batch_ == samples) return forward_part(in, parameters, hooks);
  RT_CHECK(samples > 0 && samples % batch_ == 0);
  std::map<std::string, std::vector<torch::Tensor>> parts;
  GraphTensors out;
  for (std::int64_t first = 0; first < samples; first += batch_) {
    GraphTensors part = in;
    for_each_tensor(part, [&](const std::string&, torch::Tensor& tensor) { tensor = tensor.narrow(0, first, batch_); });
    out = forward_part(part, parameters, hooks);
    for_each_tensor(out, [&](const std::string& name, torch::Tensor& tensor) { parts[name].push_back(tensor); });
  }
  for_each_tensor(out, [&](const std::string& name, torch::Tensor& tensor) { tensor = torch::cat(parts[name]); });
  return out;
}

GraphTensors Program::forward_part(const GraphTensors& in, const TensorsByName& parameters, ProductHooks* hooks) const {
  Values values = inputs(in, parameters);
  const Step* at = nullptr;
  try {
    for (const Step& step : steps_) {
      at = &step;
      run(step, values, hooks);
    }
  } catch (const c10::Error& error) {
    throw error_of(error, part_.place_of(part_.nodes[at->node]));
  }
  GraphTensors out;
  for (const GraphOutput& output : part_.outputs) {
    const torch::Tensor tensor = values[static_cast<std::size_t>(output.value)].toTensor();
    (output.kind == OutputKind::kCarried ? out.carried[output.name] : out.hidden) = tensor;
  }
  return out;
}

void Program::run(const Step& step, Values& values, ProductHooks* hooks) const {
  std::optional<at::NoGradGuard> no_grad;
  if (step.no_grad) no_grad.emplace();
  std::vector<c10::IValue> stack;
  stack.reserve(step.operands.size());
  for (const Operand& operand : step.operands) stack.push_back(operand.take(values));
  if (step.kind == Step::Kind::kInt) {
    std::vector<std::int64_t> numbers;
    for (const c10::IValue& number : stack) numbers.push_back(number.toInt());
    stack.assign(1, int_result(step.op, numbers));
  } else if (step.product != nullptr && hooks != nullptr) {
    const torch::Tensor x = std::move(stack[step.product->x_argument()]).toTensor();
    const bool experts = step.product->form == ProductForm::kExperts;
    const torch::Tensor ends = experts ? stack[kEndsOfExpertLinear].toTensor() : torch::Tensor();
    stack.clear();
    stack.emplace_back(hooks->multiply(*step.product, x, ends));
  } else if (hooks != nullptr && step.experts == Step::Experts::kToOwners) {
    const auto [rows, ends] = hooks->to_owners(stack[0].toTensor(), stack[1].toTensor());
    stack = {rows, ends};
  } else if (hooks != nullptr && step.experts == Step::Experts::kFromOwners) {
    stack = {hooks->from_owners(stack[0].toTensor(), stack[1].toTensor())};
  } else {
    const bool dispatch = hooks != nullptr && step.experts == Step::Experts::kDispatch;
    if (dispatch) {
      c10::IValue& index = stack[kIndexOfDispatch];
      index = hooks->choices(index.toTensor(), stack[kExpertsOfDispatch].toInt());
    }
    step.handle->callBoxed(stack);
    if (dispatch) hooks->dispatched(stack[kEndsOfDispatch].toTensor());
  }
  for (const std::int64_t value : step.dead) values[static_cast<std::size_t>(value)] = c10::IValue();
  set_results(step, stack, values);
}

void Program::set_results(const Step& step, std::vector<c10::IValue>& stack, Values& values) const {
  if (step.gives_list) {
    const std::vector<torch::Tensor> list = stack[0].toTensorVector();
    TORCH_CHECK(list.size() == step.out.size(), "it gives ", list.size(), " tensors, and 'out' has ", step.out.size());
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (step.out[i] >= 0) values[static_cast<std::size_t>(step.out[i])] = list[i];
    }
    return;
  }
  for (std::size_t i = 0; i < step.out.size(); ++i) {
    if (step.out[i] < 0) continue;
    // A size comes as a symbolic number that is known.
    const bool symbolic = stack[i].isSymInt();
    values[static_cast<std::size_t>(step.out[i])] =
        symbolic ? c10::IValue(stack[i].toSymInt().expect_int()) : std::move(stack[i]);
  }
}

}  // namespace roundtable

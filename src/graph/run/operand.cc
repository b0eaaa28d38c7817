// From the file's arguments to IValues.
#include "graph/run/operand.h"

#include <ATen/ScalarOps.h>
#include <ATen/core/jit_type.h>
#include <fmt/format.h>

#include <optional>
#include <utility>

#include "base/error.h"
#include "graph/format/manifest.h"

namespace roundtable {
namespace {

using c10::TypeKind;

// A number that takes part in an operation on tensors without a say in the result's dtype, as Python's numbers do.
torch::Tensor wrapped_number(const c10::Scalar& number) {
  torch::Tensor tensor = c10::scalar_to_tensor(number);
  tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

template <class T>
c10::IValue list_of(const std::vector<c10::IValue>& values, T (c10::IValue::*get)() const) {
  c10::List<T> list;
  list.reserve(values.size());
  for (const c10::IValue& value : values) list.push_back((value.*get)());
  return list;
}

c10::IValue list_of(const std::vector<c10::IValue>& values, const c10::TypePtr& element) {
  switch (element->kind()) {
    case TypeKind::FloatType:
      return list_of<double>(values, &c10::IValue::toDouble);
    case TypeKind::BoolType:
      return list_of<bool>(values, &c10::IValue::toBool);
    case TypeKind::TensorType: {
      c10::List<torch::Tensor> list;
      for (const c10::IValue& value : values) list.push_back(value.toTensor());
      return list;
    }
    case TypeKind::OptionalType: {  // Tensor?[]
      c10::List<std::optional<torch::Tensor>> list;
      for (const c10::IValue& value : values) list.push_back(value.toOptional<torch::Tensor>());
      return list;
    }
    default:
      return list_of<std::int64_t>(values, &c10::IValue::toInt);
  }
}

class Converter {
 public:
  Converter(const std::vector<ValueType>& types, torch::Device device, const std::string& place)
      : types_(types), device_(device), place_(place) {}

  Operand convert(const Argument& argument, const c10::TypePtr& type, std::optional<std::int32_t> width) const {
    if (const auto optional = type->cast<c10::OptionalType>()) {
      if (std::holds_alternative<Argument::None>(argument.is)) return {};
      return convert(argument, optional->getElementType(), width);
    }
    if (const auto list = type->cast<c10::ListType>()) return convert_list(argument, *list, width);
    if (const auto value = argument.value()) return convert_value(*value, type);
    return {convert_constant(argument, *type)};
  }

 private:
  [[noreturn]] void refuse(const c10::Type& type) const {
    throw bad_input(place_, fmt::format("the operator takes {} there", type.repr_str()), kExportAgain);
  }

  Operand convert_value(std::int64_t value, const c10::TypePtr& type) const {
    Operand operand;
    operand.value = value;
    const bool is_int = types_[static_cast<std::size_t>(value)] == ValueType::kInt;
    switch (type->kind()) {
      case TypeKind::TensorType:
        operand.as = is_int ? Operand::As::kTensor : Operand::As::kItself;
        return operand;
      case TypeKind::IntType:
      case TypeKind::SymIntType:
      case TypeKind::NumberType:
        if (!is_int) refuse(*type);
        return operand;
      case TypeKind::FloatType:
        if (!is_int) refuse(*type);
        operand.as = Operand::As::kFloat;
        return operand;
      default:
        refuse(*type);
    }
  }

  // A single element may stand for a list of a fixed length: int[2] stride=1.
  Operand convert_list(const Argument& argument, const c10::ListType& type, std::optional<std::int32_t> width) const {
    const auto* list = std::get_if<Argument::List>(&argument.is);
    if (list == nullptr && !width) refuse(type);
    const Argument::List repeated(list == nullptr ? static_cast<std::size_t>(*width) : 0, argument);
    const c10::TypePtr& element = type.getElementType();
    const bool tensors = element->kind() == TypeKind::TensorType || element->kind() == TypeKind::OptionalType;
    const bool numbers = element->kind() == TypeKind::IntType || element->kind() == TypeKind::SymIntType ||
                         element->kind() == TypeKind::FloatType || element->kind() == TypeKind::BoolType;
    if (!tensors && !numbers) refuse(type);
    Operand all;
    all.is_list = true;
    all.element = element;
    bool known = !tensors;
    for (const Argument& part : list == nullptr ? repeated : *list) {
      all.parts.push_back(convert(part, element, std::nullopt));
      known = known && all.parts.back().value < 0;
    }
    if (!known) return all;
    std::vector<c10::IValue> constants;
    for (const Operand& part : all.parts) constants.push_back(part.constant);
    return {list_of(constants, element)};
  }

  c10::IValue convert_constant(const Argument& argument, const c10::Type& type) const {
    const auto* whole = std::get_if<std::int64_t>(&argument.is);
    const auto* real = std::get_if<double>(&argument.is);
    const auto* truth = std::get_if<bool>(&argument.is);
    switch (type.kind()) {
      case TypeKind::IntType:
      case TypeKind::SymIntType:
        if (whole != nullptr) return *whole;
        break;
      case TypeKind::FloatType:
        if (whole != nullptr) return static_cast<double>(*whole);
        if (real != nullptr) return *real;
        break;
      case TypeKind::NumberType:
        if (const auto number = scalar(argument)) return *number;
        break;
      case TypeKind::TensorType:
        if (const auto number = scalar(argument)) return wrapped_number(*number);
        break;
      case TypeKind::BoolType:
        if (truth != nullptr) return *truth;
        break;
      case TypeKind::StringType:
        if (const auto* text = std::get_if<std::string>(&argument.is)) return *text;
        break;
      case TypeKind::DeviceObjType:
        if (std::holds_alternative<Argument::Device>(argument.is)) return device_;
        break;
      case TypeKind::ScalarTypeType:
        if (const auto* dtype = std::get_if<c10::ScalarType>(&argument.is)) return *dtype;
        break;
      case TypeKind::LayoutType:
        if (const auto* layout = std::get_if<c10::Layout>(&argument.is)) return *layout;
        break;
      case TypeKind::MemoryFormatType:
        if (const auto* format = std::get_if<c10::MemoryFormat>(&argument.is)) return *format;
        break;
      default:
        break;
    }
    refuse(type);
  }

  static std::optional<c10::Scalar> scalar(const Argument& argument) {
    if (const auto* whole = std::get_if<std::int64_t>(&argument.is)) return c10::Scalar(*whole);
    if (const auto* real = std::get_if<double>(&argument.is)) return c10::Scalar(*real);
    if (const auto* truth = std::get_if<bool>(&argument.is)) return c10::Scalar(*truth);
    return std::nullopt;
  }

  const std::vector<ValueType>& types_;
  torch::Device device_;
  const std::string& place_;
};

}  // namespace

c10::IValue Operand::take(std::vector<c10::IValue>& values) const {
  if (value >= 0) {
    c10::IValue& held = values[static_cast<std::size_t>(value)];
    if (as == As::kFloat) return static_cast<double>(held.toInt());
    if (as == As::kTensor) return wrapped_number(held.toInt());
    return last ? std::exchange(held, c10::IValue()) : held;
  }
  if (!is_list) return constant;
  std::vector<c10::IValue> taken;
  taken.reserve(parts.size());
  for (const Operand& part : parts) taken.push_back(part.take(values));
  return list_of(taken, element);
}

Operand operand_of(const Argument& argument, const c10::Argument& formal, const std::vector<ValueType>& types,
                   torch::Device device, const std::string& place) {
  return Converter(types, device, place).convert(argument, formal.real_type(), formal.N());
}

Operand default_operand(const c10::Argument& formal, const std::string& place) {
  if (!formal.default_value()) {
    throw bad_input(place, fmt::format("the argument '{}' is missing", formal.name()), kExportAgain);
  }
  return {*formal.default_value()};
}

Operand int_operand(const Argument& argument, const std::vector<ValueType>& types, const std::string& place) {
  return Converter(types, torch::kCPU, place).convert(argument, c10::IntType::get(), std::nullopt);
}

}  // namespace roundtable

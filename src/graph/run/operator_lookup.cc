// The dispatcher's registry, with our operators in it.
#include "graph/run/operator_lookup.h"

#include <ATen/core/jit_type.h>

#include "graph/operators/library.h"

namespace roundtable {

std::optional<c10::OperatorHandle> find_operator(const std::string& name) {
  register_operators();
  const std::size_t dot = name.find('.');
  return c10::Dispatcher::singleton().findSchema(
      {name.substr(0, dot), dot == std::string::npos ? "" : name.substr(dot + 1)});
}

bool gives_list(const c10::FunctionSchema& schema) {
  return schema.returns().size() == 1 && schema.returns()[0].type()->kind() == c10::TypeKind::ListType;
}

}  // namespace roundtable

// Wording of errors.
#include "base/error.h"

#include "base/escape.h"

namespace roundtable {

Error make_error(ExitCode code, std::string_view place, std::string_view problem, std::string_view mend) {
  std::string line = fmt::format("{}: {}", place, problem);
  if (!mend.empty()) line += fmt::format("; {}", mend);
  return Error(code, escape_control(line));  // what a file brought into it may hold a line's end
}

Error bad_input(std::string_view place, std::string_view problem, std::string_view mend) {
  return make_error(ExitCode::kBadInput, place, problem, mend);
}

Error machine_error(std::string_view place, std::string_view problem, std::string_view mend) {
  return make_error(ExitCode::kMachine, place, problem, mend);
}

void detail::check_failed(const char* file, int line, const char* what) {
  throw std::logic_error(fmt::format("internal error at {}:{}: {} does not hold", file, line, what));
}

}  // namespace roundtable

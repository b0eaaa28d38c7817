// How errors are worded, and what a failed system call means to the user.
#include "base/error.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/text.h"

namespace roundtable {
namespace {

struct Cause {
  ExitCode code;
  std::string fix;
};

Cause cause_of(int number) {
  switch (number) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return {ExitCode::kBadInput, "check the path"};
    case EACCES:
    case EPERM:
      return {ExitCode::kBadInput, "check the permissions, or choose another path"};
    case EROFS:
      return {ExitCode::kMachine,
              "choose another path, or make the file system writable and run the same command again"};
    case ENOSPC:
    case EDQUOT:
      return {ExitCode::kMachine, "free some space there and run the same command again"};
    case ENOMEM:
      return {ExitCode::kMachine, "use fewer ranks per node, or raise the limit of memory (ulimit -v)"};
    case EAGAIN:
      return {ExitCode::kMachine, "raise the limits of memory and of processes (ulimit -v and ulimit -u)"};
    case EFBIG:
      return {ExitCode::kMachine, "raise the limit of a file's size (ulimit -f)"};
    case EMFILE:
    case ENFILE:
      return {ExitCode::kMachine, "raise the limit of open files (ulimit -n)"};
    default:
      return {ExitCode::kMachine, ""};
  }
}

}  // namespace

Error make_error(ExitCode code, std::string_view place, std::string_view problem, std::string_view fix) {
  std::string line = fmt::format("{}: {}", place, problem);
  if (!fix.empty()) line += fmt::format("; {}", fix);
  return Error(code, escape_control(line));  // a file may have brought the end of a line into it
}

Error bad_input(std::string_view place, std::string_view problem, std::string_view fix) {
  return make_error(ExitCode::kBadInput, place, problem, fix);
}

Error machine_error(std::string_view place, std::string_view problem, std::string_view fix) {
  return make_error(ExitCode::kMachine, place, problem, fix);
}

Error call_error(std::string_view place, std::string_view problem, int number) {
  const Cause cause = cause_of(number);
  const bool not_found = number == ENOENT || number == ENOTDIR;
  return make_error(cause.code, place, fmt::format("{}: {}", problem, std::strerror(number)),
                    cause.fix + (not_found ? searched_from(place) : ""));
}

std::string searched_from(std::string_view path) {
  if (path.starts_with('/')) return "";
  std::error_code ignored;
  const std::string folder = std::filesystem::current_path(ignored).string();
  return folder.empty() ? "" : fmt::format(" (it is relative to {})", folder);
}

std::string fix_of_call(int number) { return cause_of(number).fix; }

void detail::check_failed(const char* file, int line, const char* what) {
  throw std::logic_error(fmt::format("internal error at {}:{}: {} does not hold", file, line, what));
}

void detail::unreachable(const char* file, int line, const char* what) {
  throw std::logic_error(fmt::format("internal error at {}:{}: {}", file, line, what));
}

}  // namespace roundtable

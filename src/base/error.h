// Errors that a user or a machine can cause, with their place and their fix; and checks for our own bugs.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace roundtable {

// What the process returns to the shell. Documented in README.md and `roundtable --help`.
enum class ExitCode : int {
  kOk = 0,
  kInternal = 1,     // a bug of ours
  kBadInput = 2,     // a file, key or option that the user gave
  kMachine = 3,      // MPI, HDF5, NCCL, file system, memory
  kNumeric = 4,      // a loss or weight that is not finite
  kStartAgain = 75,  // stopped in time; the same command resumes (EX_TEMPFAIL of sysexits.h)
};

// One line for the user: "place: problem; fix". Thrown for whatever a user or a machine can cause, never for our own
// bugs (see RT_CHECK).
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& line) : std::runtime_error(line), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// The same error, thrown on every rank after the ranks agreed on it; only rank 0 prints it.
// The ranks may then leave in order, without MPI_Abort.
class AgreedError : public Error {
 public:
  using Error::Error;
};

// `place` is a file, key or rank ("model.safetensors: tensor 'a.weight'"); `fix` says what to do and may be empty.
Error make_error(ExitCode code, std::string_view place, std::string_view problem, std::string_view fix = {});
Error bad_input(std::string_view place, std::string_view problem, std::string_view fix = {});
Error machine_error(std::string_view place, std::string_view problem, std::string_view fix = {});

// The error of a system call that failed with `number`, its errno: "place: problem: No space left on device; fix". A
// path that the user gave wrongly (missing, not permitted, a folder) is bad input; all else is the machine's. The fix
// for a relative path that is missing says which folder was searched.
Error call_error(std::string_view place, std::string_view problem, int number);
// What a user can do about that errno; empty where nothing is known.
std::string fix_of_call(int number);
// " (it is relative to /home/me)", to end a line about a file that is not there; empty for an absolute path.
std::string searched_from(std::string_view path);

namespace detail {
[[noreturn]] void check_failed(const char* file, int line, const char* what);
[[noreturn]] void unreachable(const char* file, int line, const char* what);
}  // namespace detail

}  // namespace roundtable

// For our own bugs only: a condition that no input may break.
#define RT_CHECK(condition)                                                               \
  do {                                                                                    \
    if (!(condition)) ::roundtable::detail::check_failed(__FILE__, __LINE__, #condition); \
  } while (false)

// For our own bugs only: a place that no input may reach. `text` names what is there and should not be.
#define RT_UNREACHABLE(text) ::roundtable::detail::unreachable(__FILE__, __LINE__, text)

// By the types of LibTorch's exceptions, c10/util/Exception.h, and by their text where they have no type of their own.
#include "device/faults.h"

#include <c10/util/Exception.h>

#include <string>

#include "base/text.h"

namespace roundtable {
namespace {

// aten/src/ATen/Context.cpp, alertNotDeterministic().
bool is_about_determinism(const std::string& text) {
  return text.find("does not have a deterministic implementation") != std::string::npos;
}

}  // namespace

std::optional<Error> error_of_device(std::string_view place) {
  try {
    throw;
  } catch (const c10::OutOfMemoryError& error) {
    return machine_error(place, first_line(error.what_without_backtrace()),
                         "lower tuning.micro_batch, raise parallel.shards, or set tuning.low_gpu_mem_usage");
  } catch (const c10::AcceleratorError& error) {
    return machine_error(place, first_line(error.what_without_backtrace()),
                         "look for faults of the device (nvidia-smi -q, dmesg), and leave a broken node out of the job");
  } catch (const c10::Error& error) {
    const std::string text = first_line(error.what_without_backtrace());
    if (!is_about_determinism(text)) return std::nullopt;
    return bad_input(place, text, "set tuning.enable_deterministic_algorithms: false; two runs then differ in last bits");
  } catch (...) {
    return std::nullopt;
  }
}

}  // namespace roundtable

// HDF5 identifiers that close themselves, and HDF5 errors as Error with the library's own words.
#pragma once

#include <hdf5.h>

#include <string>
#include <utility>

#include "base/error.h"

namespace roundtable {

// The innermost description on HDF5's error stack.
inline std::string hdf5_reason() {
  std::string reason = "no reason given";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* entry, void* text) -> herr_t {
        if (entry->desc != nullptr) *static_cast<std::string*>(text) = entry->desc;
        return 1;  // the first one is enough
      },
      &reason);
  return reason;
}

// Throws when `status` is negative, HDF5's sign of failure.
inline void check_hdf5(herr_t status, const std::string& path, const char* call) {
  if (status >= 0) return;
  // HDF5 over MPI-IO does not pass on the errno of the system call.
  throw machine_error(path, fmt::format("{} failed: {}", call, hdf5_reason()),
                      "check the space, quota and health of that file system");
}

// HDF5 prints its error stack by default; we put its innermost description into our one line.
inline void silence_hdf5() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

class Hdf5Handle {
 public:
  using Close = herr_t (*)(hid_t);

  Hdf5Handle(hid_t id, Close close, const std::string& path, const char* call) : id_(id), close_(close) {
    check_hdf5(id < 0 ? -1 : 0, path, call);
  }
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Hdf5Handle(const Hdf5Handle&) = delete;
  Hdf5Handle& operator=(const Hdf5Handle&) = delete;
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }

  hid_t get() const { return id_; }
  hid_t release() { return std::exchange(id_, -1); }

 private:
  hid_t id_;
  Close close_;
};

}  // namespace roundtable

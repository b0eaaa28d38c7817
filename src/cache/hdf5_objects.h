// Element types, dataspaces and texts as HDF5 objects. What is read comes from a file that may be damaged or made by
// somebody else: it is checked before it is used.
#pragma once

#include <string>
#include <vector>

#include "base/element_type.h"
#include "cache/hdf5_handle.h"

namespace roundtable {

// What to do about a file that cannot be used.
inline constexpr const char* kMakeItAgain = "remove this file and run the same command again";

// The type in the file, little-endian; on the machines that we run on also that in memory, so that HDF5 converts
// nothing. bf16 and fp16 are self-describing 16-bit floats, and bool is the enumeration of FALSE and TRUE in one byte:
// h5dump and h5py show them as such. A boundary has no fp8.
Hdf5Handle hdf5_type(ElementType type, const std::string& path);

Hdf5Handle simple_space(const std::vector<hsize_t>& dims, const std::string& path);

// Throws Error (kBadInput) if there is none.
Hdf5Handle open_dataset(hid_t file, const std::string& name, const std::string& path);

// Whether the extents of `dataset` are exactly these.
bool has_dims(hid_t dataset, const std::vector<hsize_t>& dims, const std::string& path);
bool has_type(hid_t dataset, hid_t type, const std::string& path);

void write_text_attribute(hid_t object, const char* name, const std::string& value, const std::string& path);

// Throws Error (kBadInput) if there is none, or if it is not one text of at most 4096 bytes.
std::string read_text_attribute(hid_t object, const char* name, const std::string& path);

}  // namespace roundtable

// Element types, dataspaces and texts as HDF5 objects.
#include "cache/hdf5_objects.h"

#include <cstdint>

namespace roundtable {
namespace {

// A float of 16 bits: a sign, `exponent` bits, and a mantissa in the rest.
Hdf5Handle float16_type(std::size_t exponent, std::size_t bias, const std::string& path) {
  const std::size_t mantissa = 15 - exponent;
  Hdf5Handle made(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, path, "H5Tcopy");
  // Fields before size: HDF5 refuses a size that cuts the fields it has.
  check_hdf5(H5Tset_fields(made.get(), 15, mantissa, exponent, 0, mantissa), path, "H5Tset_fields");
  check_hdf5(H5Tset_size(made.get(), 2), path, "H5Tset_size");
  check_hdf5(H5Tset_ebias(made.get(), bias), path, "H5Tset_ebias");
  return made;
}

// As h5py writes numpy's bool.
Hdf5Handle bool_type(const std::string& path) {
  Hdf5Handle made(H5Tenum_create(H5T_STD_I8LE), H5Tclose, path, "H5Tenum_create");
  for (const std::int8_t value : {0, 1}) {
    check_hdf5(H5Tenum_insert(made.get(), value == 0 ? "FALSE" : "TRUE", &value), path, "H5Tenum_insert");
  }
  return made;
}

}  // namespace

Hdf5Handle hdf5_type(ElementType type, const std::string& path) {
  const auto copy = [&](hid_t of) { return Hdf5Handle(H5Tcopy(of), H5Tclose, path, "H5Tcopy"); };
  switch (type) {
    case ElementType::kF64:
      return copy(H5T_IEEE_F64LE);
    case ElementType::kF32:
      return copy(H5T_IEEE_F32LE);
    case ElementType::kF16:
      return float16_type(5, 15, path);
    case ElementType::kBF16:
      return float16_type(8, 127, path);
    case ElementType::kI64:
      return copy(H5T_STD_I64LE);
    case ElementType::kI32:
      return copy(H5T_STD_I32LE);
    case ElementType::kI16:
      return copy(H5T_STD_I16LE);
    case ElementType::kI8:
      return copy(H5T_STD_I8LE);
    case ElementType::kU8:
      return copy(H5T_STD_U8LE);
    case ElementType::kBool:
      return bool_type(path);
    case ElementType::kF8E4M3:
    case ElementType::kF8E8M0:
      break;
  }
  RT_UNREACHABLE("an element type that no boundary has");
}

Hdf5Handle simple_space(const std::vector<hsize_t>& dims, const std::string& path) {
  return {H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose, path, "H5Screate_simple"};
}

Hdf5Handle open_dataset(hid_t file, const std::string& name, const std::string& path) {
  const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  if (dataset < 0) throw bad_input(path, fmt::format("it has no readable dataset '{}'", name), kMakeItAgain);
  return {dataset, H5Dclose, path, "H5Dopen2"};
}

bool has_dims(hid_t dataset, const std::vector<hsize_t>& dims, const std::string& path) {
  const Hdf5Handle space(H5Dget_space(dataset), H5Sclose, path, "H5Dget_space");
  if (H5Sget_simple_extent_ndims(space.get()) != static_cast<int>(dims.size())) return false;
  std::vector<hsize_t> found(dims.size());
  return H5Sget_simple_extent_dims(space.get(), found.data(), nullptr) >= 0 && found == dims;
}

bool has_type(hid_t dataset, hid_t type, const std::string& path) {
  const Hdf5Handle found(H5Dget_type(dataset), H5Tclose, path, "H5Dget_type");
  return H5Tequal(found.get(), type) > 0;
}

void write_text_attribute(hid_t object, const char* name, const std::string& value, const std::string& path) {
  Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose, path, "H5Tcopy");
  check_hdf5(H5Tset_size(type.get(), value.size() + 1), path, "H5Tset_size");
  Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose, path, "H5Screate");
  Hdf5Handle attribute(H5Acreate2(object, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose, path,
                       "H5Acreate2");
  check_hdf5(H5Awrite(attribute.get(), type.get(), value.c_str()), path, "H5Awrite");
}

std::string read_text_attribute(hid_t object, const char* name, const std::string& path) {
  const auto refused = [&] {
    return bad_input(path, fmt::format("it has no attribute '{}' that is a short text", name), kMakeItAgain);
  };
  const hid_t opened = H5Aopen(object, name, H5P_DEFAULT);
  if (opened < 0) throw refused();
  const Hdf5Handle attribute(opened, H5Aclose, path, "H5Aopen");
  const Hdf5Handle type(H5Aget_type(attribute.get()), H5Tclose, path, "H5Aget_type");
  const Hdf5Handle space(H5Aget_space(attribute.get()), H5Sclose, path, "H5Aget_space");
  const std::size_t size = H5Tget_size(type.get());
  // HDF5 writes as many texts as the file declares, and a text of variable length as a pointer.
  const bool one_text = H5Tget_class(type.get()) == H5T_STRING && H5Tis_variable_str(type.get()) == 0 &&
                        H5Sget_simple_extent_npoints(space.get()) == 1;
  if (!one_text || size == 0 || size > 4096) throw refused();
  std::string value(size, '\0');
  check_hdf5(H5Aread(attribute.get(), type.get(), value.data()), path, "H5Aread");
  return value.c_str();  // up to the terminating zero
}

}  // namespace roundtable

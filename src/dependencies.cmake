# The libraries that Roundtable needs, as imported targets.
#
# LibTorch is taken from the torch wheel by its files and not by find_package(Torch): the wheel's config insists on a
# CUDA toolkit even where only libtorch_cpu is wanted, and a machine without one must build too.

find_package(MPI REQUIRED COMPONENTS CXX)
set(HDF5_PREFER_PARALLEL ON)
find_package(HDF5 REQUIRED COMPONENTS C)
if(NOT HDF5_IS_PARALLEL)
  message(FATAL_ERROR "HDF5 ${HDF5_VERSION} at ${HDF5_INCLUDE_DIRS} is serial; install a parallel build (Debian: libhdf5-openmpi-dev)")
endif()
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Threads REQUIRED)
find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)
find_library(XXHASH_LIBRARY xxhash REQUIRED)
find_path(PCRE2_INCLUDE_DIR pcre2.h REQUIRED)
find_library(PCRE2_LIBRARY pcre2-8 REQUIRED)

execute_process(
  COMMAND ${ROUNDTABLE_PYTHON} -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
  OUTPUT_VARIABLE TORCH_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE torch_missing)
if(torch_missing)
  message(FATAL_ERROR "${ROUNDTABLE_PYTHON} has no torch; run launch/setup.sh, or set ROUNDTABLE_PYTHON to a Python that has")
endif()
get_filename_component(site_packages ${TORCH_ROOT} DIRECTORY)
message(STATUS "LibTorch: ${TORCH_ROOT}")

# yaml-cpp before 0.8 names its target without a namespace.
if(NOT TARGET yaml-cpp::yaml-cpp)
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)
endif()

add_library(roundtable_hdf5 INTERFACE)
target_include_directories(roundtable_hdf5 SYSTEM INTERFACE ${HDF5_INCLUDE_DIRS})
target_link_libraries(roundtable_hdf5 INTERFACE ${HDF5_LIBRARIES} MPI::MPI_CXX)

add_library(roundtable_xxhash INTERFACE)
target_include_directories(roundtable_xxhash SYSTEM INTERFACE ${XXHASH_INCLUDE_DIR})
target_link_libraries(roundtable_xxhash INTERFACE ${XXHASH_LIBRARY})

add_library(roundtable_pcre2 INTERFACE)
target_include_directories(roundtable_pcre2 SYSTEM INTERFACE ${PCRE2_INCLUDE_DIR})
target_link_libraries(roundtable_pcre2 INTERFACE ${PCRE2_LIBRARY})

add_library(roundtable_torch INTERFACE)
target_include_directories(roundtable_torch SYSTEM INTERFACE
  ${TORCH_ROOT}/include ${TORCH_ROOT}/include/torch/csrc/api/include)
target_link_libraries(roundtable_torch INTERFACE ${TORCH_ROOT}/lib/libtorch_cpu.so ${TORCH_ROOT}/lib/libc10.so)

# LibTorch's at::parallel_for is a template over OpenMP: without the flag it would run serially in our code.
find_package(OpenMP REQUIRED COMPONENTS CXX)
target_link_libraries(roundtable_torch INTERFACE OpenMP::OpenMP_CXX)

# CUDA and NCCL: compiled and linked wherever a toolkit is found. That of PyPI comes first, which fits LibTorch.
option(ROUNDTABLE_USE_CUDA "Use a CUDA toolkit where one is found" ON)
set(ROUNDTABLE_CUDA OFF)
set(cuda_wheels ${site_packages}/nvidia/cu13)
if(ROUNDTABLE_USE_CUDA)
  if(NOT CMAKE_CUDA_COMPILER AND EXISTS ${cuda_wheels}/bin/nvcc)
    include(src/cuda_toolkit.cmake)
    roundtable_cuda_toolkit(${cuda_wheels} ${CMAKE_BINARY_DIR}/cuda_toolkit)
    set(CMAKE_CUDA_COMPILER ${CMAKE_BINARY_DIR}/cuda_toolkit/bin/nvcc)
    set(CUDAToolkit_ROOT ${CMAKE_BINARY_DIR}/cuda_toolkit)
  endif()
  include(CheckLanguage)
  check_language(CUDA)
endif()
if(ROUNDTABLE_USE_CUDA AND CMAKE_CUDA_COMPILER)
  find_package(CUDAToolkit)
  # The wheel's libtorch_cuda needs the NCCL of its own wheel, not an older one of the system.
  find_path(NCCL_INCLUDE_DIR nccl.h PATHS ${site_packages}/nvidia/nccl/include NO_DEFAULT_PATH)
  find_library(NCCL_LIBRARY NAMES libnccl.so.2 PATHS ${site_packages}/nvidia/nccl/lib NO_DEFAULT_PATH)
  if(CUDAToolkit_FOUND AND NCCL_INCLUDE_DIR AND NCCL_LIBRARY AND EXISTS ${TORCH_ROOT}/lib/libtorch_cuda.so)
    set(ROUNDTABLE_CUDA ON)
  endif()
endif()
message(STATUS "CUDA and NCCL: ${ROUNDTABLE_CUDA}")
if(ROUNDTABLE_CUDA)
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80 90)
  endif()
  set(CMAKE_CUDA_STANDARD 17)
  enable_language(CUDA)
  # --no-as-needed: libtorch_cuda registers its kernels when it is loaded; no symbol of ours pulls it in.
  target_link_libraries(roundtable_torch INTERFACE
    -Wl,--no-as-needed ${TORCH_ROOT}/lib/libtorch_cuda.so ${TORCH_ROOT}/lib/libc10_cuda.so -Wl,--as-needed)
  target_link_directories(roundtable_torch INTERFACE ${cuda_wheels}/lib ${site_packages}/nvidia/nccl/lib)
  # RPATH instead of RUNPATH: LD_LIBRARY_PATH comes before the latter, and modules such as `cuda` or `nvhpc` set it to
  # folders with an older NCCL, which libtorch_cuda cannot work with.
  target_link_options(roundtable_torch INTERFACE
    -Wl,--disable-new-dtags -Wl,-rpath-link,${cuda_wheels}/lib,-rpath-link,${site_packages}/nvidia/nccl/lib)
  target_include_directories(roundtable_torch SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  # The runtime that LibTorch loads, and no second one with another notion of the current device.
  set(cuda_runtime ${cuda_wheels}/lib/libcudart.so.13)
  if(NOT EXISTS ${cuda_runtime})
    set(cuda_runtime CUDA::cudart)  # LibTorch is no wheel
  endif()
  target_link_libraries(roundtable_torch INTERFACE ${cuda_runtime})
  add_library(roundtable_nccl INTERFACE)
  target_include_directories(roundtable_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
  target_link_libraries(roundtable_nccl INTERFACE ${NCCL_LIBRARY} ${cuda_runtime})
endif()

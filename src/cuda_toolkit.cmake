# A CUDA toolkit made of NVIDIA's packages on PyPI, in the layout that nvcc and CMake expect: the wheels have no lib64 and
# no libcudart.so. It is of the same release as LibTorch's own CUDA libraries, so that a program has one CUDA runtime.
#
# roundtable_cuda_toolkit(WHEELS FOLDER): makes FOLDER of links into WHEELS, the folder nvidia/cu13 of site-packages.
function(roundtable_cuda_toolkit wheels folder)
  file(MAKE_DIRECTORY ${folder}/bin ${folder}/lib)
  # nvcc finds all else from the folder that it lies in, so that this must be a folder and not a link to one.
  file(GLOB tools ${wheels}/bin/*)
  file(GLOB libraries ${wheels}/lib/*)
  foreach(file IN LISTS tools)
    get_filename_component(name ${file} NAME)
    file(CREATE_LINK ${file} ${folder}/bin/${name} SYMBOLIC)
  endforeach()
  foreach(file IN LISTS libraries)
    get_filename_component(name ${file} NAME)
    file(CREATE_LINK ${file} ${folder}/lib/${name} SYMBOLIC)
    string(REGEX REPLACE "\\.so\\..*" ".so" plain ${name})
    if(NOT plain STREQUAL name)
      file(CREATE_LINK ${file} ${folder}/lib/${plain} SYMBOLIC)
    endif()
  endforeach()
  file(CREATE_LINK ${folder}/lib ${folder}/lib64 SYMBOLIC)
  file(CREATE_LINK ${wheels}/include ${folder}/include SYMBOLIC)
  file(CREATE_LINK ${wheels}/nvvm ${folder}/nvvm SYMBOLIC)
endfunction()

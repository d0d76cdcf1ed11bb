# Whether the CUDA kernels are built, for which GPUs, and how. In: CXR_EDGE_CUDA and, to build for fewer GPUs in less
# time, CXR_EDGE_CUDA_ARCHITECTURES; out: CXR_EDGE_HAS_CUDA and cxr_edge_add_cuda(TARGET). A build without CUDA gets
# csrc/cuda_absent.cc, which has the same symbols and says what is missing when they are called.

# Turing to Blackwell. 87: Jetson Orin. 110: Jetson Thor. 121: DGX Spark.
set(CXR_EDGE_CUDA_KNOWN 75 80 86 87 89 90 100 110 120 121)

# Not while cross-compiling, unless asked for: the nvcc on PATH compiles for this machine's own processor.
if(CXR_EDGE_CUDA STREQUAL "OFF" OR (CXR_EDGE_CUDA STREQUAL "AUTO" AND CMAKE_CROSSCOMPILING))
  set(CXR_EDGE_HAS_CUDA OFF)
else()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CXR_EDGE_HAS_CUDA ON)
  elseif(CXR_EDGE_CUDA STREQUAL "AUTO")
    set(CXR_EDGE_HAS_CUDA OFF)
  else()
    message(FATAL_ERROR "CXR_EDGE_CUDA=ON, but no CUDA compiler works here: install the CUDA toolkit, put nvcc on PATH "
                        "or set CUDACXX to it, or configure with -DCXR_EDGE_CUDA=AUTO to build without")
  endif()
endif()

# The known architectures that this compiler knows too: CUDA 12 has no Thor.
function(cxr_edge_cuda_architectures result)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE listed RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${CMAKE_CUDA_COMPILER} --list-gpu-arch failed: CUDA 11.5 or later is needed")
  endif()
  set(found "")
  foreach(architecture IN LISTS CXR_EDGE_CUDA_KNOWN)
    if(listed MATCHES "compute_${architecture}[\r\n]")
      list(APPEND found ${architecture})
    endif()
  endforeach()
  set(${result} ${found} PARENT_SCOPE)
endfunction()

if(CXR_EDGE_HAS_CUDA)
  if(NOT DEFINED CXR_EDGE_CUDA_ARCHITECTURES)
    cxr_edge_cuda_architectures(CXR_EDGE_CUDA_ARCHITECTURES)
  endif()
  # Machine code for each, and the newest also as PTX, which drivers compile for GPUs to come.
  list(TRANSFORM CXR_EDGE_CUDA_ARCHITECTURES APPEND "-real" OUTPUT_VARIABLE CMAKE_CUDA_ARCHITECTURES)
  list(GET CXR_EDGE_CUDA_ARCHITECTURES -1 newest)
  list(APPEND CMAKE_CUDA_ARCHITECTURES "${newest}-virtual")
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  message(STATUS "CUDA kernels: for compute capabilities ${CXR_EDGE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "CUDA kernels: none (CXR_EDGE_CUDA=${CXR_EDGE_CUDA})")
endif()

function(cxr_edge_add_cuda target)
  if(NOT CXR_EDGE_HAS_CUDA)
    target_sources(${target} PRIVATE csrc/cuda_absent.cc)
    return()
  endif()
  target_sources(${target} PRIVATE csrc/device_cuda.cu)
  # No fused multiply-adds, as on the CPU (pixel_math.h). The runtime is linked statically: the extension loads, and
  # says that there is no GPU, on machines without a driver.
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-O3 --fmad=false --threads=0 -Xcompiler=-fvisibility=hidden>)
  set_target_properties(${target} PROPERTIES CUDA_RUNTIME_LIBRARY Static)
endfunction()

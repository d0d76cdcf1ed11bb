# Debian's cross compiler. It brings its own C and C++ libraries, so CMake is told of no sysroot: the one in build/aarch64
# serves qemu, and gives the compiler only Python's headers. run.sh says where those are.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

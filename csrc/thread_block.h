// A block of GPU threads, or a loop that stands for it: what kernels are written against, so that the CPU runs the very
// code of the GPU, block for block. A kernel is a struct `Block` with the number of threads, the shared memory it wants
// and operator()(team, shared, place); all its work happens inside team.each, after which all threads have arrived.
#pragma once

#include <cstdint>

#include "cxr/pixel_math.h"

// Before a loop over memory: several loads on their way at once.
#if defined(__CUDACC__)
#define CXR_UNROLL _Pragma("unroll 4")
#else
#define CXR_UNROLL
#endif

namespace cxr {

// How many blocks a launch has, and which of them one is.
struct Grid {
  int x;
  int y;
  int z;
};

struct Team {
  int threads;
  const int* order;  // the order in which the loop runs the threads; none on a GPU

  // Runs work(thread) for every thread of the block. What one thread wrote, others may read after it, not within it.
  template <typename Work>
  CXR_HD void each(const Work& work) const {
#if defined(__CUDA_ARCH__)
    work(static_cast<int>(threadIdx.x));
    __syncthreads();
#else
    for (int i = 0; i < threads; ++i) work(order[i]);
#endif
  }
};

// Adds to memory that other threads and blocks add to. Whole numbers, so the order does not show in the sum.
CXR_HD void add_shared(uint64_t* to, uint64_t value) {
#if defined(__CUDA_ARCH__)
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
#else
  *to += value;
#endif
}

CXR_HD void lower_shared(int* to, int value) {
#if defined(__CUDA_ARCH__)
  atomicMin(to, value);
#else
  *to = smaller(*to, value);
#endif
}

CXR_HD void raise_shared(int* to, int value) {
#if defined(__CUDA_ARCH__)
  atomicMax(to, value);
#else
  *to = larger(*to, value);
#endif
}

CXR_HD int count_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __popc(bits);
#else
  int count = 0;
  for (; bits != 0; bits &= bits - 1) ++count;
  return count;
#endif
}

CXR_HD int blocks_for(int64_t items, int per_block) { return static_cast<int>((items + per_block - 1) / per_block); }

}  // namespace cxr

// Thread-block abstraction: a kernel is written once and compiles for CUDA and for a loop on the CPU, so that the CPU
// can run the code of the GPU, block by block. A kernel is a struct with `kThreads`, its shared memory `Shared` and
// operator()(block, shared, block_index). All its work happens inside block.for_each_thread, which ends with a barrier.
#pragma once

#include <cstdint>

#include "cxr/pixel_math.h"

// Before a loop over memory: keeps several loads in flight.
#if defined(__CUDACC__)
#define CXR_UNROLL _Pragma("unroll 4")
#else
#define CXR_UNROLL
#endif

namespace cxr {

// Grid dimensions, or the index of one block.
struct Grid {
  int x;
  int y;
  int z;
};

struct ThreadBlock {
  int threads;
  const int* order;  // the order in which the CPU loop runs the threads; nullptr: ascending

  // Runs work(thread) for every thread of the block. What a thread wrote is visible to the others only afterwards.
  template <typename Work>
  CXR_HD void for_each_thread(const Work& work) const {
#if defined(__CUDA_ARCH__)
    work(static_cast<int>(threadIdx.x));
    __syncthreads();
#else
    for (int i = 0; i < threads; ++i) work(order ? order[i] : i);
#endif
  }
};

// Adds to memory that other threads and blocks add to. Integers, so the result does not depend on the order.
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

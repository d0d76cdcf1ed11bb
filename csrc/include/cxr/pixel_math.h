// Per-pixel arithmetic of the preprocessing, as functions for C++ and CUDA files. In: integers and plan constants; out:
// integers and floats. CPU and GPU share it, so that the CPU tests hold for the GPU too: everything up to the canvas is
// exact integer arithmetic, the rest is one multiplication and one addition in float, which the build never contracts
// into a fused multiply-add (-ffp-contract=off, --fmad=false).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define CXR_HD __host__ __device__ inline
#else
#define CXR_HD inline
#endif

namespace cxr {

// floor(sum / norm + 1/2) for 0 <= sum < 2^53. A double holds sum + norm/2 exactly, and the quotient of two such
// integers is either an integer or at least 1/norm away from one, farther than the rounding of the division.
CXR_HD uint32_t divide_rounded(uint64_t sum, uint64_t norm) {
  return static_cast<uint32_t>(static_cast<double>(sum + norm / 2) / static_cast<double>(norm));
}

template <typename T>
CXR_HD T smaller(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
CXR_HD T larger(T a, T b) {
  return a < b ? b : a;
}

// Sorts two values in place.
template <typename T>
CXR_HD void order(T& low, T& high) {
  const T l = smaller(low, high);
  high = larger(low, high);
  low = l;
}

// Median of nine values: sort each column of three, then the median of (largest low, median middle, smallest high).
template <typename T>
CXR_HD T median3(T a, T b, T c) {
  return larger(smaller(a, b), smaller(larger(a, b), c));
}

template <typename T>
CXR_HD T median9(T a0, T a1, T a2, T b0, T b1, T b2, T c0, T c1, T c2) {
  order(a0, b0), order(b0, c0), order(a0, b0);
  order(a1, b1), order(b1, c1), order(a1, b1);
  order(a2, b2), order(b2, c2), order(a2, b2);
  const T low = larger(larger(a0, a1), a2);
  const T high = smaller(smaller(c0, c1), c2);
  return median3(low, median3(b0, b1, b2), high);
}

// Affine map of one channel from pixel value to tensor value.
struct Affine {
  float scale;
  float offset;
};

CXR_HD float apply(Affine affine, uint32_t value) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(__fmul_rn(static_cast<float>(value), affine.scale), affine.offset);
#else
  return static_cast<float>(value) * affine.scale + affine.offset;
#endif
}

constexpr double kStandardDeviationFloor = 0.001;  // on the 0..1 scale: a flat crop stays finite

// (v / max - mean) / std as scale and offset.
CXR_HD Affine fixed_affine(double mean, double std, uint32_t max_value) {
  return {static_cast<float>(1.0 / (max_value * std)), static_cast<float>(-mean / std)};
}

// Standardisation by the crop's own statistics, from the exact integer sums of its n values and their squares.
CXR_HD Affine image_affine(uint64_t sum, uint64_t sum_of_squares, uint64_t n, uint32_t max_value) {
  const double mean = static_cast<double>(sum) / static_cast<double>(n);
  const double variance = static_cast<double>(sum_of_squares) / static_cast<double>(n) - mean * mean;
  const double deviation = sqrt(larger(variance, 0.0)) / max_value;
  return fixed_affine(mean / max_value, larger(deviation, kStandardDeviationFloor), max_value);
}

// IEEE binary16 bits of a float, round to nearest even, as NumPy's astype(float16).
CXR_HD uint16_t half_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x33000001u) return static_cast<uint16_t>(sign);
  const int exponent = static_cast<int>(magnitude >> 23) - 112;
  const int shift = exponent > 0 ? 13 : 14 - exponent;
  const uint32_t mantissa = exponent > 0 ? magnitude - (112u << 23) : (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t half = 1u << (shift - 1);
  const uint32_t truncated = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1);
  const uint32_t up = rest > half || (rest == half && (truncated & 1u)) ? 1u : 0u;
  return static_cast<uint16_t>(sign | (truncated + up));
}

}  // namespace cxr

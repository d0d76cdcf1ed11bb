// Resize of one axis: the inputs of each output cell and their integer weights. Where the axis shrinks, a cell is the
// exact area average of the inputs it covers; where it grows, it interpolates linearly between pixel centres, clamped
// at the ends. The weights of a cell add up to the axis's norm, so nothing is rounded before the one division at the
// end. The CPU plans an axis once per image; on a GPU, where the box is known only on the device, a block computes the
// taps of its own cells with the same functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cxr/pixel_math.h"

namespace cxr {

// Inputs start .. start+count-1 with weights first, mid, ..., mid, last (count 1: first alone; count 2: first, last).
struct Taps {
  int start;
  int count;
  uint32_t first;
  uint32_t mid;
  uint32_t last;

  CXR_HD uint32_t weight(int input) const {
    if (input == start) return first;
    return input == start + count - 1 ? last : mid;
  }
};

// Longest axis whose vertical sums of 16-bit pixels fit 32 bits: 65535 * 65537 = 2^32 - 1.
constexpr int kMaxAxisLength = 65537;

// Cell i covers [i * in, (i + 1) * in) where input j covers [j * out, (j + 1) * out): overlaps are whole numbers.
CXR_HD Taps area_taps(int64_t in, int64_t out, int64_t i) {
  const int64_t begin = i * in;
  const int64_t end = begin + in;
  const int64_t start = begin / out;
  const int64_t stop = (end + out - 1) / out;
  Taps taps{};
  taps.start = static_cast<int>(start);
  taps.count = static_cast<int>(stop - start);
  taps.first = static_cast<uint32_t>((taps.count == 1 ? end : (start + 1) * out) - begin);
  taps.mid = static_cast<uint32_t>(out);
  taps.last = taps.count == 1 ? 0u : static_cast<uint32_t>(end - (stop - 1) * out);
  return taps;
}

// The centre of cell i is at ((2 i + 1) in - out) / (2 out) in input pixels, counted from the first pixel's centre.
CXR_HD Taps linear_taps(int64_t in, int64_t out, int64_t i) {
  const int64_t position = (2 * i + 1) * in - out;
  const int64_t norm = 2 * out;
  if (position <= 0) return {0, 1, static_cast<uint32_t>(norm), 0u, 0u};
  const int64_t start = position / norm;
  const int64_t rest = position % norm;
  if (start >= in - 1) return {static_cast<int>(in - 1), 1, static_cast<uint32_t>(norm), 0u, 0u};
  if (rest == 0) return {static_cast<int>(start), 1, static_cast<uint32_t>(norm), 0u, 0u};
  return {static_cast<int>(start), 2, static_cast<uint32_t>(norm - rest), 0u, static_cast<uint32_t>(rest)};
}

// Taps of cell i of an axis that goes from `in` to `out` cells, and the sum of their weights.
CXR_HD Taps axis_taps(int in, int out, int i) { return in >= out ? area_taps(in, out, i) : linear_taps(in, out, i); }
CXR_HD uint64_t axis_norm(int in, int out) {
  return in >= out ? static_cast<uint64_t>(in) : 2u * static_cast<uint64_t>(out);
}

struct AxisPlan {
  uint64_t norm = 1;
  std::vector<Taps> taps;
};

// Plans cells first .. first+count-1 of an axis that goes from `in` to `out` cells. Reuses the plan's memory.
void plan_axis(int in, int out, int first, int count, AxisPlan& plan);

}  // namespace cxr

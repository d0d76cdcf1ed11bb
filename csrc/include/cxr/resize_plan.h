// The resize of one axis, planned once on the host and handed to the CPU and the CUDA code alike.
// In: the length of the axis before and after; out: per output cell, which inputs count and with which integer weight.
// Where the axis shrinks, a cell is the exact area average of what it covers; where it grows, it interpolates linearly
// between pixel centres, clamped at the ends. All weights of a cell add up to `norm`, so nothing is ever rounded
// before the one division at the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cxr {

// Inputs start .. start+count-1 with weights first, mid, ..., mid, last (count 1: first alone; count 2: first, last).
struct Taps {
  int start;
  int count;
  uint32_t first;
  uint32_t mid;
  uint32_t last;
};

struct AxisPlan {
  uint64_t norm = 1;
  std::vector<Taps> taps;
};

// Longest axis whose vertical sums of 16-bit pixels fit 32 bits: 65535 * 65537 = 2^32 - 1.
constexpr int kMaxAxisLength = 65537;

// Plans cells first .. first+count-1 of an axis that goes from `in` to `out` cells. Reuses the plan's memory.
void plan_axis(int in, int out, int first, int count, AxisPlan& plan);

}  // namespace cxr

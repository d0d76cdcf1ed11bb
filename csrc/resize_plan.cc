#include "cxr/resize_plan.h"

namespace cxr {
namespace {

// Cell i covers [i * in, (i + 1) * in) where input j covers [j * out, (j + 1) * out): overlaps are whole numbers.
Taps area_taps(int64_t in, int64_t out, int64_t i) {
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

// The centre of cell i lies at ((2 i + 1) in - out) / (2 out) in input pixels, counted from the first pixel's centre.
Taps linear_taps(int64_t in, int64_t out, int64_t i) {
  const int64_t position = (2 * i + 1) * in - out;
  const int64_t norm = 2 * out;
  if (position <= 0) return {0, 1, static_cast<uint32_t>(norm), 0u, 0u};
  const int64_t start = position / norm;
  const int64_t rest = position % norm;
  if (start >= in - 1) return {static_cast<int>(in - 1), 1, static_cast<uint32_t>(norm), 0u, 0u};
  if (rest == 0) return {static_cast<int>(start), 1, static_cast<uint32_t>(norm), 0u, 0u};
  return {static_cast<int>(start), 2, static_cast<uint32_t>(norm - rest), 0u, static_cast<uint32_t>(rest)};
}

}  // namespace

void plan_axis(int in, int out, int first, int count, AxisPlan& plan) {
  const bool shrinks = in >= out;
  plan.norm = shrinks ? static_cast<uint64_t>(in) : 2u * static_cast<uint64_t>(out);
  plan.taps.resize(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    plan.taps[static_cast<size_t>(i)] = shrinks ? area_taps(in, out, first + i) : linear_taps(in, out, first + i);
  }
}

}  // namespace cxr

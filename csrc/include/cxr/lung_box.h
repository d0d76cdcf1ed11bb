// From a lung mask to the box of the image that the members see: R20's rule, project on rows and columns, first and
// last occupied, widened by a margin, clipped; and whether that can be a pair of lungs. In: mask probabilities over
// the whole frame; out: the box in image pixels, the verdict, the share of the mask that is lung. What follows the
// counting is arithmetic in this header, so that the device does the very same.
#pragma once

#include <cmath>
#include <cstdint>

#include "cxr/image.h"
#include "cxr/pixel_math.h"

namespace cxr {

struct LungRule {
  float threshold;  // a mask pixel at or above it is lung
  int min_pixels;   // lung pixels that make a row or column occupied
  double margin;    // share of the extent added on each side
  double min_area;  // of a believable box, as a share of the image
  double max_area;
  double min_aspect;  // its width over its height
  double max_aspect;
};

enum class LungVerdict : int32_t { kBelieved, kNoLung, kArea, kAspect };

struct LungBox {
  LungVerdict verdict;
  Box box;           // of the image; empty if there is no lung
  double lung_area;  // share of the mask's pixels that are lung
};

struct Interval {
  int first;
  int last;  // first > last: empty
};

// Widens first..last of `cells` mask cells by the margin and scales it to `length` pixels; half open.
CXR_HD Interval widen(Interval cells_range, int cells, int length, double margin) {
  const double scale = static_cast<double>(length) / cells;
  const double begin = cells_range.first * scale;
  const double end = (cells_range.last + 1) * scale;
  const double pad = margin * (end - begin);
  const int low = static_cast<int>(floor(begin - pad));
  const int high = static_cast<int>(ceil(end + pad));
  return {larger(low, 0), smaller(high, length)};
}

CXR_HD LungVerdict believe(const Box& box, int width, int height, const LungRule& rule) {
  const double pixels = static_cast<double>(box.width()) * box.height();
  const double area = pixels / (static_cast<double>(width) * height);
  if (!(rule.min_area <= area && area <= rule.max_area)) return LungVerdict::kArea;
  const double aspect = static_cast<double>(box.width()) / box.height();
  if (!(rule.min_aspect <= aspect && aspect <= rule.max_aspect)) return LungVerdict::kAspect;
  return LungVerdict::kBelieved;
}

// in_rows, in_columns: the occupied range of a mask of rows x columns, of which `lung` pixels are lung.
CXR_HD LungBox judge_lungs(Interval in_rows, Interval in_columns, int64_t lung, int rows, int columns,
                           const LungRule& rule, int width, int height) {
  const double lung_area = static_cast<double>(lung) / (static_cast<double>(rows) * columns);
  if (lung == 0 || in_rows.first > in_rows.last || in_columns.first > in_columns.last) {
    return {LungVerdict::kNoLung, {0, 0, 0, 0}, lung_area};
  }
  const Interval x = widen(in_columns, columns, width, rule.margin);
  const Interval y = widen(in_rows, rows, height, rule.margin);
  const Box box{x.first, y.first, x.last, y.last};
  return {believe(box, width, height, rule), box, lung_area};
}

// mask: rows x columns floats, contiguous, covering the image of width x height pixels.
// Throws std::invalid_argument for an empty mask or image.
LungBox find_lung_box(const float* mask, int rows, int columns, const LungRule& rule, int width, int height);

}  // namespace cxr

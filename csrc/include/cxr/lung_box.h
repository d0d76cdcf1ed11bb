// Lung box of a mask, by R20's rule: project the mask on rows and columns, take the first and last occupied one, widen
// by a margin and clip; then check that the box has a plausible area and aspect. In: mask probabilities over the full
// frame; out: the box in image pixels and its status. The arithmetic after the counting is in this header, so that CPU
// and GPU share it.
#pragma once

#include <cmath>
#include <cstdint>

#include "cxr/image.h"
#include "cxr/pixel_math.h"

namespace cxr {

struct LungRule {
  float threshold;  // a mask pixel at or above it is lung
  int min_pixels;   // lung pixels that make a row or column occupied, at least 1
  double margin;    // share of the extent added on each side
  double min_area;  // of a valid box, as a share of the image
  double max_area;
  double min_aspect;  // of a valid box, width over height
  double max_aspect;
};

enum class LungBoxStatus : int32_t { kValid, kNoLung, kBadArea, kBadAspect };

struct LungBox {
  LungBoxStatus status;
  Box box;  // in image pixels; empty if there is no lung
};

struct Interval {
  int first;
  int last;  // first > last: empty
};

// Scales the range of mask cells, of `cells`, to `length` pixels and widens it by the margin; the result is half open.
CXR_HD Interval widen(Interval range, int cells, int length, double margin) {
  const double scale = static_cast<double>(length) / cells;
  const double begin = range.first * scale;
  const double end = (range.last + 1) * scale;
  const double pad = margin * (end - begin);
  const int low = static_cast<int>(floor(begin - pad));
  const int high = static_cast<int>(ceil(end + pad));
  return {larger(low, 0), smaller(high, length)};
}

// Checks the area and aspect of a box in an image of width x height pixels.
CXR_HD LungBoxStatus check_box(const Box& box, int width, int height, const LungRule& rule) {
  const double pixels = static_cast<double>(box.width()) * box.height();
  const double area = pixels / (static_cast<double>(width) * height);
  if (!(rule.min_area <= area && area <= rule.max_area)) return LungBoxStatus::kBadArea;
  const double aspect = static_cast<double>(box.width()) / box.height();
  if (!(rule.min_aspect <= aspect && aspect <= rule.max_aspect)) return LungBoxStatus::kBadAspect;
  return LungBoxStatus::kValid;
}

// Box and status from the occupied ranges of a mask of rows x columns.
CXR_HD LungBox make_lung_box(Interval in_rows, Interval in_columns, int rows, int columns, const LungRule& rule,
                             int width, int height) {
  if (in_rows.first > in_rows.last || in_columns.first > in_columns.last) {
    return {LungBoxStatus::kNoLung, {0, 0, 0, 0}};
  }
  const Interval x = widen(in_columns, columns, width, rule.margin);
  const Interval y = widen(in_rows, rows, height, rule.margin);
  const Box box{x.first, y.first, x.last, y.last};
  return {check_box(box, width, height, rule), box};
}

// mask: rows x columns floats, contiguous, covering the image of width x height pixels.
// Throws std::invalid_argument for an empty mask or image, or a rule with min_pixels below 1.
LungBox find_lung_box(const float* mask, int rows, int columns, const LungRule& rule, int width, int height);

}  // namespace cxr

// From a lung mask to the box of the image that the members see: R20's rule, project on rows and columns, first and
// last occupied, widened by a margin, clipped. In: mask probabilities over the whole frame; out: the box in image
// pixels and the share of the mask that is lung. The arithmetic is a header so that the device can do it too.
#pragma once

#include <cmath>

#include "cxr/image.h"
#include "cxr/pixel_math.h"

namespace cxr {

struct LungRule {
  float threshold;  // a mask pixel at or above it is lung
  int min_pixels;   // lung pixels that make a row or column occupied
  double margin;    // share of the extent added on each side
};

struct LungBox {
  bool found;
  Box box;           // of the image, valid if found
  double lung_area;  // share of the mask's pixels that are lung
};

struct Interval {
  int first;
  int last;
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

// mask: rows x columns floats, contiguous, covering the image of width x height pixels.
// Throws std::invalid_argument for an empty mask or image.
LungBox find_lung_box(const float* mask, int rows, int columns, const LungRule& rule, int width, int height);

}  // namespace cxr

// Non-owning views of the input: gray pixels, and a box in them. No Python, no allocation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cxr/pixel_math.h"

namespace cxr {

// Gray pixels, row by row; rows may be strided, columns are adjacent. bytes_per_pixel is 1 (uint8) or 2 (uint16).
struct ImageView {
  const void* data;
  int width;
  int height;
  ptrdiff_t row_stride_bytes;
  int bytes_per_pixel;

  uint32_t max_value() const { return bytes_per_pixel == 1 ? 255u : 65535u; }
};

// Half open: columns x0..x1-1, rows y0..y1-1.
struct Box {
  int x0;
  int y0;
  int x1;
  int y1;

  CXR_HD int width() const { return x1 - x0; }
  CXR_HD int height() const { return y1 - y0; }
};

}  // namespace cxr

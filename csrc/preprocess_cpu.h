// CPU kernels of preprocess.cc: resize a band of rows, normalise one crop. The templates on the pixel type are in the
// .cc file; these functions dispatch on bytes_per_pixel. The caller has checked the arguments.
#pragma once

#include "cxr/image.h"
#include "cxr/preprocess.h"
#include "cxr/resize_plan.h"

namespace cxr {

// Rows first_row..last_row-1 of the resized window into `out` (plan widths wide). sums: scratch of box.width() uint32.
void resize_rows_cpu(const ImageView& image, const Box& box, const AxisPlan& rows, const AxisPlan& columns,
                     int first_row, int last_row, uint32_t* sums, void* out);

// crop: crop_px x crop_px pixels, contiguous. filtered: scratch of the same size, used for the median.
void normalize_cpu(const ImageView& crop, const Spec& spec, void* filtered, void* out);

}  // namespace cxr

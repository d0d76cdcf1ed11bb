#include "preprocess_cpu.h"

#include <algorithm>

#include "cxr/pixel_math.h"

// The loops below are plain C++ over adjacent memory; the compiler generates one version per vector width and the
// loader selects one. Other compilers and Arm use the baseline's vectors.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CXR_VECTOR_WIDTHS __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define CXR_VECTOR_WIDTHS
#endif

namespace cxr {
namespace {

constexpr int kTile = 512;  // columns whose sums stay in the L1 cache while the rows are read

template <typename T>
const T* row_of(const ImageView& image, int y) {
  return reinterpret_cast<const T*>(static_cast<const char*>(image.data) + y * image.row_stride_bytes);
}

CXR_VECTOR_WIDTHS void add_rows(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d, int n,
                                uint32_t* sums) {
  for (int x = 0; x < n; ++x) sums[x] += static_cast<uint32_t>(a[x] + b[x] + c[x] + d[x]);
}

CXR_VECTOR_WIDTHS void add_rows(const uint16_t* a, const uint16_t* b, const uint16_t* c, const uint16_t* d, int n,
                                uint32_t* sums) {
  for (int x = 0; x < n; ++x) sums[x] += static_cast<uint32_t>(a[x] + b[x] + c[x] + d[x]);
}

CXR_VECTOR_WIDTHS void add_row(const uint8_t* a, int n, uint32_t* sums) {
  for (int x = 0; x < n; ++x) sums[x] += a[x];
}

CXR_VECTOR_WIDTHS void add_row(const uint16_t* a, int n, uint32_t* sums) {
  for (int x = 0; x < n; ++x) sums[x] += a[x];
}

CXR_VECTOR_WIDTHS void weigh_ends(const uint8_t* first, const uint8_t* last, Taps taps, int n, uint32_t* sums) {
  for (int x = 0; x < n; ++x) sums[x] = sums[x] * taps.mid + first[x] * taps.first + last[x] * taps.last;
}

CXR_VECTOR_WIDTHS void weigh_ends(const uint16_t* first, const uint16_t* last, Taps taps, int n, uint32_t* sums) {
  for (int x = 0; x < n; ++x) sums[x] = sums[x] * taps.mid + first[x] * taps.first + last[x] * taps.last;
}

// Weighted sums of the rows of one output row, per column of the box.
template <typename T>
void sum_rows(const ImageView& image, const Box& box, const Taps& taps, uint32_t* sums) {
  const int top = box.y0 + taps.start;
  const int bottom = top + taps.count - 1;
  std::fill(sums, sums + box.width(), 0u);
  for (int x = 0; x < box.width(); x += kTile) {
    const int n = std::min(kTile, box.width() - x);
    auto row = [&](int y) { return row_of<T>(image, y) + box.x0 + x; };
    int y = top + 1;
    for (; y + 3 < bottom; y += 4) add_rows(row(y), row(y + 1), row(y + 2), row(y + 3), n, sums + x);
    for (; y < bottom; ++y) add_row(row(y), n, sums + x);
    weigh_ends(row(top), row(bottom), taps, n, sums + x);
  }
}

// One output row from the column sums.
template <typename T>
void sum_columns(const uint32_t* sums, const AxisPlan& columns, uint64_t norm, T* out) {
  for (size_t i = 0; i < columns.taps.size(); ++i) {
    const Taps& taps = columns.taps[i];
    const uint32_t* s = sums + taps.start;
    uint64_t middle = 0;
    for (int j = 1; j < taps.count - 1; ++j) middle += s[j];
    const uint64_t last = static_cast<uint64_t>(s[taps.count - 1]) * taps.last;
    const uint64_t sum = middle * taps.mid + static_cast<uint64_t>(s[0]) * taps.first + last;
    out[i] = static_cast<T>(divide_rounded(sum, norm));
  }
}

template <typename T>
void resize_rows(const ImageView& image, const Box& box, const AxisPlan& rows, const AxisPlan& columns, int first_row,
                 int last_row, uint32_t* sums, T* out) {
  const size_t width = columns.taps.size();
  for (int i = first_row; i < last_row; ++i) {
    sum_rows<T>(image, box, rows.taps[static_cast<size_t>(i)], sums);
    sum_columns<T>(sums, columns, rows.norm * columns.norm, out + static_cast<size_t>(i) * width);
  }
}

template <typename T>
T median_at(const T* above, const T* row, const T* below, int left, int x, int right) {
  return median9(above[left], above[x], above[right], row[left], row[x], row[right], below[left], below[x],
                 below[right]);
}

CXR_VECTOR_WIDTHS void median_inside(const uint8_t* above, const uint8_t* row, const uint8_t* below, int n,
                                     uint8_t* out) {
  for (int x = 1; x < n - 1; ++x) out[x] = median_at(above, row, below, x - 1, x, x + 1);
}

CXR_VECTOR_WIDTHS void median_inside(const uint16_t* above, const uint16_t* row, const uint16_t* below, int n,
                                     uint16_t* out) {
  for (int x = 1; x < n - 1; ++x) out[x] = median_at(above, row, below, x - 1, x, x + 1);
}

// 3x3 median of an n x n crop; the border is replicated.
template <typename T>
void median_filter(const T* in, int n, T* out) {
  for (int y = 0; y < n; ++y) {
    const T* row = in + static_cast<size_t>(y) * n;
    const T* above = y > 0 ? row - n : row;
    const T* below = y < n - 1 ? row + n : row;
    T* to = out + static_cast<size_t>(y) * n;
    to[0] = median_at(above, row, below, 0, 0, std::min(1, n - 1));
    median_inside(above, row, below, n, to);
    to[n - 1] = median_at(above, row, below, std::max(0, n - 2), n - 1, n - 1);
  }
}

template <typename T>
Affine statistics_affine(const T* values, size_t n, uint32_t max_value) {
  uint64_t sum = 0;
  uint64_t squares = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint64_t v = values[i];
    sum += v;
    squares += v * v;
  }
  return image_affine(sum, squares, n, max_value);
}

template <typename T>
Affine channel_affine(const T* values, size_t n, const Spec& spec, int channel, uint32_t max_value) {
  if (spec.standardize == Standardize::kImage) return statistics_affine(values, n, max_value);
  if (spec.standardize == Standardize::kNone) return fixed_affine(0.0, 1.0, max_value);
  const auto c = static_cast<size_t>(channel);
  return fixed_affine(spec.mean[c], spec.std[c], max_value);
}

CXR_VECTOR_WIDTHS void to_floats(const uint8_t* in, size_t n, Affine affine, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = apply(affine, in[i]);
}

CXR_VECTOR_WIDTHS void to_floats(const uint16_t* in, size_t n, Affine affine, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = apply(affine, in[i]);
}

template <typename T>
void write_channel(const T* in, size_t n, Affine affine, bool half, void* out, int channel) {
  if (half) {
    uint16_t* to = static_cast<uint16_t*>(out) + channel * n;
    for (size_t i = 0; i < n; ++i) to[i] = half_bits(apply(affine, in[i]));
  } else {
    to_floats(in, n, affine, static_cast<float*>(out) + channel * n);
  }
}

template <typename T>
void normalize(const ImageView& crop, const Spec& spec, T* filtered, void* out) {
  const T* values = static_cast<const T*>(crop.data);
  const size_t n = static_cast<size_t>(spec.crop_px) * spec.crop_px;
  if (spec.median) {
    median_filter(values, spec.crop_px, filtered);
    values = filtered;
  }
  for (int c = 0; c < spec.channels; ++c) {
    write_channel(values, n, channel_affine(values, n, spec, c, crop.max_value()), spec.half, out, c);
  }
}

}  // namespace

void resize_rows_cpu(const ImageView& image, const Box& box, const AxisPlan& rows, const AxisPlan& columns,
                     int first_row, int last_row, uint32_t* sums, void* out) {
  if (image.bytes_per_pixel == 1) {
    resize_rows<uint8_t>(image, box, rows, columns, first_row, last_row, sums, static_cast<uint8_t*>(out));
  } else {
    resize_rows<uint16_t>(image, box, rows, columns, first_row, last_row, sums, static_cast<uint16_t*>(out));
  }
}

void normalize_cpu(const ImageView& crop, const Spec& spec, void* filtered, void* out) {
  if (crop.bytes_per_pixel == 1) {
    normalize<uint8_t>(crop, spec, static_cast<uint8_t*>(filtered), out);
  } else {
    normalize<uint16_t>(crop, spec, static_cast<uint16_t*>(filtered), out);
  }
}

}  // namespace cxr

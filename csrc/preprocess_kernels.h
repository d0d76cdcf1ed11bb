// Preprocessing kernels: resize each distinct canvas, filter it, write each member's tensor. In: a PreprocessTask; out:
// the tensors of `Preprocessor`, bit for bit. The threads of a kernel read adjacent memory, and its grid depends on the
// canvases only, since the image size and the box are known only on the device.
#pragma once

#include <cstddef>

#include "cxr/device.h"
#include "cxr/pixel_math.h"
#include "cxr/resize_plan.h"
#include "thread_block.h"

namespace cxr {

CXR_HD uint32_t max_value(const FrameHeader& frame) { return frame.bytes_per_pixel == 1 ? 255u : 65535u; }

// The two sums of a window, of values and of their squares, unfiltered or filtered.
CXR_HD uint64_t* statistics(const PreprocessTask& task, int window, int median) {
  return at<uint64_t>(task.scratch) + 4 * window + 2 * median;
}

CXR_HD uint16_t* pixels(const PreprocessTask& task, int window, int median) {
  const Window& w = task.window[window];
  return at<uint16_t>(task.scratch + (median ? w.filtered : w.pixels));
}

// Reduces one value and its square per thread and adds them to the two sums that all blocks share.
template <int kThreads>
CXR_HD void add_statistics(const ThreadBlock& block, uint64_t (&values)[kThreads], uint64_t (&squares)[kThreads],
                           uint64_t* sums) {
  for (int half = kThreads / 2; half > 0; half /= 2) {
    block.for_each_thread([&](int t) {
      if (t >= half) return;
      values[t] += values[t + half];
      squares[t] += squares[t + half];
    });
  }
  block.for_each_thread([&](int t) {
    if (t == 0) add_shared(sums, values[0]);
    if (t == 1) add_shared(sums + 1, squares[0]);
  });
}

// Resize: kCells cells of one row of one window per block. The threads sum the columns of the box that the cells cover,
// kColumns each, kChunk at a time; then each cell adds up its columns.
struct ResizeKernel {
  static constexpr int kThreads = 128;
  static constexpr int kColumns = 4;  // per thread, read in one load
  static constexpr int kChunk = kThreads * kColumns;
  static constexpr int kCells = 32;
  struct Shared {
    Taps row;
    Taps cells[kCells];
    uint64_t sums[kCells];
    uint32_t columns[kChunk];
    uint64_t values[kCells];
    uint64_t squares[kCells];
  };

  PreprocessTask task;

  static Grid grid(const PreprocessTask& task) {
    int side = 0;
    for (int w = 0; w < task.windows; ++w) side = larger(side, task.window[w].crop_px);
    return {blocks_for(side, kCells), side, task.windows};
  }

  CXR_HD void operator()(const ThreadBlock& block, Shared& shared, Grid block_index) const {
    const Window& window = task.window[block_index.z];
    if (block_index.x * kCells >= window.crop_px || block_index.y >= window.crop_px) return;
    if (at<const FrameHeader>(task.frame)->bytes_per_pixel == 1) {
      resize<uint8_t>(block, shared, block_index, window);
    } else {
      resize<uint16_t>(block, shared, block_index, window);
    }
  }

 private:
  template <typename T>
  struct alignas(kColumns * sizeof(T)) Pack {
    T values[kColumns];
  };

  CXR_HD Box box_of(const Window& window, const FrameHeader& frame) const {
    if (window.lungs && task.lungs) return *at<const Box>(task.lungs);
    return {0, 0, frame.width, frame.height};
  }

  template <typename T>
  CXR_HD void resize(const ThreadBlock& block, Shared& shared, Grid block_index, const Window& window) const {
    const FrameHeader frame = *at<const FrameHeader>(task.frame);
    const Box box = box_of(window, frame);
    const int margin = (window.canvas_px - window.crop_px) / 2;
    const int first_cell = block_index.x * kCells;
    const int cells = smaller(kCells, window.crop_px - first_cell);
    block.for_each_thread([&](int t) {
      if (t == 0) shared.row = axis_taps(box.height(), window.canvas_px, margin + block_index.y);
      if (t >= kCells) return;
      shared.sums[t] = shared.values[t] = shared.squares[t] = 0;
      if (t < cells) shared.cells[t] = axis_taps(box.width(), window.canvas_px, margin + first_cell + t);
    });
    const int begin = box.x0 + shared.cells[0].start;
    const int end = box.x0 + shared.cells[cells - 1].start + shared.cells[cells - 1].count;
    for (int chunk = begin - begin % kColumns; chunk < end; chunk += kChunk) {
      block.for_each_thread([&](int t) {
        const int x = chunk + t * kColumns;
        if (x < end) sum_rows<T>(frame, box, shared.row, x, shared.columns + t * kColumns);
      });
      block.for_each_thread([&](int t) {
        if (t < cells) shared.sums[t] += gather(shared.cells[t], shared.columns, chunk - box.x0);
      });
    }
    const uint64_t norm = axis_norm(box.height(), window.canvas_px) * axis_norm(box.width(), window.canvas_px);
    uint16_t* out = pixels(task, block_index.z, 0) + static_cast<size_t>(block_index.y) * window.crop_px + first_cell;
    block.for_each_thread([&](int t) {
      if (t >= cells) return;
      const uint64_t value = divide_rounded(shared.sums[t], norm);
      out[t] = static_cast<uint16_t>(value);
      shared.values[t] = value;
      shared.squares[t] = value * value;
    });
    if (window.plain_statistics) {
      add_statistics<kCells>(block, shared.values, shared.squares, statistics(task, block_index.z, 0));
    }
  }

  // Weighted sums down kColumns columns from x on. Those outside the box are read but not used: the row is padded.
  template <typename T>
  CXR_HD void sum_rows(const FrameHeader& frame, const Box& box, const Taps& taps, int x, uint32_t* sums) const {
    const char* row = at<const char>(task.frame + kFrameHeaderBytes) + static_cast<size_t>(x) * sizeof(T) +
                      static_cast<size_t>(box.y0 + taps.start) * frame.row_bytes;
    const Pack<T> top = *reinterpret_cast<const Pack<T>*>(row);
    uint32_t middle[kColumns] = {};
    CXR_UNROLL
    for (int i = 1; i < taps.count - 1; ++i) {
      row += frame.row_bytes;
      const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(row);
      for (int c = 0; c < kColumns; ++c) middle[c] += pack.values[c];
    }
    row += taps.count > 1 ? frame.row_bytes : 0;
    const Pack<T> bottom = *reinterpret_cast<const Pack<T>*>(row);
    for (int c = 0; c < kColumns; ++c) {
      sums[c] = middle[c] * taps.mid + top.values[c] * taps.first + bottom.values[c] * taps.last;
    }
  }

  // The part of a cell's sum within this chunk. offset: the chunk's first column, relative to the left of the box.
  CXR_HD static uint64_t gather(const Taps& cell, const uint32_t* columns, int offset) {
    const int from = larger(cell.start, offset);
    const int to = smaller(cell.start + cell.count, offset + kChunk);
    uint64_t sum = 0;
    for (int j = from; j < to; ++j) sum += static_cast<uint64_t>(columns[j - offset]) * cell.weight(j);
    return sum;
  }
};

// 3x3 median with replicated border: kThreads pixels of one window per block.
struct MedianKernel {
  static constexpr int kThreads = 256;
  struct Shared {
    uint64_t values[kThreads];
    uint64_t squares[kThreads];
  };

  PreprocessTask task;

  static Grid grid(const PreprocessTask& task) {
    int64_t pixels = 0;  // of the largest window
    for (int w = 0; w < task.windows; ++w) {
      const int64_t side = task.window[w].median ? task.window[w].crop_px : 0;
      pixels = larger(pixels, side * side);
    }
    return {blocks_for(pixels, kThreads), 1, task.windows};
  }

  CXR_HD void operator()(const ThreadBlock& block, Shared& shared, Grid block_index) const {
    const Window& window = task.window[block_index.z];
    const int n = window.crop_px;
    const int64_t first = static_cast<int64_t>(block_index.x) * kThreads;
    if (!window.median || first >= static_cast<int64_t>(n) * n) return;
    const uint16_t* in = pixels(task, block_index.z, 0);
    uint16_t* out = pixels(task, block_index.z, 1);
    block.for_each_thread([&](int t) {
      const int64_t i = first + t;
      const bool inside = i < static_cast<int64_t>(n) * n;
      const uint64_t value = inside ? median_at(in, n, static_cast<int>(i / n), static_cast<int>(i % n)) : 0;
      if (inside) out[i] = static_cast<uint16_t>(value);
      shared.values[t] = value;
      shared.squares[t] = value * value;
    });
    if (window.median_statistics) {
      add_statistics<kThreads>(block, shared.values, shared.squares, statistics(task, block_index.z, 1));
    }
  }

 private:
  CXR_HD static uint16_t median_at(const uint16_t* in, int n, int y, int x) {
    const uint16_t* row = in + static_cast<size_t>(y) * n;
    const uint16_t* above = y > 0 ? row - n : row;
    const uint16_t* below = y < n - 1 ? row + n : row;
    const int left = larger(x - 1, 0);
    const int right = smaller(x + 1, n - 1);
    return median9(above[left], above[x], above[right], row[left], row[x], row[right], below[left], below[x],
                   below[right]);
  }
};

// Scaling and standardisation of one tensor, all its channels: kPixels pixels of the crop per block.
struct NormalizeKernel {
  static constexpr int kThreads = 256;
  static constexpr int kPixels = 4 * kThreads;
  struct Shared {
    Affine channels[3];
  };

  PreprocessTask task;

  static Grid grid(const PreprocessTask& task) {
    int64_t pixels = 0;  // of the largest window
    for (int i = 0; i < task.tensors; ++i) {
      const int64_t side = task.window[task.tensor[i].window].crop_px;
      pixels = larger(pixels, side * side);
    }
    return {blocks_for(pixels, kPixels), 1, task.tensors};
  }

  CXR_HD void operator()(const ThreadBlock& block, Shared& shared, Grid block_index) const {
    const Tensor& tensor = task.tensor[block_index.z];
    const int side = task.window[tensor.window].crop_px;
    const int64_t n = static_cast<int64_t>(side) * side;
    const int64_t first = static_cast<int64_t>(block_index.x) * kPixels;
    if (first >= n) return;
    block.for_each_thread([&](int t) {
      if (t < tensor.channels) shared.channels[t] = affine_of(tensor, t, n);
    });
    const uint16_t* in = pixels(task, tensor.window, tensor.median);
    block.for_each_thread([&](int t) {
      for (int64_t i = first + t; i < smaller(first + kPixels, n); i += kThreads) {
        for (int c = 0; c < tensor.channels; ++c) write(tensor, c * n + i, apply(shared.channels[c], in[i]));
      }
    });
  }

 private:
  CXR_HD Affine affine_of(const Tensor& tensor, int channel, int64_t n) const {
    const uint32_t top = max_value(*at<const FrameHeader>(task.frame));
    if (tensor.standardize == Standardize::kFixed) return fixed_affine(tensor.mean[channel], tensor.std[channel], top);
    if (tensor.standardize == Standardize::kNone) return fixed_affine(0.0, 1.0, top);
    const uint64_t* sums = statistics(task, tensor.window, tensor.median);
    return image_affine(sums[0], sums[1], static_cast<uint64_t>(n), top);
  }

  CXR_HD static void write(const Tensor& tensor, int64_t index, float value) {
    if (tensor.half) {
      at<uint16_t>(tensor.out)[index] = half_bits(value);
    } else {
      at<float>(tensor.out)[index] = value;
    }
  }
};

// Launches the kernels of a task in order.
template <typename Executor>
void launch_all(const PreprocessTask& task, Executor& executor) {
  executor.zero(task.scratch, sizeof(uint64_t) * 4 * static_cast<size_t>(task.windows));
  executor.launch(ResizeKernel{task}, ResizeKernel::grid(task));
  if (MedianKernel::grid(task).x > 0) executor.launch(MedianKernel{task}, MedianKernel::grid(task));
  executor.launch(NormalizeKernel{task}, NormalizeKernel::grid(task));
}

}  // namespace cxr

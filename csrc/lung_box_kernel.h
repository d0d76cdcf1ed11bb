// Lung box kernel: one block reads a mask and writes a LungRecord, so that the box stays on the device. In: a LungTask;
// out: the result of `find_lung_box` and the crop for the classifiers.
#pragma once

#include "cxr/device.h"
#include "cxr/lung_box.h"
#include "thread_block.h"

namespace cxr {

// Packs the mask into bits, 32 pixels of a row per word; then counts the bits per row and per column.
struct LungBoxKernel {
  static constexpr int kThreads = 1024;
  static constexpr int kBits = 32;
  struct Shared {
    Interval rows;
    Interval columns;
  };

  LungTask task;

  static Grid grid(const LungTask&) { return {1, 1, 1}; }

  CXR_HD void operator()(const ThreadBlock& block, Shared& shared, Grid) const {
    const int words_per_row = (task.columns + kBits - 1) / kBits;
    uint32_t* bits = at<uint32_t>(task.scratch);
    block.for_each_thread([&](int t) {
      if (t == 0) shared = {{task.rows, -1}, {task.columns, -1}};
      for (int64_t w = t; w < static_cast<int64_t>(task.rows) * words_per_row; w += kThreads) {
        bits[w] = word(static_cast<int>(w / words_per_row), static_cast<int>(w % words_per_row));
      }
    });
    block.for_each_thread([&](int t) {
      for (int y = t; y < task.rows; y += kThreads) count_row(bits + static_cast<size_t>(y) * words_per_row, y, shared);
      for (int x = t; x < task.columns; x += kThreads) count_column(bits, words_per_row, x, shared);
    });
    block.for_each_thread([&](int t) {
      if (t == 0) *at<LungRecord>(task.record) = record(shared);
    });
  }

 private:
  CXR_HD uint32_t word(int y, int w) const {
    const float* row = at<const float>(task.mask) + static_cast<size_t>(y) * task.columns;
    const int last = smaller(task.columns, (w + 1) * kBits);
    uint32_t bits = 0;
    for (int x = w * kBits; x < last; ++x) bits |= (row[x] >= task.rule.threshold ? 1u : 0u) << (x % kBits);
    return bits;
  }

  CXR_HD void count_row(const uint32_t* row, int y, Shared& shared) const {
    int count = 0;
    for (int w = 0; w < (task.columns + kBits - 1) / kBits; ++w) count += count_bits(row[w]);
    extend(shared.rows, y, count);
  }

  CXR_HD void count_column(const uint32_t* bits, int words_per_row, int x, Shared& shared) const {
    int count = 0;
    for (int y = 0; y < task.rows; ++y) {
      count += static_cast<int>(bits[static_cast<size_t>(y) * words_per_row + x / kBits] >> (x % kBits) & 1u);
    }
    extend(shared.columns, x, count);
  }

  // Extends the occupied range to a row or column if it has enough lung pixels.
  CXR_HD void extend(Interval& range, int index, int lung_pixels) const {
    if (lung_pixels < task.rule.min_pixels) return;
    lower_shared(&range.first, index);
    raise_shared(&range.last, index);
  }

  CXR_HD LungRecord record(const Shared& shared) const {
    const FrameHeader frame = *at<const FrameHeader>(task.frame);
    const LungBox detected =
        make_lung_box(shared.rows, shared.columns, task.rows, task.columns, task.rule, frame.width, frame.height);
    const bool valid = detected.status == LungBoxStatus::kValid;
    return {valid ? detected.box : Box{0, 0, frame.width, frame.height}, detected.box, detected.status};
  }
};

template <typename Executor>
void launch_all(const LungTask& task, Executor& executor) {
  executor.launch(LungBoxKernel{task}, LungBoxKernel::grid(task));
}

}  // namespace cxr

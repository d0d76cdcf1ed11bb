// The lung box kernel: one block reads a mask and leaves a LungRecord, so that the box never leaves the device. In: a
// LungTask; out: what `find_lung_box` gives, and the box that the members see.
#pragma once

#include "cxr/device.h"
#include "cxr/lung_box.h"
#include "preprocess_kernels.h"
#include "thread_block.h"

namespace cxr {

// The mask becomes bits, 32 pixels of a row a word; rows then count their words' bits, columns their bit of each row.
struct LungBoxBlock {
  static constexpr int kThreads = 1024;
  static constexpr int kBits = 32;
  struct Shared {
    Interval rows;
    Interval columns;
    uint64_t lung;
  };

  LungTask task;

  static Grid grid(const LungTask&) { return {1, 1, 1}; }

  CXR_HD void operator()(const Team& team, Shared& shared, Grid) const {
    const int words_a_row = (task.columns + kBits - 1) / kBits;
    uint32_t* bits = at<uint32_t>(task.scratch);
    team.each([&](int t) {
      if (t == 0) shared = {{task.rows, -1}, {task.columns, -1}, 0};
      for (int64_t w = t; w < static_cast<int64_t>(task.rows) * words_a_row; w += kThreads) {
        bits[w] = word(static_cast<int>(w / words_a_row), static_cast<int>(w % words_a_row));
      }
    });
    team.each([&](int t) {
      for (int y = t; y < task.rows; y += kThreads) count_row(bits + static_cast<size_t>(y) * words_a_row, y, shared);
      for (int x = t; x < task.columns; x += kThreads) count_column(bits, words_a_row, x, shared);
    });
    team.each([&](int t) {
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
    if (count > 0) add_shared(&shared.lung, static_cast<uint64_t>(count));
    occupy(count, y, shared.rows);
  }

  CXR_HD void count_column(const uint32_t* bits, int words_a_row, int x, Shared& shared) const {
    int count = 0;
    for (int y = 0; y < task.rows; ++y) {
      count += static_cast<int>(bits[static_cast<size_t>(y) * words_a_row + x / kBits] >> (x % kBits) & 1u);
    }
    occupy(count, x, shared.columns);
  }

  CXR_HD void occupy(int count, int at_index, Interval& range) const {
    if (count < task.rule.min_pixels) return;
    lower_shared(&range.first, at_index);
    raise_shared(&range.last, at_index);
  }

  CXR_HD LungRecord record(const Shared& shared) const {
    const FrameHeader frame = *at<const FrameHeader>(task.frame);
    const LungBox found = judge_lungs(shared.rows, shared.columns, static_cast<int64_t>(shared.lung), task.rows,
                                      task.columns, task.rule, frame.width, frame.height);
    const bool believed = found.verdict == LungVerdict::kBelieved;
    return {believed ? found.box : Box{0, 0, frame.width, frame.height}, found.box, found.verdict};
  }
};

template <typename Executor>
void launch_all(const LungTask& task, Executor& executor) {
  executor.launch(LungBoxBlock{task}, LungBoxBlock::grid(task));
}

}  // namespace cxr

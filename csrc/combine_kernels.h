// Combination of one image's logits by one thread block, and the kernel that does it. In: logits and a CombineView;
// out: probabilities and the winning label. The CPU runs the same steps with a block of one thread (`Combiner::run`).
// Each sum runs in one thread, in member order; the threads divide the sums among them.
#pragma once

#include "cxr/combine_math.h"
#include "cxr/device.h"
#include "thread_block.h"

namespace cxr {

// Runs work(i) for i in 0..n-1, divided among the block's threads.
template <typename Work>
CXR_HD void for_each_index(const ThreadBlock& block, int n, const Work& work) {
  block.for_each_thread([&](int t) {
    for (int i = t; i < n; i += block.threads) work(i);
  });
}

CXR_HD void combine_by_stacking(const ThreadBlock& block, const CombineView& c, const double* scores, double* hidden,
                                double* result) {
  for_each_index(block, c.hidden, [&](int h) { hidden[h] = stacking_hidden(c, scores, h); });
  for_each_index(block, c.labels, [&](int k) { result[k] = stacking_output(c, hidden, k); });
}

// products: (members, scores); the first of each row then holds the member's weight.
CXR_HD void combine_by_module(const ThreadBlock& block, const CombineView& c, const double* scores, double* products,
                              double* result) {
  const int n = c.scores();
  for_each_index(block, c.members * n, [&](int i) { products[i] = module_product(c, scores, i / n, i % n); });
  for_each_index(block, c.members, [&](int m) { products[m * n] = module_weight(c, scores, products + m * n, m); });
  for_each_index(block, c.labels, [&](int k) {
    double sum = 0.0;
    for (int m = 0; m < c.members; ++m) sum += products[m * n] * module_evidence(c, scores[m * c.labels + k]);
    result[k] = sum;
  });
}

// Member m's logits are at logits + m * member_stride. scratch: c.scratch_size() doubles. Writes the winning label and
// returns the probabilities (labels), which are in the scratch memory.
CXR_HD const double* combine_image(const ThreadBlock& block, const CombineView& c, const float* logits,
                                   int member_stride, double* scratch, int32_t* winner) {
  double* scores = scratch;
  double* intermediates = scores + c.scores();
  double* result = intermediates + c.intermediates();
  for_each_index(block, c.members, [&](int m) {
    member_probabilities(c, logits + static_cast<size_t>(m) * member_stride, m, scores + m * c.labels);
  });
  switch (c.strategy) {
    case Strategy::kVoting:
      for_each_index(block, 1, [&](int) { *winner = vote(c, scores, result); });
      return result;
    case Strategy::kAverage:
    case Strategy::kWeightedAverage:
      for_each_index(block, c.labels, [&](int k) { result[k] = average(c, scores, k); });
      break;
    case Strategy::kStacking:
      combine_by_stacking(block, c, scores, intermediates, result);
      break;
    case Strategy::kFlannel:
      combine_by_module(block, c, scores, intermediates, result);
      break;
  }
  for_each_index(block, 1, [&](int) { *winner = apply_temperature(c, result); });
  return result;
}

// One block, one image.
struct CombineKernel {
  static constexpr int kThreads = 128;
  struct Shared {};

  CombineTask task;

  static Grid grid(const CombineTask&) { return {1, 1, 1}; }

  CXR_HD void operator()(const ThreadBlock& block, Shared&, Grid) const {
    const CombineView& c = task.view;
    const double* result = combine_image(block, c, at<const float>(task.logits), task.member_stride,
                                         at<double>(task.scratch), at<int32_t>(task.winner));
    float* probabilities = at<float>(task.probabilities);
    for_each_index(block, c.labels, [&](int k) { probabilities[k] = static_cast<float>(result[k]); });
  }
};

template <typename Executor>
void launch_all(const CombineTask& task, Executor& executor) {
  executor.launch(CombineKernel{task}, CombineKernel::grid(task));
}

}  // namespace cxr

// The combination kernel: one block, one image. In: a CombineTask; out: what `Combiner` gives. Every sum runs in one
// thread in the CPU's order; threads share out the sums.
#pragma once

#include "cxr/combine_math.h"
#include "cxr/device.h"
#include "preprocess_kernels.h"
#include "thread_block.h"

namespace cxr {

struct CombineBlock {
  static constexpr int kThreads = 128;
  struct Shared {
    int winner;
  };

  CombineTask task;

  static Grid grid(const CombineTask&) { return {1, 1, 1}; }

  CXR_HD void operator()(const Team& team, Shared& shared, Grid) const {
    const CombineView& c = task.view;
    double* scores = at<double>(task.scratch);
    double* more = scores + c.scores();
    double* result = scores + c.working();
    team.each([&](int t) {
      for (int m = t; m < c.members; m += kThreads) {
        const float* logits = at<const float>(task.logits) + static_cast<size_t>(m) * task.member_stride;
        member_probabilities(c, logits, m, scores + m * c.labels);
      }
    });
    if (c.strategy == Strategy::kStacking) stack(team, scores, more, result);
    if (c.strategy == Strategy::kFlannel) weigh_by_module(team, scores, more, result);
    if (c.averages()) {
      team.each([&](int t) {
        for (int k = t; k < c.labels; k += kThreads) result[k] = average(c, scores, k);
      });
    }
    team.each([&](int t) {
      if (t == 0) shared.winner = c.strategy == Strategy::kVoting ? vote(c, scores, result) : temper(c, result);
    });
    team.each([&](int t) {
      if (t == 0) *at<int32_t>(task.winner) = shared.winner;
      for (int k = t; k < c.labels; k += kThreads) {
        at<float>(task.probabilities)[k] = static_cast<float>(result[k]);
      }
    });
  }

 private:
  CXR_HD void stack(const Team& team, const double* scores, double* hidden, double* result) const {
    const CombineView& c = task.view;
    team.each([&](int t) {
      for (int h = t; h < c.hidden; h += kThreads) {
        hidden[h] = larger(dense(c.hidden_weight, c.hidden_bias, scores, c.scores(), h), 0.0);
      }
    });
    team.each([&](int t) {
      for (int k = t; k < c.labels; k += kThreads) {
        result[k] = dense(c.output_weight, c.output_bias, hidden, c.hidden, k);
      }
    });
  }

  // products: (members, scores); its first column then holds the members' weights.
  CXR_HD void weigh_by_module(const Team& team, const double* scores, double* products, double* result) const {
    const CombineView& c = task.view;
    const int n = c.scores();
    team.each([&](int t) {
      for (int i = t; i < c.members * n; i += kThreads) products[i] = module_product(c, scores, i / n, i % n);
    });
    team.each([&](int t) {
      for (int m = t; m < c.members; m += kThreads) {
        products[m * n] = module_weight(c, scores, products + m * n, m);
      }
    });
    team.each([&](int t) {
      for (int k = t; k < c.labels; k += kThreads) {
        double sum = 0.0;
        for (int m = 0; m < c.members; ++m) sum += products[m * n] * scores[m * c.labels + k];
        result[k] = sum;
      }
    });
  }
};

template <typename Executor>
void launch_all(const CombineTask& task, Executor& executor) {
  executor.launch(CombineBlock{task}, CombineBlock::grid(task));
}

}  // namespace cxr

#include "combine_cpu.h"

namespace cxr {
namespace {

// dense, relu, dense: the result holds logits
void stack(const CombineView& c, const double* scores, double* hidden, double* result) {
  for (int h = 0; h < c.hidden; ++h) {
    hidden[h] = larger(dense(c.hidden_weight, c.hidden_bias, scores, c.scores(), h), 0.0);
  }
  for (int k = 0; k < c.labels; ++k) result[k] = dense(c.output_weight, c.output_bias, hidden, c.hidden, k);
}

// FLANNEL: the result holds logits
void weigh_by_module(const CombineView& c, const double* scores, double* products, double* result) {
  for (int k = 0; k < c.labels; ++k) result[k] = 0.0;
  for (int m = 0; m < c.members; ++m) {
    for (int i = 0; i < c.scores(); ++i) products[i] = module_product(c, scores, m, i);
    const double factor = module_weight(c, scores, products, m);
    for (int k = 0; k < c.labels; ++k) result[k] += factor * scores[m * c.labels + k];
  }
}

}  // namespace

int combine_cpu(const CombineView& c, const float* logits, CombineScratch& scratch) {
  double* scores = scratch.working.data();
  double* more = scores + c.scores();
  double* result = scratch.result.data();
  for (int m = 0; m < c.members; ++m) member_probabilities(c, logits + m * c.labels, m, scores + m * c.labels);
  switch (c.strategy) {
    case Strategy::kVoting:
      return vote(c, scores, result);
    case Strategy::kAverage:
    case Strategy::kWeightedAverage:
      for (int k = 0; k < c.labels; ++k) result[k] = average(c, scores, k);
      break;
    case Strategy::kStacking:
      stack(c, scores, more, result);
      break;
    case Strategy::kFlannel:
      weigh_by_module(c, scores, more, result);
      break;
  }
  return temper(c, result);
}

}  // namespace cxr

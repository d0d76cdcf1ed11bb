// The strategies' arithmetic, one small function a step, for the CPU's loops and the GPU's threads alike. In: the
// parameters as plain pointers and the members' logits; out: the ensemble's probabilities. All in double, and every
// sum in a fixed order, so that CPU and GPU differ by no more than their exp, log and tanh.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cxr/pixel_math.h"

namespace cxr {

enum class Strategy : int32_t { kVoting, kAverage, kWeightedAverage, kStacking, kFlannel };

// A combination's parameters where they lie, in host or device memory; see `Combination` for the shapes.
struct CombineView {
  Strategy strategy;
  int members;
  int labels;
  int hidden;
  double temperature;
  const double* member_temperatures;
  const double* weights;
  const double* hidden_weight;
  const double* hidden_bias;
  const double* output_weight;
  const double* output_bias;
  const double* module_weight;
  const double* module_bias;

  CXR_HD int scores() const { return members * labels; }
  CXR_HD bool averages() const { return strategy == Strategy::kAverage || strategy == Strategy::kWeightedAverage; }
  // Doubles that one image's combination needs besides: scores, FLANNEL's inner products, hidden cells, result.
  CXR_HD int working() const { return scores() + (strategy == Strategy::kFlannel ? members * scores() : hidden); }
};

CXR_HD int top_of(const double* values, int n) {
  int top = 0;
  for (int i = 1; i < n; ++i) top = values[i] > values[top] ? i : top;
  return top;
}

CXR_HD void softmax(double* values, int n) {
  const double top = values[top_of(values, n)];
  double sum = 0.0;
  for (int i = 0; i < n; ++i) sum += values[i] = exp(values[i] - top);
  for (int i = 0; i < n; ++i) values[i] /= sum;
}

// One member's logits (labels) to its probabilities.
CXR_HD void member_probabilities(const CombineView& c, const float* logits, int m, double* probabilities) {
  for (int k = 0; k < c.labels; ++k) probabilities[k] = logits[k] / c.member_temperatures[m];
  softmax(probabilities, c.labels);
}

// Sum of the members' probabilities of a label, each times its factor (nullptr: all 1).
CXR_HD double weighted_sum(const CombineView& c, const double* scores, const double* factors, int label) {
  double sum = 0.0;
  for (int m = 0; m < c.members; ++m) sum += (factors ? factors[m] : 1.0) * scores[m * c.labels + label];
  return sum;
}

// Shares of votes into the result; the winner by votes, then by mean probability, then by order.
CXR_HD int vote(const CombineView& c, const double* scores, double* shares) {
  for (int k = 0; k < c.labels; ++k) shares[k] = 0.0;
  for (int m = 0; m < c.members; ++m) shares[top_of(scores + m * c.labels, c.labels)] += 1.0;
  int winner = top_of(shares, c.labels);
  for (int k = winner + 1; k < c.labels; ++k) {
    const bool tied = shares[k] == shares[winner];
    if (tied && weighted_sum(c, scores, nullptr, k) > weighted_sum(c, scores, nullptr, winner)) winner = k;
  }
  for (int k = 0; k < c.labels; ++k) shares[k] /= c.members;
  return winner;
}

CXR_HD double average(const CombineView& c, const double* scores, int label) {
  if (c.strategy == Strategy::kWeightedAverage) return weighted_sum(c, scores, c.weights, label);
  double sum = 0.0;
  for (int m = 0; m < c.members; ++m) sum += 1.0 / c.members * scores[m * c.labels + label];
  return sum;
}

CXR_HD double dot(const double* a, const double* b, int n) {
  double sum = 0.0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// One output of a dense layer with weights (outputs, inputs) row by row.
CXR_HD double dense(const double* weight, const double* bias, const double* in, int inputs, int output) {
  double sum = bias[output];
  for (int i = 0; i < inputs; ++i) sum += weight[static_cast<size_t>(output) * inputs + i] * in[i];
  return sum;
}

// FLANNEL's neural weight module: member m's weight is tanh(bias + s' W s), of which this is row i of W times s.
CXR_HD double module_product(const CombineView& c, const double* scores, int m, int i) {
  const int n = c.scores();
  return dot(c.module_weight + (static_cast<size_t>(m) * n + i) * n, scores, n);
}

CXR_HD double module_weight(const CombineView& c, const double* scores, const double* products, int m) {
  const int n = c.scores();
  double sum = c.module_bias[m];
  for (int i = 0; i < n; ++i) sum += scores[i] * products[i];
  return tanh(sum);
}

// From the strategy's result (labels), probabilities of the averages and logits of the others, to probabilities.
CXR_HD int temper(const CombineView& c, double* result) {
  // The log of a softmax differs from its argument by a constant, which the next softmax drops.
  for (int k = 0; k < c.labels; ++k) result[k] = (c.averages() ? log(result[k]) : result[k]) / c.temperature;
  softmax(result, c.labels);
  return top_of(result, c.labels);
}

}  // namespace cxr

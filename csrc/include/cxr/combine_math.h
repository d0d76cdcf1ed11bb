// The combination strategies: their names, the shapes of their parameters, and their arithmetic as small functions that
// the CPU and the GPU share. In: the parameters by address and the members' logits; out: the ensemble's probabilities.
// All in double, and every sum in a fixed order, so that CPU and GPU differ by no more than their exp, log and tanh.
// To add a strategy: a value of Strategy, its row in kStrategies, its formula here and its steps in combine_kernels.h.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cxr/pixel_math.h"

namespace cxr {

enum class Strategy : int32_t { kVoting, kAverage, kWeightedAverage, kStacking, kFlannel };

// Softmax: the labels exclude each other. Sigmoid: each is a finding that is present or absent.
enum class Activation : int32_t { kSoftmax, kSigmoid };

inline constexpr const char* kActivations[] = {"softmax", "sigmoid"};  // names, by the value of Activation

// Length of one axis of a parameter array. kScores: members * labels. kScorePairs: its square. kHidden: the length
// of the array whose only axis it is.
enum class Axis : int32_t { kNone, kMembers, kLabels, kScores, kScorePairs, kHidden };

struct Parameter {
  const char* name;
  Axis axes[2];  // kNone as the second: one axis
};

constexpr int kMaxParameters = 4;  // of a strategy

struct StrategyRow {
  const char* name;
  Parameter parameters[kMaxParameters];  // a nullptr name: none
};

// The one table of strategies, by the value of Strategy; Python reads it through the binding. A dense layer's weight is
// (outputs, inputs).
inline constexpr StrategyRow kStrategies[] = {
    {"voting", {}},
    {"average", {}},
    {"weighted-average", {{"weights", {Axis::kMembers}}}},
    {"stacking",
     {{"hidden_weight", {Axis::kHidden, Axis::kScores}},
      {"hidden_bias", {Axis::kHidden}},
      {"output_weight", {Axis::kLabels, Axis::kHidden}},
      {"output_bias", {Axis::kLabels}}}},
    {"flannel", {{"module_weight", {Axis::kMembers, Axis::kScorePairs}}, {"module_bias", {Axis::kMembers}}}},
};

// A combination with its parameters by address, in host or device memory.
struct CombineView {
  Strategy strategy;
  Activation activation;
  int members;
  int labels;
  int hidden;  // length of Axis::kHidden; 0 if the strategy has none
  double temperature;
  const double* member_temperatures;
  const double* label_temperatures;          // with sigmoid; multiplied by `temperature`
  const double* parameters[kMaxParameters];  // in the order of the strategy's row

  CXR_HD int scores() const { return members * labels; }
  CXR_HD bool sigmoid() const { return activation == Activation::kSigmoid; }
  CXR_HD bool averages() const { return strategy == Strategy::kAverage || strategy == Strategy::kWeightedAverage; }
  // Doubles between the scores and the result: FLANNEL's inner products (members, scores) or the hidden cells.
  CXR_HD int intermediates() const { return strategy == Strategy::kFlannel ? members * scores() : hidden; }
  // Scratch doubles per image: scores (members, labels), intermediates, result (labels).
  CXR_HD int scratch_size() const { return scores() + intermediates() + labels; }
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

CXR_HD double sigmoid(double value) { return 1.0 / (1.0 + exp(-value)); }

constexpr double kLeastShare = 1e-12;  // keeps the logit of a probability of 0 or 1 finite

CXR_HD double logit(double probability) {
  const double share = smaller(larger(probability, kLeastShare), 1.0 - kLeastShare);
  return log(share / (1.0 - share));
}

// Softmax, or the sigmoid of each, of one member's logits (labels) divided by its temperature.
CXR_HD void member_probabilities(const CombineView& c, const float* logits, int m, double* probabilities) {
  for (int k = 0; k < c.labels; ++k) probabilities[k] = logits[k] / c.member_temperatures[m];
  if (!c.sigmoid()) return softmax(probabilities, c.labels);
  for (int k = 0; k < c.labels; ++k) probabilities[k] = sigmoid(probabilities[k]);
}

// Sum of the members' probabilities of a label, each times its factor (nullptr: all 1).
CXR_HD double weighted_sum(const CombineView& c, const double* scores, const double* factors, int label) {
  double sum = 0.0;
  for (int m = 0; m < c.members; ++m) sum += (factors ? factors[m] : 1.0) * scores[m * c.labels + label];
  return sum;
}

// Writes the share of the members that call each finding present; returns the highest, the first of equal ones.
CXR_HD int vote_by_finding(const CombineView& c, const double* scores, double* shares) {
  for (int k = 0; k < c.labels; ++k) {
    int votes = 0;
    for (int m = 0; m < c.members; ++m) votes += scores[m * c.labels + k] >= 0.5 ? 1 : 0;
    shares[k] = static_cast<double>(votes) / c.members;
  }
  return top_of(shares, c.labels);
}

// Writes the shares of votes; returns the winner by votes, then by mean probability, then by order.
CXR_HD int vote(const CombineView& c, const double* scores, double* shares) {
  if (c.sigmoid()) return vote_by_finding(c, scores, shares);
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
  if (c.strategy == Strategy::kWeightedAverage) return weighted_sum(c, scores, c.parameters[0], label);
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

// Stacking: dense, relu, dense; the result is logits.
CXR_HD double stacking_hidden(const CombineView& c, const double* scores, int cell) {
  return larger(dense(c.parameters[0], c.parameters[1], scores, c.scores(), cell), 0.0);
}

CXR_HD double stacking_output(const CombineView& c, const double* hidden, int label) {
  return dense(c.parameters[2], c.parameters[3], hidden, c.hidden, label);
}

// FLANNEL's neural weight module: member m's weight is tanh(bias + s' W s); this is row i of W times s.
CXR_HD double module_product(const CombineView& c, const double* scores, int m, int i) {
  const int n = c.scores();
  return dot(c.parameters[0] + (static_cast<size_t>(m) * n + i) * n, scores, n);
}

// Weight of member m, from its products (scores).
CXR_HD double module_weight(const CombineView& c, const double* scores, const double* products, int m) {
  const int n = c.scores();
  double sum = c.parameters[1][m];
  for (int i = 0; i < n; ++i) sum += scores[i] * products[i];
  return tanh(sum);
}

// What a member's weight multiplies. A finding is a two-class problem: the softmax over (1 - P, P) of the weighted sum
// is the sigmoid of the weighted sum of 2 P - 1.
CXR_HD double module_evidence(const CombineView& c, double score) { return c.sigmoid() ? 2.0 * score - 1.0 : score; }

CXR_HD void apply_label_temperatures(const CombineView& c, double* result) {
  for (int k = 0; k < c.labels; ++k) {
    const double value = c.averages() ? logit(result[k]) : result[k];
    result[k] = sigmoid(value / (c.temperature * c.label_temperatures[k]));
  }
}

// Applies the temperature and the activation to the result (labels): probabilities of the averages, logits of the
// others. Returns the winning label.
CXR_HD int apply_temperature(const CombineView& c, double* result) {
  if (c.sigmoid()) {
    apply_label_temperatures(c, result);
    return top_of(result, c.labels);
  }
  // The log of a softmax differs from its argument by a constant, which the next softmax drops.
  for (int k = 0; k < c.labels; ++k) result[k] = (c.averages() ? log(result[k]) : result[k]) / c.temperature;
  softmax(result, c.labels);
  return top_of(result, c.labels);
}

}  // namespace cxr

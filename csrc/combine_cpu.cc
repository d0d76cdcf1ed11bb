#include "combine_cpu.h"

#include <algorithm>
#include <cmath>

namespace cxr {
namespace {

void softmax(double* values, int n) {
  const double top = *std::max_element(values, values + n);
  double sum = 0.0;
  for (int i = 0; i < n; ++i) sum += values[i] = std::exp(values[i] - top);
  for (int i = 0; i < n; ++i) values[i] /= sum;
}

void member_probabilities(const Combination& c, const float* logits, double* scores) {
  for (int m = 0; m < c.members; ++m) {
    double* row = scores + static_cast<size_t>(m) * c.labels;
    const float* from = logits + static_cast<size_t>(m) * c.labels;
    const double temperature = c.member_temperatures[static_cast<size_t>(m)];
    for (int k = 0; k < c.labels; ++k) row[k] = from[k] / temperature;
    softmax(row, c.labels);
  }
}

// result += factor * the member's probabilities
void add_member(const Combination& c, const CombineScratch& s, int m, double factor, std::vector<double>& result) {
  const double* row = s.scores.data() + static_cast<size_t>(m) * c.labels;
  for (int k = 0; k < c.labels; ++k) result[static_cast<size_t>(k)] += factor * row[k];
}

int top_of(const double* values, int n) { return static_cast<int>(std::max_element(values, values + n) - values); }

// Shares of votes into the result; the winner by votes, then by mean probability, then by order.
int vote(const Combination& c, CombineScratch& s) {
  std::vector<double>& shares = s.result;
  for (int m = 0; m < c.members; ++m) {
    shares[static_cast<size_t>(top_of(s.scores.data() + static_cast<size_t>(m) * c.labels, c.labels))] += 1.0;
  }
  auto summed = [&](int label) {
    double sum = 0.0;
    for (int m = 0; m < c.members; ++m) sum += s.scores[static_cast<size_t>(m) * c.labels + label];
    return sum;
  };
  int winner = top_of(shares.data(), c.labels);
  for (int k = winner + 1; k < c.labels; ++k) {
    const bool tied = shares[static_cast<size_t>(k)] == shares[static_cast<size_t>(winner)];
    if (tied && summed(k) > summed(winner)) winner = k;
  }
  for (double& share : shares) share /= c.members;
  return winner;
}

void weigh(const Combination& c, CombineScratch& s) {
  for (int m = 0; m < c.members; ++m) {
    const bool weighted = c.strategy == Strategy::kWeightedAverage;
    add_member(c, s, m, weighted ? c.weights[static_cast<size_t>(m)] : 1.0 / c.members, s.result);
  }
}

void dense(const Dense& layer, const std::vector<double>& in, std::vector<double>& out) {
  for (size_t o = 0; o < out.size(); ++o) {
    double sum = layer.bias[o];
    for (size_t i = 0; i < in.size(); ++i) sum += layer.weight[o * in.size() + i] * in[i];
    out[o] = sum;
  }
}

// dense, relu, dense: the result holds logits
void stack(const Combination& c, CombineScratch& s) {
  dense(c.hidden, s.scores, s.hidden);
  for (double& h : s.hidden) h = std::max(h, 0.0);
  dense(c.output, s.hidden, s.result);
}

// FLANNEL's neural weight module: the result holds logits
void weigh_by_module(const Combination& c, CombineScratch& s) {
  const size_t n = s.scores.size();
  const double* row = c.module.weight.data();
  for (int m = 0; m < c.members; ++m) {
    double sum = c.module.bias[static_cast<size_t>(m)];
    for (size_t i = 0; i < n; ++i, row += n) {
      double inner = 0.0;
      for (size_t j = 0; j < n; ++j) inner += row[j] * s.scores[j];
      sum += s.scores[i] * inner;
    }
    add_member(c, s, m, std::tanh(sum), s.result);
  }
}

}  // namespace

int combine_cpu(const Combination& c, const float* logits, CombineScratch& s) {
  member_probabilities(c, logits, s.scores.data());
  std::fill(s.result.begin(), s.result.end(), 0.0);
  switch (c.strategy) {
    case Strategy::kVoting:
      return vote(c, s);
    case Strategy::kAverage:
    case Strategy::kWeightedAverage:
      weigh(c, s);
      for (double& p : s.result) p = std::log(p);
      break;
    case Strategy::kStacking:
      stack(c, s);
      break;
    case Strategy::kFlannel:
      weigh_by_module(c, s);
      // The log of a softmax differs from its argument by a constant, which the next softmax drops.
      break;
  }
  for (double& value : s.result) value /= c.temperature;
  softmax(s.result.data(), c.labels);
  return top_of(s.result.data(), c.labels);
}

}  // namespace cxr

#include "cxr/combine.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "combine_kernels.h"

namespace cxr {
namespace {

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument("combination: " + message); }

void check_size(const std::string& name, size_t actual, size_t expected) {
  if (actual == expected) return;
  fail(name + " must hold " + std::to_string(expected) + " numbers, got " + std::to_string(actual));
}

bool above_zero(double value) { return value > 0.0; }

const StrategyRow& row_of(Strategy strategy) { return kStrategies[static_cast<size_t>(strategy)]; }

// The length of Axis::kHidden; 0 where no array has it as its only axis.
int hidden_length(const StrategyRow& row, const NamedArrays& parameters) {
  for (const Parameter& p : row.parameters) {
    const bool only_axis = p.axes[0] == Axis::kHidden && p.axes[1] == Axis::kNone;
    if (only_axis && parameters.count(p.name) > 0) return static_cast<int>(parameters.at(p.name).size());
  }
  return 0;
}

int64_t axis_length(Axis axis, int64_t members, int64_t labels, int64_t hidden) {
  const int64_t scores = members * labels;
  switch (axis) {
    case Axis::kMembers:
      return members;
    case Axis::kLabels:
      return labels;
    case Axis::kScores:
      return scores;
    case Axis::kScorePairs:
      return scores * scores;
    case Axis::kHidden:
      return hidden;
    case Axis::kNone:
      break;
  }
  return 1;
}

size_t size_of(const Parameter& parameter, const CombineView& c) {
  size_t size = 1;
  for (const int64_t length : shape_of(parameter, c.members, c.labels, c.hidden)) size *= static_cast<size_t>(length);
  return size;
}

Activation activation_named(const std::string& name) {
  for (size_t i = 0; i < std::size(kActivations); ++i) {
    if (name == kActivations[i]) return static_cast<Activation>(i);
  }
  fail("unknown activation " + name);
}

void check_temperatures(const std::string& name, const std::vector<double>& values) {
  if (!std::all_of(values.begin(), values.end(), above_zero)) fail(name + " must be above 0");
}

void check_label_temperatures(const Combination& c, Activation activation) {
  if (c.label_temperatures.empty()) return;
  if (activation != Activation::kSigmoid) fail("label_temperatures are for sigmoid only");
  check_size("label_temperatures", c.label_temperatures.size(), static_cast<size_t>(c.labels));
  check_temperatures("label_temperatures", c.label_temperatures);
}

CombineView checked_layout(const Combination& c) {
  const Strategy strategy = strategy_named(c.strategy);
  const Activation activation = activation_named(c.activation);
  const int least = activation == Activation::kSoftmax ? 2 : 1;
  const int members = static_cast<int>(c.member_temperatures.size());
  if (members == 0 || c.labels < least) fail("needs at least 1 member and " + std::to_string(least) + " labels");
  check_temperatures("member_temperatures", c.member_temperatures);
  check_temperatures("temperature", {c.temperature});
  check_label_temperatures(c, activation);
  const int hidden = hidden_length(row_of(strategy), c.parameters);
  return {strategy, activation, members, c.labels, hidden, c.temperature, nullptr, nullptr, {}};
}

}  // namespace

Strategy strategy_named(const std::string& name) {
  for (size_t i = 0; i < std::size(kStrategies); ++i) {
    if (name == kStrategies[i].name) return static_cast<Strategy>(i);
  }
  fail("unknown strategy " + name);
}

std::vector<int64_t> shape_of(const Parameter& parameter, int members, int labels, int hidden) {
  std::vector<int64_t> shape;
  for (const Axis axis : parameter.axes) {
    if (axis != Axis::kNone) shape.push_back(axis_length(axis, members, labels, hidden));
  }
  return shape;
}

Combiner::Combiner(const Combination& combination)
    : layout_(checked_layout(combination)), values_(combination.member_temperatures) {
  size_t found = 0;
  for (int i = 0; i < kMaxParameters; ++i) {
    const Parameter& p = row_of(layout_.strategy).parameters[i];
    if (p.name == nullptr) continue;
    const auto named = combination.parameters.find(p.name);
    if (named == combination.parameters.end()) fail(std::string(p.name) + " is missing");
    const std::vector<double>& array = named->second;
    check_size(p.name, array.size(), size_of(p, layout_));
    offsets_[i] = values_.size();
    values_.insert(values_.end(), array.begin(), array.end());
    ++found;
  }
  if (found != combination.parameters.size()) fail("has parameters that are not those of " + combination.strategy);
  if (layout_.sigmoid()) append_label_temperatures(combination.label_temperatures);
}

void Combiner::append_label_temperatures(const std::vector<double>& temperatures) {
  label_temperatures_ = values_.size();
  if (temperatures.empty()) values_.resize(values_.size() + static_cast<size_t>(layout_.labels), 1.0);
  values_.insert(values_.end(), temperatures.begin(), temperatures.end());
}

CombineView Combiner::view(const double* values) const {
  CombineView view = layout_;
  view.member_temperatures = values;
  view.label_temperatures = values + label_temperatures_;
  for (int i = 0; i < kMaxParameters; ++i) view.parameters[i] = values + offsets_[i];
  return view;
}

void Combiner::run(const float* logits, int images, float* probabilities, int32_t* winners) const {
  const CombineView c = view(values_.data());
  const ThreadBlock single{1, nullptr};
  std::vector<double> scratch(static_cast<size_t>(c.scratch_size()));
  for (int i = 0; i < images; ++i) {
    const float* image = logits + static_cast<size_t>(i) * static_cast<size_t>(c.scores());
    const double* result = combine_image(single, c, image, c.labels, scratch.data(), winners + i);
    for (int k = 0; k < c.labels; ++k) *probabilities++ = static_cast<float>(result[k]);
  }
}

}  // namespace cxr

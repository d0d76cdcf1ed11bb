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

CombineView checked_layout(const Combination& c) {
  const Strategy strategy = strategy_named(c.strategy);
  const auto& temperatures = c.member_temperatures;
  if (temperatures.empty() || c.labels < 2) fail("needs at least 1 member and 2 labels");
  if (!std::all_of(temperatures.begin(), temperatures.end(), above_zero)) fail("member_temperatures must be above 0");
  if (!above_zero(c.temperature)) fail("temperature must be above 0");
  const int hidden = hidden_length(row_of(strategy), c.parameters);
  return {strategy, static_cast<int>(temperatures.size()), c.labels, hidden, c.temperature, nullptr, {}};
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
}

CombineView Combiner::view(const double* values) const {
  CombineView view = layout_;
  view.member_temperatures = values;
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

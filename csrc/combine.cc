#include "cxr/combine.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "combine_cpu.h"

namespace cxr {
namespace {

void check_size(const char* name, size_t came, size_t expected) {
  if (came != expected) {
    throw std::invalid_argument(std::string("combination: ") + name + " must hold " + std::to_string(expected) +
                                " numbers, got " + std::to_string(came));
  }
}

void check(const Combination& c) {
  if (c.members < 1 || c.labels < 2) {
    throw std::invalid_argument("combination: needs at least 1 member and 2 labels");
  }
  const auto members = static_cast<size_t>(c.members);
  const auto labels = static_cast<size_t>(c.labels);
  const size_t scores = members * labels;
  check_size("member_temperatures", c.member_temperatures.size(), members);
  for (const double t : c.member_temperatures) {
    if (!(t > 0.0)) throw std::invalid_argument("combination: member_temperatures must be above 0");
  }
  if (!(c.temperature > 0.0)) throw std::invalid_argument("combination: temperature must be above 0");
  if (c.strategy == Strategy::kWeightedAverage) check_size("weights", c.weights.size(), members);
  if (c.strategy == Strategy::kStacking) {
    const size_t hidden = c.hidden.bias.size();
    check_size("hidden_weight", c.hidden.weight.size(), hidden * scores);
    check_size("output_weight", c.output.weight.size(), labels * hidden);
    check_size("output_bias", c.output.bias.size(), labels);
  }
  if (c.strategy == Strategy::kFlannel) {
    check_size("module_weight", c.module.weight.size(), members * scores * scores);
    check_size("module_bias", c.module.bias.size(), members);
  }
}

}  // namespace

CombineView Combination::view() const {
  return {strategy,
          members,
          labels,
          static_cast<int>(hidden.bias.size()),
          temperature,
          member_temperatures.data(),
          weights.data(),
          hidden.weight.data(),
          hidden.bias.data(),
          output.weight.data(),
          output.bias.data(),
          module.weight.data(),
          module.bias.data()};
}

std::vector<double> Combination::flat() const {
  std::vector<double> all;
  for (const auto* part : {&member_temperatures, &weights, &hidden.weight, &hidden.bias, &output.weight, &output.bias,
                           &module.weight, &module.bias}) {
    all.insert(all.end(), part->begin(), part->end());
  }
  return all;
}

CombineView Combination::view_of_flat(const double* base) const {
  CombineView v = view();
  auto take = [&base](const double*& to, size_t count) {
    to = base;
    base += count;
  };
  take(v.member_temperatures, member_temperatures.size());
  take(v.weights, weights.size());
  take(v.hidden_weight, hidden.weight.size());
  take(v.hidden_bias, hidden.bias.size());
  take(v.output_weight, output.weight.size());
  take(v.output_bias, output.bias.size());
  take(v.module_weight, module.weight.size());
  take(v.module_bias, module.bias.size());
  return v;
}

Combiner::Combiner(Combination combination) : combination_(std::move(combination)) { check(combination_); }

void Combiner::run(const float* logits, int images, float* probabilities, int32_t* winners) const {
  const CombineView view = combination_.view();
  CombineScratch scratch(view);
  const size_t stride = static_cast<size_t>(view.scores());
  for (int i = 0; i < images; ++i) {
    winners[i] = combine_cpu(view, logits + i * stride, scratch);
    for (const double p : scratch.result) *probabilities++ = static_cast<float>(p);
  }
}

}  // namespace cxr

// Combination of the members' logits into the ensemble's probabilities. In: (members, labels) logits per image; out:
// (labels) probabilities and the index of the winning label. combine_math.h lists the strategies and their parameters;
// cxr_edge/specs/combination.py has the formulas. Sums run in double and in a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cxr/combine_math.h"

namespace cxr {

using NamedArrays = std::map<std::string, std::vector<double>>;

struct Combination {
  std::string strategy;
  int labels = 0;
  std::vector<double> member_temperatures;  // one per member
  double temperature = 1.0;
  NamedArrays parameters;                  // the arrays of the strategy's row in kStrategies, row by row
  std::string activation = "softmax";      // or "sigmoid"
  std::vector<double> label_temperatures;  // sigmoid only: one per label, or none, which is 1 for each
};

class Combiner {
 public:
  // Throws std::invalid_argument for an unknown strategy or activation, a missing, unknown or wrongly sized parameter,
  // or a temperature that is not above 0.
  explicit Combiner(const Combination& combination);

  int members() const { return layout_.members; }
  int labels() const { return layout_.labels; }

  // All parameters in one array, to be copied to a device.
  const std::vector<double>& values() const { return values_; }
  // The combination with its parameters at `values`: values().data(), or the address of a copy on a device.
  CombineView view(const double* values) const;
  // Scratch memory of one image.
  size_t scratch_bytes() const { return sizeof(double) * static_cast<size_t>(layout_.scratch_size()); }

  // logits: (images, members, labels). probabilities: (images, labels). winners: (images), the label with the highest
  // probability; in voting a tie goes to the higher mean member probability. May be called by several threads.
  void run(const float* logits, int images, float* probabilities, int32_t* winners) const;

 private:
  void append_label_temperatures(const std::vector<double>& temperatures);

  CombineView layout_;  // without addresses
  std::vector<double> values_;
  size_t offsets_[kMaxParameters] = {};  // of the parameters in values_
  size_t label_temperatures_ = 0;        // offset in values_, with sigmoid
};

// Throws std::invalid_argument if no strategy has that name.
Strategy strategy_named(const std::string& name);

// Axis lengths of a parameter, where `hidden` is the length of Axis::kHidden.
std::vector<int64_t> shape_of(const Parameter& parameter, int members, int labels, int hidden);

}  // namespace cxr

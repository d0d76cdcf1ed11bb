// From the members' logits to the ensemble's probabilities. In: (members, labels) logits of each image; out: (labels)
// probabilities and the winning label. The strategies and their formulas are those of `Combination` in
// cxr_edge/bundle/manifest.py; sums run in double, so that the order of members on a machine does not show in the result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cxr/combine_math.h"

namespace cxr {

// A dense layer: weight (outputs, inputs) row by row, bias (outputs).
struct Dense {
  std::vector<double> weight;
  std::vector<double> bias;
};

struct Combination {
  Strategy strategy = Strategy::kAverage;
  int members = 0;
  int labels = 0;
  std::vector<double> member_temperatures;  // (members)
  double temperature = 1.0;
  std::vector<double> weights;  // weighted average: (members)
  Dense hidden;                 // stacking: (hidden, members * labels)
  Dense output;                 // stacking: (labels, hidden)
  Dense module;                 // FLANNEL: (members, (members * labels)^2)

  // The same as pointers into this object.
  CombineView view() const;
  // All parameters one after the other, and the view of them with `base` as the address of the first: for a device.
  std::vector<double> flat() const;
  CombineView view_of_flat(const double* base) const;
};

class Combiner {
 public:
  // Throws std::invalid_argument if a parameter has the wrong size or a temperature is not above 0.
  explicit Combiner(Combination combination);

  int members() const { return combination_.members; }
  int labels() const { return combination_.labels; }
  const Combination& combination() const { return combination_; }

  // logits: (images, members, labels). probabilities: (images, labels). winners: (images), the label with the highest
  // probability; in voting a tie goes to the higher mean member probability. May be called by several threads.
  void run(const float* logits, int images, float* probabilities, int32_t* winners) const;

 private:
  Combination combination_;
};

}  // namespace cxr

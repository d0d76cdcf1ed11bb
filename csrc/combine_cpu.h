// The strategies for one image on the CPU; combine.cc checks and dispatches.
#pragma once

#include <vector>

#include "cxr/combine_math.h"

namespace cxr {

// Memory for one image's combination, made once a run.
struct CombineScratch {
  explicit CombineScratch(const CombineView& c)
      : working(static_cast<size_t>(c.working())), result(static_cast<size_t>(c.labels)) {}

  std::vector<double> working;  // member probabilities (members, labels), then what the strategy needs
  std::vector<double> result;
};

// logits (members, labels) -> scratch.result (labels); returns the winning label.
int combine_cpu(const CombineView& combination, const float* logits, CombineScratch& scratch);

}  // namespace cxr

// The strategies' arithmetic for one image on the CPU; combine.cc checks and dispatches.
#pragma once

#include <cstddef>

#include "cxr/combine.h"

namespace cxr {

// Memory for one image's combination, made once a run.
struct CombineScratch {
  explicit CombineScratch(const Combination& c)
      : scores(static_cast<size_t>(c.members) * c.labels),
        hidden(c.hidden.bias.size()),
        result(static_cast<size_t>(c.labels)) {}

  std::vector<double> scores;  // member probabilities (members, labels)
  std::vector<double> hidden;
  std::vector<double> result;
};

// logits (members, labels) -> scratch.result (labels); returns the winning label.
int combine_cpu(const Combination& combination, const float* logits, CombineScratch& scratch);

}  // namespace cxr

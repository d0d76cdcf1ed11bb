#include "cxr/resize_plan.h"

namespace cxr {

void plan_axis(int in, int out, int first, int count, AxisPlan& plan) {
  plan.norm = axis_norm(in, out);
  plan.taps.resize(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) plan.taps[static_cast<size_t>(i)] = axis_taps(in, out, first + i);
}

}  // namespace cxr

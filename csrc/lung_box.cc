#include "cxr/lung_box.h"

#include <stdexcept>
#include <vector>

namespace cxr {
namespace {

// First and last index whose count reaches `least`; first > last if none does.
Interval occupied(const std::vector<int>& counts, int least) {
  Interval range{0, static_cast<int>(counts.size()) - 1};
  while (range.first <= range.last && counts[static_cast<size_t>(range.first)] < least) ++range.first;
  while (range.last >= range.first && counts[static_cast<size_t>(range.last)] < least) --range.last;
  return range;
}

}  // namespace

LungBox find_lung_box(const float* mask, int rows, int columns, const LungRule& rule, int width, int height) {
  if (rows < 1 || columns < 1 || width < 1 || height < 1) {
    throw std::invalid_argument("a lung box needs a mask and an image of at least one pixel");
  }
  std::vector<int> in_row(static_cast<size_t>(rows));
  std::vector<int> in_column(static_cast<size_t>(columns));
  int64_t total = 0;
  for (int y = 0; y < rows; ++y) {
    for (int x = 0; x < columns; ++x) {
      const int lung = mask[static_cast<size_t>(y) * columns + x] >= rule.threshold ? 1 : 0;
      in_row[static_cast<size_t>(y)] += lung;
      in_column[static_cast<size_t>(x)] += lung;
      total += lung;
    }
  }
  return judge_lungs(occupied(in_row, rule.min_pixels), occupied(in_column, rule.min_pixels), total, rows, columns,
                     rule, width, height);
}

}  // namespace cxr

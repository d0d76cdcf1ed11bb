#include "cxr/lung_box.h"

#include <stdexcept>
#include <vector>

namespace cxr {
namespace {

// First and last index whose count reaches `min_count`; first > last if none does.
Interval occupied(const std::vector<int>& counts, int min_count) {
  Interval range{0, static_cast<int>(counts.size()) - 1};
  while (range.first <= range.last && counts[static_cast<size_t>(range.first)] < min_count) ++range.first;
  while (range.last >= range.first && counts[static_cast<size_t>(range.last)] < min_count) --range.last;
  return range;
}

}  // namespace

LungBox find_lung_box(const float* mask, int rows, int columns, const LungRule& rule, int width, int height) {
  if (rule.min_pixels < 1) throw std::invalid_argument("a lung box rule needs min_pixels of at least 1");
  if (rows < 1 || columns < 1 || width < 1 || height < 1) {
    throw std::invalid_argument("a lung box needs a mask and an image of at least one pixel");
  }
  std::vector<int> in_row(static_cast<size_t>(rows));
  std::vector<int> in_column(static_cast<size_t>(columns));
  for (int y = 0; y < rows; ++y) {
    for (int x = 0; x < columns; ++x) {
      const int lung = mask[static_cast<size_t>(y) * columns + x] >= rule.threshold ? 1 : 0;
      in_row[static_cast<size_t>(y)] += lung;
      in_column[static_cast<size_t>(x)] += lung;
    }
  }
  return make_lung_box(occupied(in_row, rule.min_pixels), occupied(in_column, rule.min_pixels), rows, columns, rule,
                       width, height);
}

}  // namespace cxr

#include "cxr/device.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace cxr {
namespace {

constexpr size_t kAlignment = 256;

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Index of the window that a spec uses; appends it if it is new.
int window_of(PreprocessTask& task, const Spec& spec) {
  for (int w = 0; w < task.windows; ++w) {
    const Window& window = task.window[w];
    const bool same_canvas = window.canvas_px == spec.canvas_px && window.crop_px == spec.crop_px;
    if (same_canvas && (window.lungs == 1) == spec.lungs) return w;
  }
  task.window[task.windows] = {spec.lungs ? 1 : 0, spec.canvas_px, spec.crop_px, 0, 0, 0, 0, 0};
  return task.windows++;
}

void add(PreprocessTask& task, const Spec& spec) {
  const int index = window_of(task, spec);
  Window& window = task.window[index];
  const bool by_image = spec.standardize == Standardize::kImage;
  window.median |= spec.median ? 1 : 0;
  window.median_statistics |= by_image && spec.median ? 1 : 0;
  window.plain_statistics |= by_image && !spec.median ? 1 : 0;
  Tensor& tensor = task.tensor[task.tensors++];
  tensor = {index, spec.median ? 1 : 0, spec.standardize, spec.channels, spec.half ? 1 : 0, {}, {}, 0};
  std::copy(spec.mean.begin(), spec.mean.end(), tensor.mean);
  std::copy(spec.std.begin(), spec.std.end(), tensor.std);
}

// Assigns offsets to the windows' pixels, after the sums; returns the scratch bytes of the task.
size_t assign_offsets(PreprocessTask& task) {
  size_t bytes = aligned(sizeof(uint64_t) * 4 * static_cast<size_t>(task.windows));
  for (int w = 0; w < task.windows; ++w) {
    Window& window = task.window[w];
    const auto side = static_cast<size_t>(window.crop_px);
    const size_t crop_bytes = aligned(sizeof(uint16_t) * side * side);
    window.pixels = bytes;
    window.filtered = bytes + crop_bytes;
    bytes += window.median ? 2 * crop_bytes : crop_bytes;
  }
  return bytes;
}

}  // namespace

DevicePreprocessor::DevicePreprocessor(const std::vector<Spec>& specs) : specs_(specs.size()) {
  for (const Spec& spec : specs) {
    check(spec);
    if (spec.channels > 3) {
      throw std::invalid_argument("a tensor on a GPU has at most 3 channels, got " + std::to_string(spec.channels));
    }
    if (plans_.empty() || plans_.back().tensors == kMaxTensors) plans_.push_back(PreprocessTask{});
    add(plans_.back(), spec);
  }
  // The launches run one after the other on one stream, so they share the memory.
  for (PreprocessTask& plan : plans_) scratch_bytes_ = std::max(scratch_bytes_, assign_offsets(plan));
}

std::vector<PreprocessTask> DevicePreprocessor::tasks(Address frame, Address lungs, Address scratch,
                                                      const std::vector<Address>& outputs) const {
  if (outputs.size() != specs_) {
    throw std::invalid_argument("one output address per spec is needed, expected " + std::to_string(specs_) + ", got " +
                                std::to_string(outputs.size()));
  }
  std::vector<PreprocessTask> tasks = plans_;
  size_t next = 0;
  for (PreprocessTask& task : tasks) {
    task.frame = frame;
    task.lungs = lungs;
    task.scratch = scratch;
    for (int i = 0; i < task.tensors; ++i) task.tensor[i].out = outputs[next++];
  }
  return tasks;
}

size_t lung_scratch_bytes(int rows, int columns) {
  return sizeof(uint32_t) * static_cast<size_t>(rows) * ((static_cast<size_t>(columns) + 31) / 32);
}

}  // namespace cxr

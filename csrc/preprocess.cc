#include "cxr/preprocess.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "cxr/resize_plan.h"
#include "preprocess_cpu.h"

namespace cxr {

// Memory of one run: the window of each distinct canvas, the filtered crop, and the column sums of each worker.
struct Scratch {
  AxisPlan rows;
  AxisPlan columns;
  std::vector<std::vector<uint16_t>> windows;
  std::vector<uint16_t> filtered;
  std::vector<std::vector<uint32_t>> sums;
};

namespace {

constexpr int kBandRows = 16;  // output rows a worker takes at a time

template <typename T>
T* grown(std::vector<T>& memory, size_t count) {
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

size_t pixels_of(int side) { return static_cast<size_t>(side) * static_cast<size_t>(side); }

bool same_window(const Spec& a, const Spec& b) {
  return a.lungs == b.lungs && a.canvas_px == b.canvas_px && a.crop_px == b.crop_px;
}

// Index of the first spec with the same window as each spec.
std::vector<int> share_windows(const std::vector<Spec>& specs) {
  std::vector<int> first(specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    size_t j = 0;
    while (!same_window(specs[j], specs[i])) ++j;
    first[i] = static_cast<int>(j);
  }
  return first;
}

Box full_frame(const ImageView& image) { return {0, 0, image.width, image.height}; }

// The centre window of the resized box, into `out`.
void resize_window(const ImageView& image, const Box& box, const Spec& spec, ThreadPool& pool, Scratch& scratch,
                   void* out) {
  plan_axis(box.height(), spec.canvas_px, spec.crop_first(), spec.crop_px, scratch.rows);
  plan_axis(box.width(), spec.canvas_px, spec.crop_first(), spec.crop_px, scratch.columns);
  if (static_cast<int>(scratch.sums.size()) < pool.threads()) scratch.sums.resize(static_cast<size_t>(pool.threads()));
  for (auto& sums : scratch.sums) grown(sums, static_cast<size_t>(box.width()));
  const int bands = (spec.crop_px + kBandRows - 1) / kBandRows;
  pool.run(bands, [&](int band, int worker) {
    const int first = band * kBandRows;
    const int last = first + kBandRows < spec.crop_px ? first + kBandRows : spec.crop_px;
    resize_rows_cpu(image, box, scratch.rows, scratch.columns, first, last,
                    scratch.sums[static_cast<size_t>(worker)].data(), out);
  });
}

ImageView crop_view(const void* pixels, int side, int bytes_per_pixel) {
  return {pixels, side, side, static_cast<ptrdiff_t>(side) * bytes_per_pixel, bytes_per_pixel};
}

}  // namespace

void check(const ImageView& image, const Box& box) {
  if (image.width < 1 || image.height < 1 || image.width > kMaxAxisLength || image.height > kMaxAxisLength) {
    throw std::invalid_argument("an image side must be from 1 to " + std::to_string(kMaxAxisLength) + " pixels, got " +
                                std::to_string(image.width) + "x" + std::to_string(image.height));
  }
  if (box.x0 < 0 || box.y0 < 0 || box.x1 > image.width || box.y1 > image.height || box.width() < 1 ||
      box.height() < 1) {
    throw std::invalid_argument("the box is empty or reaches outside the image");
  }
}

void check(const Spec& spec) {
  if (spec.canvas_px < 1 || spec.canvas_px > 32768 || spec.crop_px < 1 || spec.crop_px > spec.canvas_px) {
    throw std::invalid_argument("a spec needs 1 <= crop_px <= canvas_px <= 32768");
  }
  const size_t expected = spec.standardize == Standardize::kFixed ? static_cast<size_t>(spec.channels) : 0;
  if (spec.channels < 1 || spec.mean.size() != expected || spec.std.size() != expected) {
    throw std::invalid_argument("a spec with fixed standardisation needs one mean and one std per channel");
  }
}

void make_canvas(const ImageView& image, const Box& box, int canvas_px, void* out) {
  check(image, box);
  Spec spec;
  spec.canvas_px = spec.crop_px = canvas_px;
  check(spec);
  ThreadPool single(1);
  Scratch scratch;
  resize_window(image, box, spec, single, scratch, out);
}

void normalize_canvas(const ImageView& canvas, const Spec& spec, void* out) {
  check(spec);
  if (canvas.width != spec.canvas_px || canvas.height != spec.canvas_px) {
    throw std::invalid_argument("the canvas must have canvas_px rows and columns");
  }
  // Resizing the centre box to its own size copies it.
  const int first = spec.crop_first();
  const Box centre{first, first, first + spec.crop_px, first + spec.crop_px};
  std::vector<uint16_t> crop(pixels_of(spec.crop_px));
  std::vector<uint16_t> filtered(spec.median ? crop.size() : 0);
  make_canvas(canvas, centre, spec.crop_px, crop.data());
  normalize_cpu(crop_view(crop.data(), spec.crop_px, canvas.bytes_per_pixel), spec, filtered.data(), out);
}

Preprocessor::Preprocessor(std::vector<Spec> specs, int threads)
    : specs_(std::move(specs)), canvas_of_(share_windows(specs_)), pool_(threads) {
  for (const Spec& spec : specs_) check(spec);
}

Preprocessor::~Preprocessor() = default;

void Preprocessor::run(const ImageView* images, const Box* lungs, int n, void* const* outputs) {
  for (int i = 0; i < n; ++i) check(images[i], lungs[i]);
  auto scratch = take_scratch();
  scratch->windows.resize(specs_.size());
  for (int i = 0; i < n; ++i) {
    for (size_t s = 0; s < specs_.size(); ++s) {
      const Spec& spec = specs_[s];
      const auto shared = static_cast<size_t>(canvas_of_[s]);
      void* window = grown(scratch->windows[shared], pixels_of(spec.crop_px));
      const Box box = spec.lungs ? lungs[i] : full_frame(images[i]);
      if (shared == s) resize_window(images[i], box, spec, pool_, *scratch, window);
      void* filtered = spec.median ? grown(scratch->filtered, pixels_of(spec.crop_px)) : nullptr;
      char* out = static_cast<char*>(outputs[s]) + static_cast<size_t>(i) * spec.tensor_bytes();
      normalize_cpu(crop_view(window, spec.crop_px, images[i].bytes_per_pixel), spec, filtered, out);
    }
  }
  give_scratch(std::move(scratch));
}

std::unique_ptr<Scratch> Preprocessor::take_scratch() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (free_.empty()) return std::make_unique<Scratch>();
  auto scratch = std::move(free_.back());
  free_.pop_back();
  return scratch;
}

void Preprocessor::give_scratch(std::unique_ptr<Scratch> scratch) {
  std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(std::move(scratch));
}

}  // namespace cxr

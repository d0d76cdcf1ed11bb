// Fused preprocessing. In: gray pixels of any size and a lung box; out: the tensors of all members. The steps are those
// of `make_canvas` and `normalize_canvas`, run once per distinct canvas and shared by the members with the same region
// and sizes. The caller owns the output memory; scratch memory is reused between runs and only grows.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cxr/image.h"
#include "cxr/thread_pool.h"

namespace cxr {

enum class Standardize { kNone, kFixed, kImage };

// One member's preprocessing; see PreprocessSpec in cxr_edge/ops/preprocess.py for the meaning of each field.
struct Spec {
  bool lungs = true;
  int canvas_px = 224;
  int crop_px = 224;
  bool median = false;
  Standardize standardize = Standardize::kImage;
  std::vector<double> mean;
  std::vector<double> std;
  int channels = 1;
  bool half = false;

  int crop_first() const { return (canvas_px - crop_px) / 2; }
  size_t tensor_bytes() const {
    return static_cast<size_t>(channels) * crop_px * crop_px * (half ? sizeof(uint16_t) : sizeof(float));
  }
};

// Throws std::invalid_argument unless `box` is inside `image` and both fit the arithmetic.
void check(const ImageView& image, const Box& box);

// Throws std::invalid_argument for an invalid spec.
void check(const Spec& spec);

// Crops the box and resizes it: (canvas_px, canvas_px) pixels of the image's type into `out`.
void make_canvas(const ImageView& image, const Box& box, int canvas_px, void* out);

// Centre crop, median, scaling and standardisation of a canvas, into spec.tensor_bytes() at `out`.
void normalize_canvas(const ImageView& canvas, const Spec& spec, void* out);

struct Scratch;

class Preprocessor {
 public:
  Preprocessor(std::vector<Spec> specs, int threads);
  ~Preprocessor();

  const std::vector<Spec>& specs() const { return specs_; }

  // images and lungs: n each. outputs: one per spec, each n * spec.tensor_bytes(). May be called by several threads.
  void run(const ImageView* images, const Box* lungs, int n, void* const* outputs);

 private:
  std::unique_ptr<Scratch> take_scratch();
  void give_scratch(std::unique_ptr<Scratch> scratch);

  std::vector<Spec> specs_;
  std::vector<int> canvas_of_;  // index of the first spec with the same region, canvas and crop
  ThreadPool pool_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

}  // namespace cxr

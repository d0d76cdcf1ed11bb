#include "cxr/preprocess.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "register.h"

namespace py = pybind11;

namespace cxr::bindings {
namespace {

using BoxTuple = std::array<int, 4>;

ImageView image_view(const py::array& pixels) {
  const auto size = pixels.itemsize();
  if (pixels.ndim() != 2 || pixels.dtype().kind() != 'u' || size > 2 || pixels.strides(1) != size) {
    throw std::invalid_argument("pixels must be a 2-D uint8 or uint16 array with adjacent columns");
  }
  return {pixels.data(), static_cast<int>(pixels.shape(1)), static_cast<int>(pixels.shape(0)), pixels.strides(0),
          static_cast<int>(size)};
}

Box to_box(const BoxTuple& box) { return {box[0], box[1], box[2], box[3]}; }

Standardize to_standardize(const std::string& name) {
  if (name == "none") return Standardize::kNone;
  if (name == "fixed") return Standardize::kFixed;
  if (name == "image") return Standardize::kImage;
  throw std::invalid_argument("standardize must be none, fixed or image");
}

Spec make_spec(bool lungs, int canvas_px, int crop_px, bool median, const std::string& standardize,
               std::vector<double> mean, std::vector<double> std, int channels, bool half) {
  Spec spec{lungs,           canvas_px,      crop_px,  median, to_standardize(standardize),
            std::move(mean), std::move(std), channels, half};
  check(spec);
  return spec;
}

py::array canvas(const py::array& pixels, const BoxTuple& box, int canvas_px) {
  const ImageView view = image_view(pixels);
  check(view, to_box(box));
  py::array out(pixels.dtype(), {canvas_px, canvas_px});
  void* to = out.mutable_data();
  py::gil_scoped_release unlocked;
  make_canvas(view, to_box(box), canvas_px, to);
  return out;
}

py::array normalize(const py::array& canvas, const Spec& spec) {
  const ImageView view = image_view(canvas);
  py::array out(py::dtype(spec.half ? "float16" : "float32"), {spec.channels, spec.crop_px, spec.crop_px});
  void* to = out.mutable_data();
  py::gil_scoped_release unlocked;
  normalize_canvas(view, spec, to);
  return out;
}

void run(Preprocessor& preprocessor, const std::vector<py::array>& pixels, const std::vector<BoxTuple>& lungs,
         std::vector<py::array>& outputs) {
  const size_t n = pixels.size();
  const auto& specs = preprocessor.specs();
  if (lungs.size() != n || outputs.size() != specs.size()) {
    throw std::invalid_argument("one box per image and one output per spec are needed");
  }
  std::vector<ImageView> images;
  std::vector<Box> boxes;
  std::vector<void*> destinations;
  for (const auto& array : pixels) images.push_back(image_view(array));
  for (const auto& box : lungs) boxes.push_back(to_box(box));
  for (size_t s = 0; s < specs.size(); ++s) {
    if (static_cast<size_t>(outputs[s].nbytes()) != n * specs[s].tensor_bytes()) {
      throw std::invalid_argument("an output has the wrong size");
    }
    destinations.push_back(outputs[s].mutable_data());
  }
  py::gil_scoped_release unlocked;
  preprocessor.run(images.data(), boxes.data(), static_cast<int>(n), destinations.data());
}

}  // namespace

void register_preprocess(py::module_& module) {
  using namespace py::literals;
  py::class_<Spec>(module, "Spec")
      .def(py::init(&make_spec), py::kw_only(), "lungs"_a, "canvas_px"_a, "crop_px"_a, "median"_a, "standardize"_a,
           "mean"_a, "std"_a, "channels"_a, "half"_a);
  module.def("canvas", &canvas, "pixels"_a, "box"_a, "canvas_px"_a);
  module.def("normalize", &normalize, "canvas"_a, "spec"_a);
  py::class_<Preprocessor>(module, "Preprocessor")
      .def(py::init<std::vector<Spec>, int>(), "specs"_a, "threads"_a)
      .def("run", &run, "pixels"_a, "lungs"_a, "outputs"_a);
}

}  // namespace cxr::bindings

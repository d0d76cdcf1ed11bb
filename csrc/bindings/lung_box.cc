#include "cxr/lung_box.h"

#include <pybind11/numpy.h>

#include <stdexcept>

#include "register.h"

namespace py = pybind11;

namespace cxr::bindings {
namespace {

using Mask = py::array_t<float, py::array::c_style>;

py::tuple lung_box(const Mask& mask, const LungRule& rule, int width, int height) {
  if (mask.ndim() != 2) throw std::invalid_argument("a mask is a 2-D float32 array");
  const auto rows = static_cast<int>(mask.shape(0));
  const auto columns = static_cast<int>(mask.shape(1));
  const float* pixels = mask.data();
  LungBox result;
  {
    py::gil_scoped_release unlocked;
    result = find_lung_box(pixels, rows, columns, rule, width, height);
  }
  const Box& box = result.box;
  return py::make_tuple(static_cast<int>(result.status), py::make_tuple(box.x0, box.y0, box.x1, box.y1));
}

}  // namespace

void register_lung_box(py::module_& module) {
  using namespace py::literals;
  py::class_<LungRule>(module, "LungRule")
      .def(py::init([](float threshold, int min_pixels, double margin, double min_area, double max_area,
                       double min_aspect, double max_aspect) {
             return LungRule{threshold, min_pixels, margin, min_area, max_area, min_aspect, max_aspect};
           }),
           py::kw_only(), "threshold"_a, "min_pixels"_a, "margin"_a, "min_area"_a, "max_area"_a, "min_aspect"_a,
           "max_aspect"_a);
  module.def("lung_box", &lung_box, "mask"_a, "rule"_a, py::kw_only(), "width_px"_a, "height_px"_a);
}

}  // namespace cxr::bindings

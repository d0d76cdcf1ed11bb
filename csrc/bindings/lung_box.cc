#include "cxr/lung_box.h"

#include <pybind11/numpy.h>

#include <stdexcept>

#include "register.h"

namespace py = pybind11;

namespace cxr::bindings {
namespace {

using Mask = py::array_t<float, py::array::c_style>;

py::tuple lung_box(const Mask& mask, float threshold, int min_pixels, double margin, int width, int height) {
  if (mask.ndim() != 2) throw std::invalid_argument("a mask is a 2-D float32 array");
  const LungBox found = find_lung_box(mask.data(), static_cast<int>(mask.shape(0)), static_cast<int>(mask.shape(1)),
                                      {threshold, min_pixels, margin}, width, height);
  if (!found.found) return py::make_tuple(py::none(), found.lung_area);
  const Box& box = found.box;
  return py::make_tuple(py::make_tuple(box.x0, box.y0, box.x1, box.y1), found.lung_area);
}

}  // namespace

void register_lung_box(py::module_& module) {
  using namespace py::literals;
  module.def("lung_box", &lung_box, "mask"_a, py::kw_only(), "threshold"_a, "min_pixels"_a, "margin"_a, "width_px"_a,
             "height_px"_a);
}

}  // namespace cxr::bindings

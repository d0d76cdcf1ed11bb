// What the module is made of, one function a topic. Bindings turn arrays into views, drop the GIL and call; nothing
// else is done here.
#pragma once

#include <pybind11/pybind11.h>

namespace cxr::bindings {

void register_preprocess(pybind11::module_& module);
void register_lung_box(pybind11::module_& module);
void register_combine(pybind11::module_& module);
void register_device(pybind11::module_& module);

}  // namespace cxr::bindings

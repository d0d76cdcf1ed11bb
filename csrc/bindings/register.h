// Registration of the module's parts, one function per topic. Bindings only convert arrays to views, release the GIL
// and call the core.
#pragma once

#include <pybind11/pybind11.h>

namespace cxr::bindings {

void register_preprocess(pybind11::module_& module);
void register_lung_box(pybind11::module_& module);
void register_combine(pybind11::module_& module);
void register_device(pybind11::module_& module);

}  // namespace cxr::bindings

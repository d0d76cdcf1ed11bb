#include "register.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "Native core of cxr-edge: fused preprocessing, lung box and combination, on the CPU and on a GPU.";
  cxr::bindings::register_preprocess(module);
  cxr::bindings::register_lung_box(module);
  cxr::bindings::register_combine(module);
  cxr::bindings::register_device(module);
}

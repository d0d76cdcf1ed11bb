#include "cxr/device.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <string>

#include "register.h"

namespace py = pybind11;

namespace cxr::bindings {
namespace {

template <typename Executor>
void preprocess(Executor& executor, const DevicePreprocessor& preprocessor, Address frame, Address lungs,
                Address scratch, const std::vector<Address>& outputs) {
  for (const PreprocessTask& task : preprocessor.tasks(frame, lungs, scratch, outputs)) executor.run(task);
}

template <typename Executor>
void lung_box(Executor& executor, Address mask, int rows, int columns, const LungRule& rule, Address frame,
              Address scratch, Address record) {
  executor.run(LungTask{mask, rows, columns, rule, frame, scratch, record});
}

template <typename Executor>
void combine(Executor& executor, const Combiner& combiner, Address parameters, Address logits, int member_stride,
             Address scratch, Address probabilities, Address winner) {
  const CombineView view = combiner.view(at<const double>(parameters));
  executor.run(CombineTask{view, logits, member_stride, scratch, probabilities, winner});
}

template <typename Executor, typename Argument>
void register_executor(py::module_& module, const char* name, const char* argument) {
  using namespace py::literals;
  using Unlocked = py::call_guard<py::gil_scoped_release>;
  py::class_<Executor>(module, name)
      .def(py::init<Argument>(), py::arg(argument))
      .def("preprocess", &preprocess<Executor>, "preprocessor"_a, py::kw_only(), "frame"_a, "lungs"_a, "scratch"_a,
           "outputs"_a, Unlocked())
      .def("lung_box", &lung_box<Executor>, py::kw_only(), "mask"_a, "rows"_a, "columns"_a, "rule"_a, "frame"_a,
           "scratch"_a, "record"_a, Unlocked())
      .def("combine", &combine<Executor>, "combiner"_a, py::kw_only(), "parameters"_a, "logits"_a, "member_stride"_a,
           "scratch"_a, "probabilities"_a, "winner"_a, Unlocked());
}

}  // namespace

void register_device(py::module_& module) {
  using namespace py::literals;
  module.attr("FRAME_HEADER_BYTES") = kFrameHeaderBytes;
  module.attr("ROW_ALIGNMENT") = kRowAlignment;
  module.def("cuda_architectures", &cuda_architectures);
  py::class_<DevicePreprocessor>(module, "DevicePreprocessor")
      .def(py::init<const std::vector<Spec>&>(), "specs"_a)
      .def_property_readonly("scratch_bytes", &DevicePreprocessor::scratch_bytes);
  module.def("lung_scratch_bytes", &lung_scratch_bytes, "rows"_a, "columns"_a);
  register_executor<Emulated, uint32_t>(module, "Emulated", "seed");
  register_executor<Cuda, Stream>(module, "Cuda", "stream");
  module.def("begin_capture", &begin_capture, "stream"_a);
  module.def("end_capture", &end_capture, "stream"_a);
  py::class_<Graph>(module, "Graph").def("launch", &Graph::launch, "stream"_a);
  py::class_<Event>(module, "Event")
      .def(py::init<>())
      .def("record", &Event::record, "stream"_a, "in_graph"_a)
      .def("make_wait", &Event::make_wait, "stream"_a)
      .def("ms_since", &Event::ms_since, "start"_a);
}

}  // namespace cxr::bindings

#include "cxr/combine.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "register.h"

namespace py = pybind11;

namespace cxr::bindings {
namespace {

using Logits = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Array = py::array_t<double, py::array::c_style | py::array::forcecast>;

std::vector<double> to_vector(const Array& array) { return {array.data(), array.data() + array.size()}; }

Combiner make_combiner(const std::string& strategy, int labels, const Array& member_temperatures, double temperature,
                       const std::map<std::string, Array>& parameters, const std::string& activation,
                       const Array& label_temperatures) {
  Combination combination{strategy, labels,     to_vector(member_temperatures), temperature,
                          {},       activation, to_vector(label_temperatures)};
  for (const auto& [name, array] : parameters) combination.parameters[name] = to_vector(array);
  return Combiner(combination);
}

py::tuple strategies() {
  py::list names;
  for (const StrategyRow& row : kStrategies) names.append(row.name);
  return py::tuple(names);
}

py::tuple activations() {
  py::list names;
  for (const char* name : kActivations) names.append(name);
  return py::tuple(names);
}

// Shapes by parameter name; None for a length that the arrays determine.
py::dict parameter_shapes(const std::string& strategy, int members, int labels) {
  constexpr int kFree = -1;
  py::dict shapes;
  for (const Parameter& parameter : kStrategies[static_cast<size_t>(strategy_named(strategy))].parameters) {
    if (parameter.name == nullptr) continue;
    py::list shape;
    for (const int64_t length : shape_of(parameter, members, labels, kFree)) {
      shape.append(length == kFree ? py::object(py::none()) : py::object(py::int_(length)));
    }
    shapes[parameter.name] = py::tuple(shape);
  }
  return shapes;
}

py::array_t<double> values(const Combiner& combiner) {
  return py::array_t<double>(static_cast<py::ssize_t>(combiner.values().size()), combiner.values().data());
}

py::tuple run(const Combiner& combiner, const Logits& logits) {
  if (logits.ndim() != 3 || logits.shape(1) != combiner.members() || logits.shape(2) != combiner.labels()) {
    throw std::invalid_argument("logits must have the shape (images, " + std::to_string(combiner.members()) + ", " +
                                std::to_string(combiner.labels()) + ")");
  }
  const py::ssize_t images = logits.shape(0);
  py::array_t<float> probabilities({images, static_cast<py::ssize_t>(combiner.labels())});
  py::array_t<int32_t> winners(images);
  const float* source = logits.data();
  float* probability = probabilities.mutable_data();
  int32_t* winner = winners.mutable_data();
  {
    py::gil_scoped_release unlocked;
    combiner.run(source, static_cast<int>(images), probability, winner);
  }
  return py::make_tuple(probabilities, winners);
}

}  // namespace

void register_combine(py::module_& module) {
  using namespace py::literals;
  module.attr("COMBINATION_STRATEGIES") = strategies();
  module.attr("COMBINATION_ACTIVATIONS") = activations();
  module.def("combination_shapes", &parameter_shapes, "strategy"_a, py::kw_only(), "members"_a, "labels"_a);
  py::class_<Combiner>(module, "Combiner")
      .def(py::init(&make_combiner), py::kw_only(), "strategy"_a, "labels"_a, "member_temperatures"_a, "temperature"_a,
           "parameters"_a, "activation"_a = "softmax", "label_temperatures"_a = py::tuple())
      .def("run", &run, "logits"_a)
      .def("values", &values)
      .def_property_readonly("members", &Combiner::members)
      .def_property_readonly("scratch_bytes", &Combiner::scratch_bytes);
}

}  // namespace cxr::bindings

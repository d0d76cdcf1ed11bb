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
using Numbers = std::vector<double>;

Strategy strategy_of(const std::string& name) {
  if (name == "voting") return Strategy::kVoting;
  if (name == "average") return Strategy::kAverage;
  if (name == "weighted-average") return Strategy::kWeightedAverage;
  if (name == "stacking") return Strategy::kStacking;
  if (name == "flannel") return Strategy::kFlannel;
  throw std::invalid_argument("unknown combination strategy: " + name);
}

Combiner make_combiner(const std::string& strategy, int members, int labels, Numbers member_temperatures,
                       double temperature, Numbers weights, Numbers hidden_weight, Numbers hidden_bias,
                       Numbers output_weight, Numbers output_bias, Numbers module_weight, Numbers module_bias) {
  return Combiner(Combination{strategy_of(strategy),
                              members,
                              labels,
                              std::move(member_temperatures),
                              temperature,
                              std::move(weights),
                              {std::move(hidden_weight), std::move(hidden_bias)},
                              {std::move(output_weight), std::move(output_bias)},
                              {std::move(module_weight), std::move(module_bias)}});
}

py::tuple run(const Combiner& combiner, const Logits& logits) {
  if (logits.ndim() != 3 || logits.shape(1) != combiner.members() || logits.shape(2) != combiner.labels()) {
    throw std::invalid_argument("logits must have the shape (images, " + std::to_string(combiner.members()) + ", " +
                                std::to_string(combiner.labels()) + ")");
  }
  const py::ssize_t images = logits.shape(0);
  py::array_t<float> probabilities({images, static_cast<py::ssize_t>(combiner.labels())});
  py::array_t<int32_t> winners(images);
  const float* from = logits.data();
  float* to = probabilities.mutable_data();
  int32_t* top = winners.mutable_data();
  {
    py::gil_scoped_release unlocked;
    combiner.run(from, static_cast<int>(images), to, top);
  }
  return py::make_tuple(probabilities, winners);
}

}  // namespace

void register_combine(py::module_& module) {
  using namespace py::literals;
  py::class_<Combiner>(module, "Combiner")
      .def(py::init(&make_combiner), py::kw_only(), "strategy"_a, "members"_a, "labels"_a, "member_temperatures"_a,
           "temperature"_a, "weights"_a = Numbers{}, "hidden_weight"_a = Numbers{}, "hidden_bias"_a = Numbers{},
           "output_weight"_a = Numbers{}, "output_bias"_a = Numbers{}, "module_weight"_a = Numbers{},
           "module_bias"_a = Numbers{})
      .def("run", &run, "logits"_a);
}

}  // namespace cxr::bindings

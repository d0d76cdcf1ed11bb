// The GPU's symbols in a build without CUDA: the same names, which throw an error that says so.
#include <stdexcept>

#include "cxr/device.h"

namespace cxr {
namespace {

[[noreturn]] void throw_no_cuda() {
  throw std::runtime_error(
      "this cxr-edge was built without CUDA: install the CUDA toolkit and rebuild it; with "
      "-DCXR_EDGE_CUDA=ON the build reports what is missing");
}

}  // namespace

void Cuda::run(const PreprocessTask&) { throw_no_cuda(); }
void Cuda::run(const LungTask&) { throw_no_cuda(); }
void Cuda::run(const CombineTask&) { throw_no_cuda(); }
std::vector<int> cuda_architectures() { return {}; }
void begin_capture(Stream) { throw_no_cuda(); }
std::unique_ptr<Graph> end_capture(Stream) { throw_no_cuda(); }
Graph::~Graph() = default;
void Graph::launch(Stream) const { throw_no_cuda(); }
Event::Event() { throw_no_cuda(); }
Event::~Event() = default;
void Event::record(Stream, bool) { throw_no_cuda(); }
void Event::make_wait(Stream) const { throw_no_cuda(); }
double Event::ms_since(const Event&) const { throw_no_cuda(); }

}  // namespace cxr

// The GPU's symbols in a build without CUDA: all the same names, and a clear refusal.
#include <stdexcept>

#include "cxr/device.h"

namespace cxr {
namespace {

[[noreturn]] void refuse() {
  throw std::runtime_error(
      "this cxr-edge was built without CUDA: install the CUDA toolkit and build it again, with "
      "-DCXR_EDGE_CUDA=ON to be told what is missing");
}

}  // namespace

void Cuda::run(const PreprocessTask&) { refuse(); }
void Cuda::run(const LungTask&) { refuse(); }
void Cuda::run(const CombineTask&) { refuse(); }
std::vector<int> cuda_architectures() { return {}; }
void begin_capture(Stream) { refuse(); }
std::unique_ptr<Graph> end_capture(Stream) { refuse(); }
Graph::~Graph() = default;
void Graph::launch(Stream) const { refuse(); }
Event::Event() { refuse(); }
Event::~Event() = default;
void Event::record(Stream, bool) { refuse(); }
void Event::hold(Stream) const { refuse(); }
double Event::ms_since(const Event&) const { refuse(); }

}  // namespace cxr

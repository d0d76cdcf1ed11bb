// Kernels on a GPU: those of *_kernels.h launched on the caller's stream; stream capture, graphs and events.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "combine_kernels.h"
#include "cxr/device.h"
#include "lung_box_kernel.h"
#include "preprocess_kernels.h"

namespace cxr {
namespace {

void check(cudaError_t status, const char* action) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report this failure again
  throw std::runtime_error(std::string(action) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) +
                           ")");
}

template <typename Handle>
Handle handle(uint64_t value) {
  return reinterpret_cast<Handle>(static_cast<uintptr_t>(value));
}

template <typename Handle>
uint64_t number(Handle value) {
  return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(value));
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads) run_kernel(const __grid_constant__ Kernel kernel) {
  __shared__ typename Kernel::Shared shared;
  kernel(ThreadBlock{Kernel::kThreads, nullptr}, shared,
         {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)});
}

class Launches {
 public:
  explicit Launches(Stream stream) : stream_(handle<cudaStream_t>(stream)) {}

  void zero(Address address, size_t bytes) {
    check(cudaMemsetAsync(at<void>(address), 0, bytes, stream_), "clearing device memory failed");
  }

  template <typename Kernel>
  void launch(const Kernel& kernel, Grid grid) {
    static_assert(sizeof(Kernel) <= 4096, "a kernel's parameters must fit 4 KiB");
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
    run_kernel<Kernel><<<blocks, Kernel::kThreads, 0, stream_>>>(kernel);
    check(cudaGetLastError(), "launching a kernel failed");
  }

 private:
  cudaStream_t stream_;
};

template <typename Task>
void run_all(const Task& task, Stream stream) {
  Launches launches(stream);
  launch_all(task, launches);
}

}  // namespace

void Cuda::run(const PreprocessTask& task) { run_all(task, stream_); }
void Cuda::run(const LungTask& task) { run_all(task, stream_); }
void Cuda::run(const CombineTask& task) { run_all(task, stream_); }

std::vector<int> cuda_architectures() {
  std::vector<int> built = {__CUDA_ARCH_LIST__};  // nvcc's: 750, 800, ...
  for (int& architecture : built) architecture /= 10;
  return built;
}

void begin_capture(Stream stream) {
  check(cudaStreamBeginCapture(handle<cudaStream_t>(stream), cudaStreamCaptureModeThreadLocal),
        "starting a capture failed");
}

std::unique_ptr<Graph> end_capture(Stream stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(handle<cudaStream_t>(stream), &graph), "the capture failed");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiateWithFlags(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "instantiating the captured graph failed");
  return std::make_unique<Graph>(number(executable));
}

Graph::~Graph() { cudaGraphExecDestroy(handle<cudaGraphExec_t>(handle_)); }

void Graph::launch(Stream stream) const {
  check(cudaGraphLaunch(handle<cudaGraphExec_t>(handle_), handle<cudaStream_t>(stream)), "launching the graph failed");
}

Event::Event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "creating an event failed");
  handle_ = number(event);
}

Event::~Event() { cudaEventDestroy(handle<cudaEvent_t>(handle_)); }

void Event::record(Stream stream, bool in_graph) {
  const unsigned flags = in_graph ? cudaEventRecordExternal : cudaEventRecordDefault;
  check(cudaEventRecordWithFlags(handle<cudaEvent_t>(handle_), handle<cudaStream_t>(stream), flags),
        "recording an event failed");
}

void Event::make_wait(Stream stream) const {
  check(cudaStreamWaitEvent(handle<cudaStream_t>(stream), handle<cudaEvent_t>(handle_), 0),
        "making a stream wait for an event failed");
}

double Event::ms_since(const Event& start) const {
  float ms = 0.0f;
  check(cudaEventElapsedTime(&ms, handle<cudaEvent_t>(start.handle_), handle<cudaEvent_t>(handle_)),
        "measuring the time between two events failed");
  return ms;
}

}  // namespace cxr

// Kernels on a GPU: the blocks of *_blocks.h as launches on the caller's stream, and stream capture.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "combine_kernels.h"
#include "cxr/device.h"
#include "lung_box_kernel.h"
#include "preprocess_kernels.h"

namespace cxr {
namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report this failure again
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) +
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

template <typename Block>
__global__ void __launch_bounds__(Block::kThreads) kernel(const __grid_constant__ Block block) {
  __shared__ typename Block::Shared shared;
  block(Team{Block::kThreads, nullptr}, shared,
        {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)});
}

class Launches {
 public:
  explicit Launches(Stream stream) : stream_(handle<cudaStream_t>(stream)) {}

  void zero(Address address, size_t bytes) {
    check(cudaMemsetAsync(at<void>(address), 0, bytes, stream_), "clearing device memory failed");
  }

  template <typename Block>
  void launch(const Block& block, Grid grid) {
    static_assert(sizeof(Block) <= 4096, "what a kernel is given by value must fit 4 KiB");
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
    kernel<Block><<<blocks, Block::kThreads, 0, stream_>>>(block);
    check(cudaGetLastError(), "a kernel could not be launched");
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
        "a capture could not be begun");
}

std::unique_ptr<Graph> end_capture(Stream stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(handle<cudaStream_t>(stream), &graph), "the capture failed");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiateWithFlags(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "the captured graph cannot be run");
  return std::make_unique<Graph>(number(executable));
}

Graph::~Graph() { cudaGraphExecDestroy(handle<cudaGraphExec_t>(handle_)); }

void Graph::launch(Stream stream) const {
  check(cudaGraphLaunch(handle<cudaGraphExec_t>(handle_), handle<cudaStream_t>(stream)), "the graph was not launched");
}

Event::Event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "an event could not be made");
  handle_ = number(event);
}

Event::~Event() { cudaEventDestroy(handle<cudaEvent_t>(handle_)); }

void Event::record(Stream stream, bool in_graph) {
  const unsigned flags = in_graph ? cudaEventRecordExternal : cudaEventRecordDefault;
  check(cudaEventRecordWithFlags(handle<cudaEvent_t>(handle_), handle<cudaStream_t>(stream), flags),
        "an event could not be recorded");
}

void Event::hold(Stream stream) const {
  check(cudaStreamWaitEvent(handle<cudaStream_t>(stream), handle<cudaEvent_t>(handle_), 0),
        "a stream could not wait for an event");
}

double Event::ms_since(const Event& start) const {
  float ms = 0.0f;
  check(cudaEventElapsedTime(&ms, handle<cudaEvent_t>(start.handle_), handle<cudaEvent_t>(handle_)),
        "the time between two events cannot be had");
  return ms;
}

}  // namespace cxr

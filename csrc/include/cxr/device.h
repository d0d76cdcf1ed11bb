// Preprocessing, lung box and combination on a GPU: the steps of preprocess.h, lung_box.h and combine.h on device
// memory and the caller's stream, without allocation or synchronisation, so that all of it can be captured into one
// CUDA graph. Each step has two executors: `Cuda` launches the kernels; `Emulated` runs their blocks in a host loop on
// host memory, so that they can be tested without a GPU. A build without CUDA has the same symbols, which throw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cxr/combine.h"
#include "cxr/image.h"
#include "cxr/lung_box.h"
#include "cxr/preprocess.h"

namespace cxr {

using Address = uint64_t;  // of device memory, as an integer
using Stream = uint64_t;   // a cudaStream_t, as an integer

template <typename T>
CXR_HD T* at(Address address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

// An image on the device is one buffer: this header, then from kFrameHeaderBytes on the rows, each padded to a multiple
// of kRowAlignment bytes. The kernels read the size from the header and their grids do not depend on it, so one
// captured graph serves images of all sizes.
struct FrameHeader {
  int32_t width;
  int32_t height;
  int32_t row_bytes;
  int32_t bytes_per_pixel;  // 1 or 2
};
constexpr size_t kFrameHeaderBytes = 256;
constexpr int kRowAlignment = 16;

// Result record of the lung box kernel.
struct LungRecord {
  Box crop;              // the region for the classifiers: the detected box if it is valid, else the full frame
  Box detected;          // empty if there is no lung
  LungBoxStatus status;  // of the detected box
};

// Lung box of one mask (rows x columns floats) of the image at `frame`.
struct LungTask {
  Address mask;
  int rows;
  int columns;
  LungRule rule;
  Address frame;    // a FrameHeader
  Address scratch;  // lung_scratch_bytes(rows, columns)
  Address record;   // a LungRecord
};
size_t lung_scratch_bytes(int rows, int columns);

// Combination of one image's logits: probabilities, (labels) floats, and the winning label, an int32.
struct CombineTask {
  CombineView view;  // of parameters on the device
  Address logits;    // member m's logits at m * member_stride floats
  int member_stride;
  Address scratch;  // Combiner::scratch_bytes()
  Address probabilities;
  Address winner;
};

constexpr int kMaxTensors = 16;  // per launch; more members take more launches

// One distinct canvas of a launch, shared by the members with the same region and sizes; its pixels are uint16.
struct Window {
  int lungs;  // 1: the lung box; 0: the full frame
  int canvas_px;
  int crop_px;
  int plain_statistics;   // 1 if a tensor is standardised by the statistics of the unfiltered pixels
  int median;             // 1 if a tensor uses the filtered pixels
  int median_statistics;  // 1 if a tensor is standardised by the statistics of the filtered pixels
  uint64_t pixels;        // offsets into the scratch memory
  uint64_t filtered;
};

// One member's tensor of a launch.
struct Tensor {
  int window;
  int median;
  Standardize standardize;
  int channels;
  int half;
  double mean[3];
  double std[3];
  Address out;
};

struct PreprocessTask {
  Address frame;
  Address lungs;    // a Box (a LungRecord begins with one); 0: no segmenter, all members use the full frame
  Address scratch;  // 4 sums per window (plain, plain squared, median, median squared), then pixels
  int windows;
  int tensors;
  Window window[kMaxTensors];
  Tensor tensor[kMaxTensors];
};

// Plans the preprocessing tasks of a bundle's members.
class DevicePreprocessor {
 public:
  // Throws std::invalid_argument for an invalid spec, or one with more than 3 channels.
  explicit DevicePreprocessor(const std::vector<Spec>& specs);

  size_t scratch_bytes() const { return scratch_bytes_; }

  // outputs: one address per spec. lungs: 0 without a segmenter.
  std::vector<PreprocessTask> tasks(Address frame, Address lungs, Address scratch,
                                    const std::vector<Address>& outputs) const;

 private:
  size_t specs_;
  size_t scratch_bytes_ = 0;
  std::vector<PreprocessTask> plans_;
};

// Runs kernels in a host loop. seed: order of the blocks and of the threads of a block, 0 for ascending; a result that
// depends on it reveals a race.
class Emulated {
 public:
  explicit Emulated(uint32_t seed) : seed_(seed) {}
  void run(const PreprocessTask& task);
  void run(const LungTask& task);
  void run(const CombineTask& task);

 private:
  uint32_t seed_;
};

// Launches kernels on a stream of the current context. Throws std::runtime_error if a launch fails.
class Cuda {
 public:
  explicit Cuda(Stream stream) : stream_(stream) {}
  void run(const PreprocessTask& task);
  void run(const LungTask& task);
  void run(const CombineTask& task);

 private:
  Stream stream_;
};

// Compute capabilities with machine code in this build, such as 75 and 87; empty without CUDA.
std::vector<int> cuda_architectures();

// A point in a stream, to wait for and to time. All members throw std::runtime_error on failure.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  // in_graph: record it as a node of the graph being captured, so that it is passed whenever the graph runs.
  void record(Stream stream, bool in_graph);
  // Makes later work in `stream` wait for this event.
  void make_wait(Stream stream) const;
  double ms_since(const Event& start) const;

 private:
  Address handle_ = 0;  // a cudaEvent_t
};

// Work captured from a stream, for repeated launches.
class Graph {
 public:
  explicit Graph(Address handle) : handle_(handle) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch(Stream stream) const;

 private:
  Address handle_;  // a cudaGraphExec_t
};

// Capture in thread-local mode. Both throw std::runtime_error on failure; a failed end leaves the stream usable.
void begin_capture(Stream stream);
std::unique_ptr<Graph> end_capture(Stream stream);

}  // namespace cxr

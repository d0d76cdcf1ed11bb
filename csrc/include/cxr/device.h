// The same steps as preprocess.h, lung_box.h and combine.h on a GPU's memory and the caller's stream: no allocation, no
// synchronisation, so that all of it can be captured into one CUDA graph. Addresses are the device's.
// Every step exists twice behind one contract: `Emulated` runs the kernels' blocks in a host loop on host memory, which
// is how machines without a GPU test them; `Cuda` launches them. A build without CUDA has the same symbols, which
// throw.
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

// An image on the device is one piece of memory: this header, then from kFrameHeaderBytes on the rows, each padded to a
// multiple of kRowAlignment bytes. The kernels read the size from there and their grids do not depend on it, so one
// captured graph serves images of all sizes.
struct FrameHeader {
  int32_t width;
  int32_t height;
  int32_t row_bytes;
  int32_t bytes_per_pixel;  // 1 or 2
};
constexpr size_t kFrameHeaderBytes = 256;
constexpr int kRowAlignment = 16;

// What the lung box kernel leaves on the device: the box that members see (the whole frame if the found one is not
// believed), the one that was found, and the verdict.
struct LungRecord {
  Box seen;
  Box found;
  LungVerdict verdict;
};

// One mask (rows x columns floats) of the image at `frame` to a LungRecord.
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

// One image's logits to probabilities (labels) floats and the winner, an int32.
struct CombineTask {
  CombineView view;  // of parameters on the device
  Address logits;    // member m's logits at m * member_stride floats
  int member_stride;
  Address scratch;  // combine_scratch_bytes(view)
  Address probabilities;
  Address winner;
};
size_t combine_scratch_bytes(const CombineView& view);

constexpr int kMaxTensors = 16;  // of one launch; more members take more launches

// One distinct canvas of a launch, shared by the members that agree on it; its pixels are kept as uint16.
struct Window {
  int lungs;
  int canvas_px;
  int crop_px;
  int plain_statistics;  // 1 if a tensor is standardised by this window's own values; with a median, the filtered ones
  int median;            // 1 if a tensor wants the filtered pixels
  int median_statistics;
  uint64_t pixels;  // offsets into the scratch memory
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
  Address lungs;    // a Box (a LungRecord begins with one); 0: no segmenter, all see the whole frame
  Address scratch;  // 4 sums a window (plain, plain squared, median, median squared), then pixels
  int windows;
  int tensors;
  Window window[kMaxTensors];
  Tensor tensor[kMaxTensors];
};

// The tasks of a bundle's members, planned once.
class DevicePreprocessor {
 public:
  // Throws std::invalid_argument for a spec that cannot be run, or one with more than 3 channels.
  explicit DevicePreprocessor(const std::vector<Spec>& specs);

  size_t scratch_bytes() const { return scratch_bytes_; }

  // outputs: one address a spec. lungs 0: none.
  std::vector<PreprocessTask> tasks(Address frame, Address lungs, Address scratch,
                                    const std::vector<Address>& outputs) const;

 private:
  size_t specs_;
  size_t scratch_bytes_ = 0;
  std::vector<PreprocessTask> plans_;
};

// Runs kernels in a host loop. seed: of the order of blocks and of the threads of a block, 0 for ascending; a result
// that depends on it shows a race.
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

// Compute capabilities that this build has machine code for, such as 75 and 87; empty without CUDA.
std::vector<int> cuda_architectures();

// A point in a stream that can be waited for and timed. All members throw std::runtime_error on failure.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  // in_graph: as a node of the graph that the stream is being captured into, so that it is passed when the graph runs.
  void record(Stream stream, bool in_graph);
  // What comes next in the stream waits for this event.
  void hold(Stream stream) const;
  double ms_since(const Event& start) const;

 private:
  Address handle_ = 0;  // a cudaEvent_t
};

// Work captured from a stream, ready to run again and again.
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

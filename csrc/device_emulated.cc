// Kernels in a host loop: one block after the other and, within a phase, one thread after the other, in a seeded order.
#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "combine_kernels.h"
#include "cxr/device.h"
#include "lung_box_kernel.h"
#include "preprocess_kernels.h"

namespace cxr {
namespace {

class HostLoop {
 public:
  explicit HostLoop(uint32_t seed) : seed_(seed), random_(seed) {}

  void zero(Address address, size_t bytes) { std::memset(at<void>(address), 0, bytes); }

  template <typename Kernel>
  void launch(const Kernel& kernel, Grid grid) {
    const std::vector<int> blocks = order(grid.x * grid.y * grid.z);
    const std::vector<int> threads = order(Kernel::kThreads);
    auto shared = std::make_unique<typename Kernel::Shared>();
    for (const int b : blocks) {
      std::memset(static_cast<void*>(shared.get()), 0xA5, sizeof *shared);  // uninitialised on a GPU
      kernel(ThreadBlock{Kernel::kThreads, threads.data()}, *shared,
             {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y});
    }
  }

 private:
  std::vector<int> order(int n) {
    std::vector<int> numbers(static_cast<size_t>(n));
    std::iota(numbers.begin(), numbers.end(), 0);
    if (seed_ != 0) std::shuffle(numbers.begin(), numbers.end(), random_);
    return numbers;
  }

  uint32_t seed_;
  std::mt19937 random_;
};

template <typename Task>
void run_all(const Task& task, uint32_t seed) {
  HostLoop loop(seed);
  launch_all(task, loop);
}

}  // namespace

void Emulated::run(const PreprocessTask& task) { run_all(task, seed_); }
void Emulated::run(const LungTask& task) { run_all(task, seed_); }
void Emulated::run(const CombineTask& task) { run_all(task, seed_); }

}  // namespace cxr

// A fixed set of threads that share the items of one job; the caller works too. In: how many items and what to do with
// one; out: nothing until all are done. It exists because starting threads costs more than preprocessing an image.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace cxr {

class ThreadPool {
 public:
  // threads counts the caller: 1 starts none.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls work(item, worker) for every item in 0..items-1, worker in 0..threads-1, no two at once with the same worker.
  // A second caller meanwhile does its items alone, as worker 0. work must not throw.
  void run(int items, const std::function<void(int, int)>& work);

 private:
  void serve(int worker);
  void take_items(int worker);

  std::mutex busy_;  // held by the caller whose job the workers do
  std::mutex state_;
  std::condition_variable wake_;
  std::condition_variable done_;
  const std::function<void(int, int)>* work_ = nullptr;
  int items_ = 0;
  int next_ = 0;
  int pending_ = 0;
  uint64_t job_ = 0;
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace cxr

// Fixed set of threads that share the items of one job with the calling thread. In: the number of items and a function
// per item; `run` returns when all are done. It exists because starting threads costs more than preprocessing an image.
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

  // Calls work(item, worker) for every item in 0..items-1, with worker in 0..threads-1, never two at once with the same
  // worker. While it runs, a second caller processes all of its items itself, as worker 0. work must not throw.
  void run(int items, const std::function<void(int, int)>& work);

 private:
  void serve(int worker);
  void take_items(int worker);

  std::mutex busy_;  // locked by the caller whose job the workers run
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

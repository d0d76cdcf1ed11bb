#include "cxr/thread_pool.h"

namespace cxr {

ThreadPool::ThreadPool(int threads) {
  for (int worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this, worker] { serve(worker); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(state_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::run(int items, const std::function<void(int, int)>& work) {
  std::unique_lock<std::mutex> owner(busy_, std::defer_lock);
  if (items < 2 || workers_.empty() || !owner.try_lock()) {
    for (int item = 0; item < items; ++item) work(item, 0);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(state_);
    work_ = &work;
    items_ = items;
    next_ = 0;
    pending_ = items;
    ++job_;
  }
  wake_.notify_all();
  take_items(0);
  std::unique_lock<std::mutex> lock(state_);
  done_.wait(lock, [this] { return pending_ == 0; });
  work_ = nullptr;
}

void ThreadPool::take_items(int worker) {
  std::unique_lock<std::mutex> lock(state_);
  while (work_ != nullptr && next_ < items_) {
    const int item = next_++;
    const auto* work = work_;
    lock.unlock();
    (*work)(item, worker);
    lock.lock();
    if (--pending_ == 0) done_.notify_all();
  }
}

void ThreadPool::serve(int worker) {
  uint64_t last_job = 0;
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(state_);
      wake_.wait(lock, [&] { return stop_ || job_ != last_job; });
      if (stop_) return;
      last_job = job_;
    }
    take_items(worker);
  }
}

}  // namespace cxr

// Items handed out one by one to threads that live as long as the call.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace backlight {

// Calls work(next) on `threads` threads, the caller's among them; next() gives an item, or -1 when
// none are left. The first exception is thrown again once all threads have ended.
template <class Work>
void parallel(long long items, int threads, Work work) {
  std::atomic<long long> counter{0};
  std::exception_ptr error;
  std::mutex guard;
  auto next = [&]() -> long long {
    const long long item = counter.fetch_add(1, std::memory_order_relaxed);
    return item < items ? item : -1;
  };
  auto run = [&] {
    try {
      work(next);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!error) error = std::current_exception();
      counter = items;
    }
  };
  std::vector<std::thread> team;
  if (threads > items) threads = static_cast<int>(items);
  team.reserve(threads > 1 ? threads - 1 : 0);
  try {
    for (int t = 1; t < threads; ++t) team.emplace_back(run);
  } catch (const std::system_error&) {
    // No more threads to be had: those that started share the work.
  }
  run();
  for (std::thread& t : team) t.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace backlight

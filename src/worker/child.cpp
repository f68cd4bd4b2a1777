// See child.hpp.
#include "worker/child.hpp"

#include "pg/boundary.hpp"

namespace seal_sync::worker {

namespace {
constexpr int64 kFirstPauseMs = 1000;
constexpr int64 kLongestPauseMs = 30000;
constexpr int64 kHealthyUs = 60 * 1000000; // who ran that long starts afresh
} // namespace

void Child::ended() noexcept {
  seen_ = false;
  const int64 now = pg::monotonic_us();
  if (now - started_us_ >= kHealthyUs)
    backoff_.succeed();
  not_before_us_ = now + backoff_.fail(kFirstPauseMs, kLongestPauseMs) * 1000;
}

bool Child::running(bool in_slot) {
  if (handle_ != nullptr) {
    pid_t pid = 0;
    const BgwHandleStatus status = pg::call([&] { return GetBackgroundWorkerPid(handle_, &pid); });
    if (status == BGWH_STARTED || status == BGWH_NOT_YET_STARTED) {
      seen_ = true;
      return true;
    }
    pfree(handle_);
    handle_ = nullptr;
  }
  if (in_slot) { // a child of our predecessor
    if (!seen_)
      started_us_ = pg::monotonic_us();
    seen_ = true;
    return true;
  }
  if (seen_)
    ended();
  return false;
}

bool Child::launch(const Launch &what) {
  const bool launched = pg::call([&] {
    BackgroundWorker worker;
    memset(&worker, 0, sizeof worker);
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    strlcpy(worker.bgw_library_name, "seal_sync", sizeof worker.bgw_library_name);
    strlcpy(worker.bgw_function_name, what.function, sizeof worker.bgw_function_name);
    strlcpy(worker.bgw_name, what.name, sizeof worker.bgw_name);
    strlcpy(worker.bgw_type, what.type, sizeof worker.bgw_type);
    worker.bgw_main_arg = ObjectIdGetDatum(what.database);
    if (what.extra != nullptr)
      memcpy(worker.bgw_extra, what.extra, what.extra_size);
    worker.bgw_notify_pid = MyProcPid; // sets our latch when it starts and when it ends
    const MemoryContext before = MemoryContextSwitchTo(TopMemoryContext);
    const bool fine = RegisterDynamicBackgroundWorker(&worker, &handle_);
    MemoryContextSwitchTo(before);
    return fine;
  });
  started_us_ = pg::monotonic_us();
  seen_ = launched;
  if (!launched) {
    handle_ = nullptr;
    ended();
    if (backoff_.failures() == 1)
      pg::call([&] {
        ereport(WARNING, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                errmsg("could not start %s: no free slot for a background worker", what.name),
                errhint("Raise max_worker_processes: seal_sync needs one, one more for each database, and "
                        "one more for each route."));
      });
  }
  return launched;
}

} // namespace seal_sync::worker

// See roster.hpp.
#include "worker/roster.hpp"

#include <csignal>

namespace seal_sync::worker {

namespace {

class Locked {
public:
  explicit Locked(LWLockMode mode) noexcept { LWLockAcquire(pg::shared_lock(), mode); }
  // Nothing between acquire and release raises; an error would release all locks anyway.
  ~Locked() { LWLockRelease(pg::shared_lock()); }
  Locked(const Locked &) = delete;
  Locked &operator=(const Locked &) = delete;
};

extern "C" void leave_database(int, Datum database) {
  {
    const Locked lock(LW_EXCLUSIVE);
    pg::DatabaseSlot *slot = pg::database_slot(DatumGetObjectId(database), false);
    if (slot == nullptr || slot->worker_pid != MyProcPid)
      return;
    slot->worker_pid = 0;
    slot->worker_latch = nullptr;
  }
  pg::wake_launcher();
}

extern "C" void leave_route(int, Datum index) {
  pg::RouteSlot *slot = &pg::route_slots()[DatumGetInt32(index)];
  const Locked lock(LW_EXCLUSIVE);
  if (slot->pid != MyProcPid) // somebody else's: the idle flag is his, too
    return;
  pg::leave_idle(slot);
  slot->pid = 0;
  slot->latch = nullptr;
  slot->connected_since = 0;
  const pg::DatabaseSlot *parent = pg::database_slot(slot->database, false);
  if (parent != nullptr && parent->worker_latch != nullptr)
    SetLatch(parent->worker_latch);
}

} // namespace

bool attach_database_worker(Oid database) {
  before_shmem_exit(leave_database, ObjectIdGetDatum(database)); // before there is something to leave
  const Locked lock(LW_EXCLUSIVE);
  pg::DatabaseSlot *slot = pg::database_slot(database, true);
  if (slot == nullptr || slot->blockers > 0 || slot->unwanted || slot->worker_pid != 0)
    return false;
  slot->worker_pid = MyProcPid;
  slot->worker_latch = MyLatch;
  slot->ready = slot->look_again = slot->absent = false;
  return true;
}

void report_extension(Oid database, bool present) {
  const Locked lock(LW_EXCLUSIVE);
  pg::DatabaseSlot *slot = pg::database_slot(database, false);
  if (slot == nullptr)
    return;
  slot->ready = present;
  slot->absent = !present && !slot->look_again;
}

pg::RouteSlot *attach_route_worker(const RouteKey &key) {
  pg::RouteSlot *found = nullptr;
  {
    const Locked lock(LW_EXCLUSIVE);
    const pg::DatabaseSlot *database = pg::database_slot(key.database, false);
    pg::RouteSlot *slot = pg::route_slot(key.database, NameStr(key.peer), false);
    if (slot != nullptr && slot->pid == 0 && database != nullptr && database->blockers == 0 &&
        !database->unwanted)
      found = slot;
  }
  if (found == nullptr)
    return nullptr;
  before_shmem_exit(leave_route, Int32GetDatum(static_cast<int32>(found - pg::route_slots())));
  const Locked lock(LW_EXCLUSIVE);
  const pg::DatabaseSlot *database = pg::database_slot(key.database, false);
  if (!found->used || found->database != key.database ||
      strcmp(NameStr(found->peer), NameStr(key.peer)) != 0 || found->pid != 0 || database == nullptr ||
      database->blockers > 0 || database->unwanted)
    return nullptr;
  found->pid = MyProcPid;
  found->latch = MyLatch;
  return found;
}

void set_up_signals() {
  // die(), not a flag of our own: it also ends lock waits inside the server.
  pqsignal(SIGTERM, die);
  pqsignal(SIGHUP, SignalHandlerForConfigReload);
  BackgroundWorkerUnblockSignals();
}

void pin_session() {
  constexpr struct {
    const char *name;
    const char *value;
  } pins[] = {{"search_path", ""},
              {"synchronous_commit", "off"}, // what must be durable says so: ForceSyncCommit()
              {"default_transaction_isolation", "read committed"},
              {"default_transaction_read_only", "off"},
              {"default_transaction_deferrable", "off"},
              {"lock_timeout", "0"},
              {"statement_timeout", "0"},
              {"idle_in_transaction_session_timeout", "0"},
              {"transaction_timeout", "0"}}; // from PostgreSQL 17 on
  for (const auto &pin : pins)
    if (GetConfigOption(pin.name, true, false) != nullptr)
      SetConfigOption(pin.name, pin.value, PGC_SUSET, PGC_S_OVERRIDE);
}

void terminate_workers(Oid database) {
  const Locked lock(LW_SHARED);
  const pg::DatabaseSlot *slot = pg::database_slot(database, false);
  if (slot != nullptr && slot->worker_pid != 0)
    kill(slot->worker_pid, SIGTERM);
  for (int i = 0; i < pg::kMaxRoutes; i++) {
    const pg::RouteSlot &route = pg::route_slots()[i];
    if (route.used && route.database == database && route.pid != 0)
      kill(route.pid, SIGTERM);
  }
}

bool has_workers(Oid database) {
  const Locked lock(LW_SHARED);
  const pg::DatabaseSlot *slot = pg::database_slot(database, false);
  bool any = slot != nullptr && slot->worker_pid != 0;
  for (int i = 0; i < pg::kMaxRoutes; i++) {
    const pg::RouteSlot &route = pg::route_slots()[i];
    any = any || (route.used && route.database == database && route.pid != 0);
  }
  return any;
}

void block_database(Oid database) {
  const Locked lock(LW_EXCLUSIVE);
  if (pg::DatabaseSlot *slot = pg::database_slot(database, true))
    slot->blockers++;
}

void unblock_database(Oid database) {
  {
    const Locked lock(LW_EXCLUSIVE);
    pg::DatabaseSlot *slot = pg::database_slot(database, false);
    if (slot != nullptr && slot->blockers > 0)
      slot->blockers--;
  }
  pg::wake_launcher();
}

} // namespace seal_sync::worker

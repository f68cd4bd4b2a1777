// See shared_state.hpp.
//
// One fixed block and one hash table, both made at server start. Two locks: the first for slots, the
// second for per-table counters, so that a busy counter never stands in the way of status or steering.
#include "pg/shared_state.hpp"

#include "pg/guc.hpp"

namespace seal_sync::pg {

namespace {

struct Shared {
  LWLock *lock;
  LWLock *stat_lock;
  pid_t launcher_pid;
  Latch *launcher_latch;
  int look_at_count; // more than kMaxLookAt: look at all
  Oid look_at[kMaxLookAt];
  DatabaseSlot databases[kMaxDatabases];
  RouteSlot routes[kMaxRoutes];
  pg_atomic_uint32 idle[kMaxRoutes]; // beside the slots: committers read these and nothing else
  OriginSlot origins[kMaxRoutes];
};

Shared *shared = nullptr;
HTAB *table_stats = nullptr;
DatabaseSlot *my_slot = nullptr; // cached; valid while it still names our database

shmem_request_hook_type previous_request = nullptr;
shmem_startup_hook_type previous_startup = nullptr;

extern "C" void request_shared_memory() {
  if (previous_request != nullptr)
    previous_request();
  RequestAddinShmemSpace(
      add_size(MAXALIGN(sizeof(Shared)), hash_estimate_size(kMaxTableStats, sizeof(TableStat))));
  RequestNamedLWLockTranche("seal_sync", 2);
}

extern "C" void start_shared_memory() {
  if (previous_startup != nullptr)
    previous_startup();
  LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
  bool found = false;
  shared = static_cast<Shared *>(ShmemInitStruct("seal_sync", sizeof(Shared), &found));
  if (!found) {
    memset(static_cast<void *>(shared), 0, sizeof(Shared));
    LWLockPadded *locks = GetNamedLWLockTranche("seal_sync");
    shared->lock = &locks[0].lock;
    shared->stat_lock = &locks[1].lock;
    for (DatabaseSlot &slot : shared->databases) {
      pg_atomic_init_u32(&slot.segment, 0);
      pg_atomic_init_u32(&slot.history, 0);
      pg_atomic_init_u64(&slot.committed, 0);
      pg_atomic_init_u32(&slot.idle_routes, 0);
      pg_atomic_init_u64(&slot.rules, 0);
    }
    for (pg_atomic_uint32 &idle : shared->idle)
      pg_atomic_init_u32(&idle, 0);
  }
  HASHCTL control = {};
  control.keysize = sizeof(TableStatKey);
  control.entrysize = sizeof(TableStat);
  table_stats = ShmemInitHash("seal_sync table counters", kMaxTableStats, kMaxTableStats, &control,
                              HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
  LWLockRelease(AddinShmemInitLock);
}

TableStatKey stat_key(Oid database, Oid relation, const char *peer) {
  TableStatKey key = {}; // compared as bytes: no byte undefined
  key.database = database;
  key.relation = relation;
  if (peer != nullptr)
    namestrcpy(&key.peer, peer);
  return key;
}

/// Slots are asked for with and without the lock; whoever makes one gets it here if he has not got it.
class SlotLock {
public:
  SlotLock() noexcept : mine_(!LWLockHeldByMe(shared->lock)) {
    if (mine_)
      LWLockAcquire(shared->lock, LW_EXCLUSIVE);
  }
  void release() noexcept {
    if (mine_)
      LWLockRelease(shared->lock);
  }

private:
  bool mine_;
};

template <typename Drop> void drop_table_stats(Oid database, Drop drop) {
  HASH_SEQ_STATUS scan;
  hash_seq_init(&scan, table_stats);
  while (auto *stat = static_cast<TableStat *>(hash_seq_search(&scan)))
    if (stat->key.database == database && drop(*stat))
      hash_search(table_stats, &stat->key, HASH_REMOVE, nullptr);
}

} // namespace

static_assert(sizeof(TableStatKey) == 2 * sizeof(Oid) + sizeof(NameData), "hashed as bytes");

const char *to_text(RouteState state) {
  switch (state) {
  case RouteState::kStarting:
    return "starting";
  case RouteState::kCatchup:
    return "catchup";
  case RouteState::kStreaming:
    return "streaming";
  case RouteState::kWaitingPeer:
    return "waiting_peer";
  case RouteState::kPaused:
    return "paused";
  case RouteState::kRetrying:
    return "retrying";
  case RouteState::kHalted:
    return "halted";
  case RouteState::kStopped:
    return "stopped";
  }
  return "unknown";
}

void init_shared_state() {
  previous_request = shmem_request_hook;
  shmem_request_hook = request_shared_memory;
  previous_startup = shmem_startup_hook;
  shmem_startup_hook = start_shared_memory;
}

bool have_shared_state() { return shared != nullptr; }

LWLock *shared_lock() { return shared->lock; }
RouteSlot *route_slots() { return shared != nullptr ? shared->routes : nullptr; }
OriginSlot *origin_slots() { return shared != nullptr ? shared->origins : nullptr; }
DatabaseSlot *database_slots() { return shared != nullptr ? shared->databases : nullptr; }

DatabaseSlot *database_slot(Oid database, bool create) {
  if (shared == nullptr)
    return nullptr;
  DatabaseSlot *free_slot = nullptr;
  for (DatabaseSlot &slot : shared->databases) {
    if (slot.used && slot.database == database)
      return &slot;
    if (!slot.used && free_slot == nullptr)
      free_slot = &slot;
  }
  if (!create || free_slot == nullptr)
    return nullptr;
  // The atomics keep whatever they hold: a counter may start anywhere, and a committer that still
  // has the slot's former database in mind may be counting right now.
  pg_atomic_write_u32(&free_slot->segment, 0);
  pg_atomic_write_u32(&free_slot->history, 0);
  pg_atomic_write_u32(&free_slot->log_full, 0);
  free_slot->worker_pid = 0;
  free_slot->worker_latch = nullptr;
  free_slot->blockers = 0;
  free_slot->unwanted = false;
  free_slot->ready = false;
  free_slot->look_again = false;
  free_slot->absent = false;
  free_slot->database = database;
  free_slot->used = true;
  return free_slot;
}

bool no_room_for_database(Oid database) {
  for (const DatabaseSlot &slot : shared->databases)
    if (!slot.used || slot.database == database)
      return false;
  return true;
}

DatabaseSlot *my_database_slot() {
  if (shared == nullptr || !OidIsValid(MyDatabaseId))
    return nullptr;
  if (my_slot != nullptr && my_slot->used && my_slot->database == MyDatabaseId)
    return my_slot;
  LWLockAcquire(shared->lock, LW_EXCLUSIVE);
  my_slot = database_slot(MyDatabaseId, true);
  LWLockRelease(shared->lock);
  return my_slot;
}

/// The slot of this database with that name, found or made; init() fills a new one beyond its key. Held
/// under the lock throughout.
template <typename Slot, int N, typename Init>
static Slot *named_slot(Slot (&slots)[N], NameData Slot::*name, Oid database, const char *wanted, bool create,
                        Init init) {
  SlotLock lock;
  Slot *found = nullptr;
  Slot *free_slot = nullptr;
  for (Slot &slot : slots) {
    if (slot.used && slot.database == database && strcmp(NameStr(slot.*name), wanted) == 0)
      found = &slot;
    else if (!slot.used && free_slot == nullptr)
      free_slot = &slot;
  }
  if (found == nullptr && create && free_slot != nullptr) {
    found = free_slot;
    *found = {};
    found->database = database;
    namestrcpy(&(found->*name), wanted);
    init(found);
    found->used = true;
  }
  lock.release();
  return found;
}

RouteSlot *route_slot(Oid database, const char *peer, bool create) {
  if (shared == nullptr)
    return nullptr;
  return named_slot(shared->routes, &RouteSlot::peer, database, peer, create, [](RouteSlot *slot) {
    slot->state = RouteState::kStopped;
    slot->state_since = slot->stats_reset = GetCurrentTimestamp();
  });
}

OriginSlot *origin_slot(Oid database, const char *node, bool create) {
  if (shared == nullptr)
    return nullptr;
  return named_slot(shared->origins, &OriginSlot::node, database, node, create, [](OriginSlot *) {});
}

void forget_route(RouteSlot *slot) {
  const Oid database = slot->database;
  const NameData peer = slot->peer;
  leave_idle(slot);
  slot->used = false;
  LWLockAcquire(shared->stat_lock, LW_EXCLUSIVE);
  drop_table_stats(database, [&](const TableStat &stat) {
    return strcmp(NameStr(stat.key.peer), NameStr(peer)) == 0;
  });
  LWLockRelease(shared->stat_lock);
}

void forget_database(Oid database) {
  for (RouteSlot &slot : shared->routes)
    if (slot.used && slot.database == database) {
      leave_idle(&slot);
      slot.used = false;
    }
  for (OriginSlot &slot : shared->origins)
    if (slot.used && slot.database == database)
      slot.used = false;
  if (DatabaseSlot *slot = database_slot(database, false))
    slot->used = false;
  LWLockAcquire(shared->stat_lock, LW_EXCLUSIVE);
  drop_table_stats(database, [](const TableStat &) { return true; });
  LWLockRelease(shared->stat_lock);
}

int connected_routes() noexcept {
  int count = 0;
  if (shared != nullptr)
    for (const RouteSlot &slot : shared->routes)
      count += slot.used && slot.connected_since != 0;
  return count;
}

void add_table_stat(Oid relation, const char *peer, const TableStat &delta) {
  if (shared == nullptr)
    return;
  const TableStatKey key = stat_key(MyDatabaseId, relation, peer);
  LWLockAcquire(shared->stat_lock, LW_EXCLUSIVE);
  auto *stat = static_cast<TableStat *>(hash_search(table_stats, &key, HASH_FIND, nullptr));
  if (stat == nullptr && hash_get_num_entries(table_stats) < kMaxTableStats) {
    bool found = false;
    stat = static_cast<TableStat *>(hash_search(table_stats, &key, HASH_ENTER_NULL, &found));
    if (stat != nullptr) {
      *stat = {};
      stat->key = key;
      stat->stats_reset = GetCurrentTimestamp();
    }
  }
  if (stat != nullptr) {
    stat->captured_inserts += delta.captured_inserts;
    stat->captured_updates += delta.captured_updates;
    stat->captured_deletes += delta.captured_deletes;
    stat->captured_truncates += delta.captured_truncates;
    stat->keys_shipped += delta.keys_shipped;
    stat->bytes_shipped += delta.bytes_shipped;
    stat->keys_applied += delta.keys_applied;
    stat->guard_refused += delta.guard_refused;
    stat->guard_overridden += delta.guard_overridden;
  }
  LWLockRelease(shared->stat_lock);
}

TableStat *copy_table_stats(Oid database, int *count) {
  *count = 0;
  if (shared == nullptr)
    return nullptr;
  // Room for all, taken before the lock: no allocation may fail under it.
  auto *copy = static_cast<TableStat *>(palloc(sizeof(TableStat) * kMaxTableStats));
  LWLockAcquire(shared->stat_lock, LW_SHARED);
  HASH_SEQ_STATUS scan;
  hash_seq_init(&scan, table_stats);
  while (const auto *stat = static_cast<const TableStat *>(hash_seq_search(&scan)))
    if (stat->key.database == database && *count < kMaxTableStats)
      copy[(*count)++] = *stat;
  LWLockRelease(shared->stat_lock);
  return copy;
}

void reset_stats(Oid database) {
  if (shared == nullptr)
    return;
  const TimestampTz now = GetCurrentTimestamp();
  LWLockAcquire(shared->lock, LW_EXCLUSIVE);
  for (RouteSlot &slot : shared->routes)
    if (slot.used && slot.database == database) {
      slot.batches = slot.empty_scans = slot.keys = slot.upserts = slot.deletes = 0;
      slot.bytes_raw = slot.bytes_wire = slot.connects = slot.connect_failures = 0;
      slot.scan_ms = slot.read_ms = slot.encode_ms = slot.send_ms = slot.apply_ms = slot.commit_ms = slot.idle_ms = 0;
      slot.max_batch_ms = 0;
      slot.stats_reset = now;
    }
  LWLockRelease(shared->lock);
  LWLockAcquire(shared->stat_lock, LW_EXCLUSIVE);
  drop_table_stats(database, [](const TableStat &) { return true; });
  LWLockRelease(shared->stat_lock);
}

// ---- wake-ups -----------------------------------------------------------------------------------

void wake_routes() {
  if (!guc::wake_on_commit)
    return;
  DatabaseSlot *slot = my_database_slot();
  if (slot == nullptr)
    return;
  pg_atomic_fetch_add_u64(&slot->committed, 1); // a full barrier, see the header
  if (pg_atomic_read_u32(&slot->idle_routes) == 0)
    return;
  for (int i = 0; i < kMaxRoutes; i++) {
    if (pg_atomic_read_u32(&shared->idle[i]) == 0 || shared->routes[i].database != MyDatabaseId)
      continue;
    // Only one committer pays for the signal.
    if (pg_atomic_exchange_u32(&shared->idle[i], 0) == 1) {
      pg_atomic_fetch_sub_u32(&slot->idle_routes, 1);
      if (Latch *latch = shared->routes[i].latch)
        SetLatch(latch);
    }
  }
}

uint64 committed_count() {
  DatabaseSlot *slot = my_database_slot();
  return slot != nullptr ? pg_atomic_read_u64(&slot->committed) : 0;
}

uint64 rules_count() {
  DatabaseSlot *slot = my_database_slot();
  return slot != nullptr ? pg_atomic_read_u64(&slot->rules) : 0;
}

void enter_idle(RouteSlot *slot) {
  DatabaseSlot *database = my_database_slot();
  if (database == nullptr)
    return;
  // Counted before the flag is up, or a committer could take the count below zero.
  pg_atomic_fetch_add_u32(&database->idle_routes, 1);
  if (pg_atomic_exchange_u32(&shared->idle[slot - shared->routes], 1) == 1)
    pg_atomic_fetch_sub_u32(&database->idle_routes, 1);
}

void leave_idle(RouteSlot *slot) {
  if (pg_atomic_exchange_u32(&shared->idle[slot - shared->routes], 0) == 0)
    return;
  if (DatabaseSlot *database = database_slot(slot->database, false))
    pg_atomic_fetch_sub_u32(&database->idle_routes, 1);
}

uint64 request_sync(Oid database, const char *peer) {
  if (shared == nullptr)
    return 0;
  uint64 number = 0;
  LWLockAcquire(shared->lock, LW_EXCLUSIVE);
  if (RouteSlot *slot = route_slot(database, peer, false)) {
    number = ++slot->sync_requested;
    if (slot->latch != nullptr)
      SetLatch(slot->latch);
  }
  LWLockRelease(shared->lock);
  return number;
}

void wake_launcher() {
  if (shared == nullptr)
    return;
  LWLockAcquire(shared->lock, LW_SHARED);
  if (shared->launcher_latch != nullptr)
    SetLatch(shared->launcher_latch);
  LWLockRelease(shared->lock);
}

void wake_database(Oid database) {
  if (shared == nullptr)
    return;
  LWLockAcquire(shared->lock, LW_EXCLUSIVE);
  DatabaseSlot *slot = database_slot(database, false);
  if (slot != nullptr)
    pg_atomic_fetch_add_u64(&slot->rules, 1);
  if (slot != nullptr && slot->worker_pid != 0 && !slot->ready) {
    // It may have looked before this commit: its verdict would be out of date.
    slot->look_again = true;
  } else if (slot != nullptr && slot->worker_pid != 0) {
    SetLatch(slot->worker_latch);
    // Paused, resumed, halted by SQL: the routes read that themselves.
    for (const RouteSlot &route : shared->routes)
      if (route.used && route.database == database && route.latch != nullptr)
        SetLatch(route.latch);
  } else {
    bool known = shared->look_at_count > kMaxLookAt;
    for (int i = 0; i < shared->look_at_count && !known; i++)
      known = shared->look_at[i] == database;
    if (!known) {
      if (shared->look_at_count < kMaxLookAt)
        shared->look_at[shared->look_at_count] = database;
      shared->look_at_count++;
    }
    if (shared->launcher_latch != nullptr)
      SetLatch(shared->launcher_latch);
  }
  LWLockRelease(shared->lock);
}

void set_launcher(pid_t pid, Latch *latch) {
  LWLockAcquire(shared->lock, LW_EXCLUSIVE);
  shared->launcher_pid = pid;
  shared->launcher_latch = latch;
  LWLockRelease(shared->lock);
}

int take_look_at(Oid *databases) {
  LWLockAcquire(shared->lock, LW_EXCLUSIVE);
  const int count = shared->look_at_count;
  shared->look_at_count = 0;
  if (count <= kMaxLookAt)
    memcpy(databases, shared->look_at, sizeof(Oid) * static_cast<size_t>(count));
  LWLockRelease(shared->lock);
  return count <= kMaxLookAt ? count : -1;
}

} // namespace seal_sync::pg

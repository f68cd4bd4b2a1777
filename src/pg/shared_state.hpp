#pragma once
// Shared memory: one slot per database with the extension, one per route, counters per table.
//
// Exists only when the library is in shared_preload_libraries; every function here works without it
// (returns nullptr or does nothing), so that capture goes on and `health` can say what is missing.
// Fields without a comment on locking are written by their owner under `lock` and copied out whole.

#include "pg/postgres.hpp"

namespace seal_sync::pg {

inline constexpr int kMaxDatabases = 32;
inline constexpr int kMaxRoutes = 64;

enum class RouteState : int {
  kStarting = 0,
  kCatchup,
  kStreaming,
  kWaitingPeer,
  kPaused,
  kRetrying,
  kHalted,
  kStopped,
};
const char *to_text(RouteState state);

/// What status and stat_route show of one outgoing route. Owned by the route worker.
struct RouteSlot {
  bool used;
  Oid database;
  NameData peer;
  pid_t pid;            // of the route worker, 0: none
  uint64 launch;        // number of the last launch, tells a fast start-and-exit from a lost worker
  RouteState state;
  char state_reason[160];
  TimestampTz state_since;
  TimestampTz connected_since; // 0: not connected
  TimestampTz last_contact_at;
  TimestampTz oldest_pending_at; // first scan that saw the oldest unacknowledged change, 0: none
  int64 last_batch;
  int64 last_batch_keys;
  TimestampTz last_batch_at;
  TimestampTz complete_until; // everything committed here before is on the peer
  int32 retries;
  TimestampTz next_retry_at;
  TimestampTz last_error_at;
  char last_error_sqlstate[6];
  char last_error[256];
  char last_error_hint[160];
  char peer_version[32];
  int32 protocol;
  char tls[64];
  int64 clock_offset_us;
  int32 parked_tables;
  // counters, reset by stat_reset()
  int64 batches, empty_scans, keys, upserts, deletes, bytes_raw, bytes_wire, connects,
      connect_failures;
  double scan_ms, read_ms, send_ms, apply_ms, commit_ms, idle_ms;
  double last_scan_ms, last_read_ms, last_send_ms, last_apply_ms, last_commit_ms, max_batch_ms;
  TimestampTz stats_reset;
  // steering, written by SQL functions under `lock`, then the worker's latch is set
  uint64 sync_requested; // sync_now increments; the worker sets sync_done once a scan begun later is acknowledged
  uint64 sync_done;
};

/// What this node knows of one inbound origin. Owned by the apply session.
struct OriginSlot {
  bool used;
  Oid database;
  NameData node;
  pid_t pid; // of the apply session, 0: not connected
  TimestampTz connected_since;
  TimestampTz last_contact_at;
  TimestampTz complete_until; // from batches and heartbeats
  int64 last_batch;
  int64 last_batch_rows;
  TimestampTz last_batch_at;
  TimestampTz last_error_at;
  char last_error_sqlstate[6];
  char last_error[256];
  char version[32];
};

struct DatabaseSlot {
  bool used;
  Oid database;
  pid_t worker_pid;
  pg_atomic_uint32 segment;   // change log segment that writers should take (a hint)
  pg_atomic_uint32 history;   // route_history table that route workers should take (a hint)
  pg_atomic_uint64 committed; // rises at each commit that wrote to the log
  pg_atomic_uint32 idle_routes; // how many route workers wait for a wake-up
};

/// Key of per-table counters. peer is empty for what concerns no peer (capture, guard).
struct TableStatKey {
  Oid database;
  Oid relation;
  NameData peer;
};
struct TableStat {
  TableStatKey key;
  int64 captured_inserts, captured_updates, captured_deletes, captured_truncates;
  int64 keys_shipped, bytes_shipped, keys_applied, guard_refused, guard_overridden;
  TimestampTz stats_reset;
};

void init_shared_state(); // _PG_init, when preloaded
bool have_shared_state();

/// This database's slot, found or made; nullptr without shared memory or when all are taken.
DatabaseSlot *my_database_slot();

LWLock *shared_lock();
RouteSlot *route_slot(Oid database, const char *peer, bool create);
OriginSlot *origin_slot(Oid database, const char *node, bool create);
RouteSlot *route_slots();
OriginSlot *origin_slots();
DatabaseSlot *database_slots();

/// Adds to per-table counters; what is not named stays. Cheap, but not for per-row use.
void add_table_stat(Oid relation, const char *peer, const TableStat &delta);

/// Wakes this database's idle route workers. Never fails, safe in a commit callback; one relaxed
/// atomic read when nobody waits.
void wake_routes();

} // namespace seal_sync::pg

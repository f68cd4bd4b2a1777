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
inline constexpr int kMaxTableStats = 4096; // counters per table and peer; further tables are not counted

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
  Latch *latch;         // of the route worker; in shared memory for ever, at worst somebody else's
  RouteState state;
  char state_reason[160];
  TimestampTz state_since;
  TimestampTz connected_since; // 0: not connected
  TimestampTz last_contact_at;
  TimestampTz oldest_pending_at; // first scan that saw the oldest unacknowledged change, 0: none
  int64 last_batch;
  int64 last_batch_keys;
  double keys_per_second; // pending keys worked off while busy, see core/rate.hpp; 0: unknown
  double typical_batch;   // keys of a batch that this figure stands for
  // The batch under way, see core/rate.hpp
  int64 batch_keys; // 0: none
  int64 batch_done; // of these
  TimestampTz batch_since; // its snapshot
  double batch_left_us;    // as of batch_left_at; negative: unknown
  TimestampTz batch_left_at;
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
  char compression[16];
  int64 clock_offset_us;
  int32 parked_tables;
  // counters, reset by stat_reset()
  int64 batches, empty_scans, keys, upserts, deletes, bytes_raw, bytes_wire, connects,
      connect_failures;
  double scan_ms, read_ms, encode_ms, send_ms, apply_ms, commit_ms, idle_ms;
  double last_scan_ms, last_read_ms, last_encode_ms, last_send_ms, last_apply_ms, last_commit_ms, last_idle_ms;
  double max_batch_ms;
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
  Latch *worker_latch;
  int32 blockers; // commands that need the database free of workers (worker/ddl_hooks)
  bool unwanted;  // seal_sync.databases does not name it
  bool ready;      // the database worker has found the extension
  bool look_again; // something was committed while the database worker was looking for it
  bool absent;     // it found none, and nothing was committed meanwhile
  pg_atomic_uint32 segment;   // change log segment that writers should take (a hint)
  pg_atomic_uint32 log_full;  // nonzero: the change log has reached max_log_size
  pg_atomic_uint32 history;   // route_history table that route workers should take (a hint)
  pg_atomic_uint64 committed; // rises at each commit that wrote to the log
  pg_atomic_uint32 idle_routes; // how many route workers wait for a wake-up
  pg_atomic_uint64 rules; // rises at each commit that changed configuration or steering
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
/// Found or made; nullptr: none, or all taken. These two take the lock unless the caller holds it.
RouteSlot *route_slot(Oid database, const char *peer, bool create);
OriginSlot *origin_slot(Oid database, const char *node, bool create);
RouteSlot *route_slots();
OriginSlot *origin_slots();
DatabaseSlot *database_slots();

/// A database's slot; the caller holds shared_lock(), exclusively when `create`.
DatabaseSlot *database_slot(Oid database, bool create);
/// Whether that database has no slot and can get none. Lock held.
bool no_room_for_database(Oid database);
/// Gives up everything kept for a database that is gone, counters included. Lock held exclusively.
void forget_database(Oid database);
/// Gives up a route's slot, with its counters. Lock held exclusively.
void forget_route(RouteSlot *slot);

/// Adds to per-table counters; what is not named stays. Cheap, but not for per-row use.
void add_table_stat(Oid relation, const char *peer, const TableStat &delta);
/// A copy of all per-table counters of a database, in the current memory context.
TableStat *copy_table_stats(Oid database, int *count);
/// Zeroes the counters of a database: tables and routes.
void reset_stats(Oid database);

/// Wakes this database's idle route workers. Never fails, safe in a commit callback; no lock, and
/// without idle workers no more than two atomic accesses.
void wake_routes();

// Sleeping without losing a wake-up. The route worker reads committed_count() before it scans; to
// sleep it calls enter_idle(), then compares the count again, and only then waits. A committer counts
// first and looks for idle workers afterwards. Both steps are full barriers: one of the two sees the other.
uint64 committed_count();
uint64 rules_count();
void enter_idle(RouteSlot *slot);
void leave_idle(RouteSlot *slot);

/// Routes of this server, of all databases, that are connected. Read without a lock: a hint.
int connected_routes() noexcept;

/// Asks a route for a scan begun from now on. Returns the number that sync_done must reach, 0: no
/// such route. The lock is taken here.
uint64 request_sync(Oid database, const char *peer);

// ---- the launcher's mailbox ---------------------------------------------------------------------

/// Wakes the database worker of a database; without one, tells the launcher to look at it again.
/// Never fails, safe in a commit callback.
void wake_database(Oid database);
/// Wakes the launcher: the list of databases or a blocker has changed.
void wake_launcher();
void set_launcher(pid_t pid, Latch *latch); // nullptr: it leaves
/// Databases that were named since the last call; -1: too many, look at all. Launcher only.
inline constexpr int kMaxLookAt = 16;
int take_look_at(Oid *databases);

} // namespace seal_sync::pg

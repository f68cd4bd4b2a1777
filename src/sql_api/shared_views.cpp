// What shared memory knows, as rows: routes, origins, counters, the server. The views join it with
// the configuration. Everything is copied out under the lock first and made into rows after it.

#include "pg/boundary.hpp"
#include "pg/guc.hpp"
#include "pg/shared_state.hpp"
#include "scan/batch.hpp"

#include <cmath>

namespace seal_sync::sql_api {

namespace {

/// Collects the columns of one row from left to right.
struct RowWriter {
  ReturnSetInfo *info;
  Datum values[64];
  bool nulls[64];
  int used;

  explicit RowWriter(FunctionCallInfo fcinfo) : used(0) {
    InitMaterializedSRF(fcinfo, 0);
    info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  }
  void add(Datum value, bool null = false) {
    values[used] = value;
    nulls[used++] = null;
  }
  void null() { add(0, true); }
  void name(const NameData &value) { add(DirectFunctionCall1(namein, CStringGetDatum(NameStr(value)))); }
  void text(const char *value) {
    if (value[0] == '\0')
      null();
    else
      add(CStringGetTextDatum(value));
  }
  void integer(int32 value) { add(Int32GetDatum(value)); }
  void bigint(int64 value) { add(Int64GetDatum(value)); }
  void milliseconds(double value) { add(Float8GetDatum(std::round(value * 1000) / 1000)); }
  void boolean(bool value) { add(BoolGetDatum(value)); }
  void time(TimestampTz value) { add(TimestampTzGetDatum(value), value == 0); }
  void pid(pid_t value) { add(Int32GetDatum(static_cast<int32>(value)), value == 0); }
  void done() {
    Assert(used == info->setDesc->natts);
    tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
    used = 0;
  }
};

/// This database's slots of one kind, copied.
template <typename Slot> Slot *copy_slots(Slot *slots, int *count) {
  *count = 0;
  auto *copy = static_cast<Slot *>(palloc(sizeof(Slot) * pg::kMaxRoutes));
  LWLockAcquire(pg::shared_lock(), LW_SHARED);
  for (int i = 0; i < pg::kMaxRoutes; i++)
    if (slots[i].used && slots[i].database == MyDatabaseId)
      copy[(*count)++] = slots[i];
  LWLockRelease(pg::shared_lock());
  return copy;
}

Datum interval_of_us(int64 microseconds) {
  auto *interval = static_cast<Interval *>(palloc0(sizeof(Interval)));
  interval->time = microseconds;
  return IntervalPGetDatum(interval);
}

} // namespace

SEAL_SYNC_PG_FUNCTION(seal_sync_get_routes) {
  RowWriter row(fcinfo);
  if (!pg::have_shared_state())
    PG_RETURN_VOID();
  int count;
  const pg::RouteSlot *slots = copy_slots(pg::route_slots(), &count);
  for (const pg::RouteSlot *slot = slots; slot < slots + count; slot++) {
    row.name(slot->peer);
    row.pid(slot->pid);
    row.text(pg::to_text(slot->state));
    row.text(slot->state_reason);
    row.time(slot->state_since);
    row.time(slot->connected_since);
    row.time(slot->last_contact_at);
    row.time(slot->oldest_pending_at);
    row.bigint(slot->last_batch);
    row.bigint(slot->last_batch_keys);
    row.time(slot->last_batch_at);
    row.add(Float8GetDatum(std::round(slot->keys_per_second * 10) / 10), slot->keys_per_second == 0);
    row.time(slot->complete_until);
    row.integer(slot->parked_tables);
    row.integer(slot->retries);
    row.time(slot->next_retry_at);
    row.time(slot->last_error_at);
    row.text(slot->last_error_sqlstate);
    row.text(slot->last_error);
    row.text(slot->last_error_hint);
    row.text(slot->peer_version);
    row.add(Int32GetDatum(slot->protocol), slot->protocol == 0);
    row.text(slot->connected_since != 0 ? slot->tls : ""); // of the connection that is there
    row.text(slot->connected_since != 0 ? slot->compression : "");
    row.add(interval_of_us(slot->clock_offset_us), slot->connected_since == 0);
    row.bigint(slot->batches);
    row.bigint(slot->empty_scans);
    row.bigint(slot->keys);
    row.bigint(slot->upserts);
    row.bigint(slot->deletes);
    row.bigint(slot->bytes_raw);
    row.bigint(slot->bytes_wire);
    row.milliseconds(slot->scan_ms);
    row.milliseconds(slot->read_ms);
    row.milliseconds(slot->encode_ms);
    row.milliseconds(slot->send_ms);
    row.milliseconds(slot->apply_ms);
    row.milliseconds(slot->commit_ms);
    row.milliseconds(slot->idle_ms);
    row.milliseconds(slot->last_scan_ms);
    row.milliseconds(slot->last_read_ms);
    row.milliseconds(slot->last_encode_ms);
    row.milliseconds(slot->last_send_ms);
    row.milliseconds(slot->last_apply_ms);
    row.milliseconds(slot->last_commit_ms);
    row.milliseconds(slot->last_idle_ms);
    row.milliseconds(slot->max_batch_ms);
    row.bigint(slot->connects);
    row.bigint(slot->connect_failures);
    row.time(slot->stats_reset);
    row.done();
  }
  PG_RETURN_VOID();
}

/// How far each route's batch under way is; for eta.
SEAL_SYNC_PG_FUNCTION(seal_sync_get_progress) {
  RowWriter row(fcinfo);
  if (!pg::have_shared_state())
    PG_RETURN_VOID();
  int count;
  const pg::RouteSlot *slots = copy_slots(pg::route_slots(), &count);
  for (const pg::RouteSlot *slot = slots; slot < slots + count; slot++) {
    row.name(slot->peer);
    row.add(Int64GetDatum(slot->batch_keys), slot->batch_keys == 0);
    row.bigint(slot->batch_done);
    row.time(slot->batch_since);
    row.add(Float8GetDatum(slot->batch_left_us / 1e6), slot->batch_keys == 0 || slot->batch_left_us < 0);
    row.time(slot->batch_left_at);
    row.add(Float8GetDatum(slot->typical_batch));
    row.done();
  }
  PG_RETURN_VOID();
}

SEAL_SYNC_PG_FUNCTION(seal_sync_get_origins) {
  RowWriter row(fcinfo);
  if (!pg::have_shared_state())
    PG_RETURN_VOID();
  int count;
  const pg::OriginSlot *slots = copy_slots(pg::origin_slots(), &count);
  for (const pg::OriginSlot *slot = slots; slot < slots + count; slot++) {
    row.name(slot->node);
    row.pid(slot->pid);
    row.time(slot->connected_since);
    row.time(slot->last_contact_at);
    row.time(slot->complete_until);
    row.bigint(slot->last_batch);
    row.bigint(slot->last_batch_rows);
    row.time(slot->last_batch_at);
    row.time(slot->last_error_at);
    row.text(slot->last_error_sqlstate);
    row.text(slot->last_error);
    row.text(slot->version);
    row.done();
  }
  PG_RETURN_VOID();
}

SEAL_SYNC_PG_FUNCTION(seal_sync_get_table_counters) {
  RowWriter row(fcinfo);
  if (!pg::have_shared_state())
    PG_RETURN_VOID();
  int count;
  const pg::TableStat *stats = pg::copy_table_stats(MyDatabaseId, &count);
  for (const pg::TableStat *stat = stats; stat < stats + count; stat++) {
    row.add(ObjectIdGetDatum(stat->key.relation));
    row.name(stat->key.peer);
    row.bigint(stat->captured_inserts);
    row.bigint(stat->captured_updates);
    row.bigint(stat->captured_deletes);
    row.bigint(stat->captured_truncates);
    row.bigint(stat->keys_shipped);
    row.bigint(stat->bytes_shipped);
    row.bigint(stat->keys_applied);
    row.bigint(stat->guard_refused);
    row.bigint(stat->guard_overridden);
    row.time(stat->stats_reset);
    row.done();
  }
  PG_RETURN_VOID();
}

/// One row: (preloaded, worker_pid, enabled, guard, log_bytes, log_limit_bytes, max_worker_processes, max_databases, no_room).
SEAL_SYNC_PG_FUNCTION(seal_sync_get_server) {
  RowWriter row(fcinfo);
  pid_t worker = 0;
  bool full = false;
  if (pg::have_shared_state()) {
    LWLockAcquire(pg::shared_lock(), LW_SHARED);
    if (const pg::DatabaseSlot *slot = pg::database_slot(MyDatabaseId, false))
      worker = slot->worker_pid;
    full = pg::no_room_for_database(MyDatabaseId);
    LWLockRelease(pg::shared_lock());
  }
  constexpr const char *kGuards[] = {"refuse", "warn", "off"};
  row.boolean(pg::have_shared_state());
  row.pid(worker);
  row.boolean(guc::enabled);
  row.text(kGuards[guc::guard]);
  row.bigint(scan::log_bytes());
  row.add(Int64GetDatum(static_cast<int64>(guc::max_log_size) * 1024 * 1024), guc::max_log_size == 0);
  row.integer(max_worker_processes);
  row.integer(pg::kMaxDatabases);
  row.boolean(full);
  row.done();
  PG_RETURN_VOID();
}

SEAL_SYNC_PG_FUNCTION(seal_sync_stat_reset) {
  if (pg::have_shared_state())
    pg::reset_stats(MyDatabaseId);
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api

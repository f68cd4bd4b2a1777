// Emptying the change log and the route history.
//
// Called by the database worker. Nothing here waits for a lock: a writer may hold any segment to the
// end of its transaction, so a segment is taken only when nobody has it, and emptied only when a fresh
// look shows every row visible in the oldest position that any peer may still need (trap T21).
// TRUNCATE, not DELETE: deleting from a queue decays as soon as any snapshot is held.

#include "scan/rotation.hpp"

#include "capture/capture.hpp"
#include "config/config.hpp"
#include "config/event_log.hpp"
#include "pg/boundary.hpp"
#include "pg/guc.hpp"
#include "pg/shared_state.hpp"
#include "scan/copies.hpp"
#include "scan/history.hpp"

namespace seal_sync::scan {

namespace {

constexpr BlockNumber kHistoryWorthRotating = 64;
constexpr BlockNumber kFullSegmentBlocks = 64 * 1024 * 1024 / BLCKSZ;

/// What the last copy of a dirty table has put into the log, as long as that may still be there. Writers
/// are not held to a limit that such a copy has used up: what they change would be left out, the table be
/// marked anew and copied again, for ever.
int64 copied_bytes = 0;

int64 limit_bytes() { return static_cast<int64>(guc::max_log_size) * 1024 * 1024; }

/// Two positions of the route, and the oldest that a copy of a table started from, or would start from again.
constexpr int kOfEach = 3;

struct Needs {
  Position *positions; // kOfEach of each peer
  char **peers;        // positions[i] is of peers[i / kOfEach]
  int count;
  bool unknown; // some peer has no position at all: keep everything
};

Needs needs_of_all_peers(TimestampTz keep_since) {
  Needs needs{};
  const Relation rel = table_open(config::own_relation("peer"), AccessShareLock);
  const SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr);
  HeapTuple tuple;
  needs.positions = static_cast<Position *>(palloc0(sizeof(Position) * kOfEach * pg::kMaxRoutes));
  needs.peers = static_cast<char **>(palloc0(sizeof(char *) * pg::kMaxRoutes));
  while (HeapTupleIsValid(tuple = systable_getnext(scan))) {
    bool is_null;
    char *peer = pstrdup(NameStr(*DatumGetName(heap_getattr(tuple, 1, RelationGetDescr(rel), &is_null))));
    if (needs.count == kOfEach * pg::kMaxRoutes ||
        needed_positions(peer, keep_since, &needs.positions[needs.count]) == 0) {
      needs.unknown = true;
      break;
    }
    // In this order: a pin is committed before the acknowledgement that leaves it behind.
    Position *pin = &needs.positions[needs.count + 2];
    const bool pinned = oldest_pin(peer, pin);
    Position completed;
    if (!oldest_completed_pin(peer, keep_since, &completed))
      completed = needs.positions[needs.count];
    if (!pinned || covers(*pin, completed))
      *pin = completed;
    needs.peers[needs.count / kOfEach] = peer;
    needs.count += kOfEach;
  }
  systable_endscan(scan);
  table_close(rel, AccessShareLock);
  return needs;
}

/// Whether the index has a row whose xid compares like this.
bool has_row(Relation log, Relation index, StrategyNumber strategy, RegProcedure function, uint64 xid) {
  ScanKeyData key;
  ScanKeyInit(&key, 1, strategy, function, FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)));
  const Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
  const IndexScanDesc scan = pg::index_beginscan(log, index, snapshot, 1);
  index_rescan(scan, &key, 1, nullptr, 0);
  TupleTableSlot *slot = table_slot_create(log, nullptr);
  const bool found = index_getnext_slot(scan, ForwardScanDirection, slot);
  ExecDropSingleTupleTableSlot(slot);
  index_endscan(scan);
  UnregisterSnapshot(snapshot);
  return found;
}

bool all_seen(Oid segment, const Needs &needs) {
  const Relation log = table_open(segment, NoLock);
  List *indexes = RelationGetIndexList(log);
  const Relation index = index_open(linitial_oid(indexes), AccessShareLock);
  bool seen = true;
  for (int p = 0; p < needs.count && seen; p++) {
    const Position &position = needs.positions[p];
    seen = !has_row(log, index, BTGreaterEqualStrategyNumber, F_XID8GE, position.xmax);
    for (uint32 i = 0; i < position.running && seen; i++)
      seen = !has_row(log, index, BTEqualStrategyNumber, F_XID8EQ, position.xip[i]);
  }
  index_close(index, AccessShareLock);
  table_close(log, NoLock);
  return seen;
}

/// Notes for each peer from where on the log is whole. False when a user's transaction has locked one of the
/// rows (pause() in an open transaction): waiting for it here would stop every scan and every view.
bool raise_floors(const Needs &needs) {
  bool raised = true;
  for (int p = 0; p < needs.count && raised; p += kOfEach) {
    const Position &older =
        covers(needs.positions[p], needs.positions[p + 1]) ? needs.positions[p + 1] : needs.positions[p];
    Oid types[2] = {NAMEOID, PG_SNAPSHOTOID};
    Datum values[2] = {DirectFunctionCall1(namein, CStringGetDatum(needs.peers[p / kOfEach])),
                       position_to_datum(older)};
    SPI_connect();
    if (SPI_execute_with_args("UPDATE seal_sync.peer_state SET log_floor = $2 "
                              "WHERE peer OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT s.peer FROM seal_sync.peer_state s "
                              "WHERE s.peer OPERATOR(pg_catalog.=) $1 FOR UPDATE SKIP LOCKED))",
                              2, types, values, nullptr, false, 0) != SPI_OK_UPDATE)
      elog(ERROR, "seal_sync: could not note how far the change log is whole");
    raised = SPI_processed > 0;
    SPI_finish();
  }
  return raised;
}

BlockNumber blocks_of(Oid relation) {
  const Relation rel = table_open(relation, AccessShareLock);
  const BlockNumber blocks = RelationGetNumberOfBlocks(rel);
  table_close(rel, AccessShareLock);
  return blocks;
}

void truncate(const char *table) {
  SPI_connect();
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(&sql, "TRUNCATE seal_sync.%s", table);
  if (SPI_execute(sql.data, false, 0) != SPI_OK_UTILITY)
    elog(ERROR, "seal_sync: could not empty %s", table);
  SPI_finish();
}

/// The segment after `current` that is empty, or current when there is none.
uint32 next_empty(uint32 current, const BlockNumber *blocks) {
  for (uint32 i = 1; i < config::kSegments; i++) {
    const uint32 candidate = (current + i) % config::kSegments;
    if (blocks[candidate] == 0)
      return candidate;
  }
  return current;
}

} // namespace

int64 rotate_log(TimestampTz keep_since) {
  pg::DatabaseSlot *slot = pg::my_database_slot();
  if (slot == nullptr)
    return log_bytes();
  // A peer being created must not miss what is emptied meanwhile: its row is locked until it commits.
  const Oid peers = config::own_relation("peer");
  if (!OidIsValid(peers) || !ConditionalLockRelationOid(peers, ShareLock))
    return log_bytes();
  const uint32 current = pg_atomic_read_u32(&slot->segment) % config::kSegments;
  BlockNumber blocks[config::kSegments];
  int64 total = 0;
  Needs needs{};
  bool needs_known = false;

  for (uint32 s = 0; s < config::kSegments; s++) {
    const Oid oid = config::change_log_segment(static_cast<int>(s));
    if (!OidIsValid(oid))
      return 0;
    blocks[s] = blocks_of(oid);
    total += static_cast<int64>(blocks[s]) * BLCKSZ;
    if (s == current || blocks[s] == 0)
      continue;
    if (!needs_known) {
      // Before any segment is locked, for the log is read by everybody.
      needs = needs_of_all_peers(keep_since);
      needs.unknown = needs.unknown || !raise_floors(needs);
      needs_known = true;
    }
    if (needs.unknown || !ConditionalLockRelationOid(oid, AccessExclusiveLock))
      continue;
    if (all_seen(oid, needs)) {
      char name[NAMEDATALEN];
      snprintf(name, sizeof name, "change_log_%u", s);
      truncate(name);
      total -= static_cast<int64>(blocks[s]) * BLCKSZ;
      blocks[s] = 0;
    } else {
      UnlockRelationOid(oid, AccessExclusiveLock);
    }
  }

  // Writers move on when the current segment is full, or a good while old: an old one that nobody
  // writes to any more can be emptied. The hint changes without a lock; either segment is right.
  static TimestampTz moved_at = 0;
  const TimestampTz now = GetCurrentTimestamp();
  if (blocks[current] >= kFullSegmentBlocks ||
      (blocks[current] > 0 && moved_at < keep_since + (now - keep_since) * 3 / 4)) {
    const uint32 next = next_empty(current, blocks);
    if (next != current) {
      pg_atomic_write_u32(&slot->segment, next);
      moved_at = now;
    }
  }
  if (total <= limit_bytes() / 2)
    copied_bytes = 0;
  const bool full = guc::max_log_size > 0 && total - copied_bytes >= limit_bytes();
  if (full != (pg_atomic_read_u32(&slot->log_full) != 0))
    config::note_event(full ? "log_full" : "log_has_room", "node", nullptr,
                       {{"log_bytes", total},
                        {"log_limit_bytes", limit_bytes()},
                        {"action", guc::log_full_action == guc::kRefuseWrites ? "refuse_writes" : "mark_dirty"}});
  pg_atomic_write_u32(&slot->log_full, full ? 1 : 0);
  return total;
}

bool log_has_room() {
  pg::DatabaseSlot *slot = pg::my_database_slot();
  return slot != nullptr && pg_atomic_read_u32(&slot->log_full) == 0 &&
         (guc::max_log_size == 0 || log_bytes() <= limit_bytes() / 2);
}

void count_copy(int64 bytes_before) { copied_bytes = log_bytes() - bytes_before; }

bool heal_dirty_table() {
  if (!log_has_room())
    return false;
  SPI_connect();
  const int rc = SPI_execute("SELECT relation FROM seal_sync.table_state WHERE dirty_since IS NOT NULL LIMIT 1", true, 1);
  bool is_null;
  const Oid relation = rc == SPI_OK_SELECT && SPI_processed == 1
                           ? DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null))
                           : InvalidOid;
  if (OidIsValid(relation)) {
    // First the mark, then the rows: a change left out after our snapshot marks the table anew.
    Oid types[1] = {OIDOID};
    Datum values[1] = {ObjectIdGetDatum(relation)};
    SPI_execute_with_args("UPDATE seal_sync.table_state SET dirty_since = NULL, dirty_reason = NULL "
                          "WHERE relation OPERATOR(pg_catalog.=) $1",
                          1, types, values, nullptr, false, 0);
  }
  SPI_finish();
  if (!OidIsValid(relation))
    return false;
  const int64 before = log_bytes();
  capture::recapture(relation);
  config::note_event("table_shipped_again", config::table_scope(relation), nullptr, {});
  count_copy(before);
  return true;
}

int64 log_bytes() {
  int64 total = 0;
  for (int s = 0; s < config::kSegments; s++) {
    const Oid oid = config::change_log_segment(s);
    if (OidIsValid(oid))
      total += static_cast<int64>(blocks_of(oid)) * BLCKSZ;
  }
  return total;
}

void rotate_history(TimestampTz keep_since) {
  pg::DatabaseSlot *slot = pg::my_database_slot();
  if (slot == nullptr)
    return;
  const uint32 current = pg_atomic_read_u32(&slot->history) % 2;
  const uint32 other = 1 - current;
  char name[NAMEDATALEN];
  snprintf(name, sizeof name, "route_history_%u", other);
  const Oid oid = config::own_relation(name);
  if (!OidIsValid(oid))
    return;
  if (blocks_of(oid) == 0) {
    snprintf(name, sizeof name, "route_history_%u", current);
    const Oid table = config::own_relation(name);
    if (blocks_of(table) > kHistoryWorthRotating && history_is_old(table, keep_since))
      pg_atomic_write_u32(&slot->history, other);
    return;
  }
  if (!ConditionalLockRelationOid(oid, AccessExclusiveLock))
    return;
  if (carry_history_over(static_cast<int>(other), static_cast<int>(current), keep_since))
    truncate(name);
  else
    UnlockRelationOid(oid, AccessExclusiveLock);
}

} // namespace seal_sync::scan

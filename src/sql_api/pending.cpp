// What waits in the change log, in readable form, and counted.
//
// pending_entries() gives one row for each key of each log entry that some peer has not acknowledged.
// It stands in a select list (view pending), so that it is asked row by row and LIMIT stops the
// reading. pending_counts() only adds up; it does not decode keys.

#include "pg/boundary.hpp"
#include "scan/log_reader.hpp"
#include "sql_api/key_json.hpp"

namespace seal_sync::sql_api {

namespace {

/// What one peer has acknowledged, and which scans have looked further since.
struct PeerWindow {
  NameData peer;
  scan::Position acknowledged;
  int64 last_acknowledgement; // entry number in the route's history
  int scans;
  int scan_room;
  scan::Position *scan_positions;
  TimestampTz *scan_times;
};

struct Windows {
  int count;
  PeerWindow *peers;
  scan::Position from; // what every peer has acknowledged, at least
};

template <typename Fn> void for_each_row(const char *table, Fn fn) {
  const Oid oid = config::own_relation(table);
  if (!OidIsValid(oid))
    return;
  const Relation rel = table_open(oid, AccessShareLock);
  const SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr);
  HeapTuple tuple;
  while (HeapTupleIsValid(tuple = systable_getnext(scan))) {
    Datum values[16];
    bool nulls[16];
    heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
    fn(values);
  }
  systable_endscan(scan);
  table_close(rel, AccessShareLock);
}

constexpr const char *kHistory[] = {"route_history_0", "route_history_1"};
enum HistoryColumn { kEntry = 0, kPeer = 1, kKind = 2, kSnapshot = 5, kAt = 9 };

PeerWindow *find_window(Windows *windows, Name peer) {
  for (int i = 0; i < windows->count; i++)
    if (namestrcmp(&windows->peers[i].peer, NameStr(*peer)) == 0)
      return &windows->peers[i];
  return nullptr;
}

int compare_xids(const void *a, const void *b) {
  const uint64 left = *static_cast<const uint64 *>(a), right = *static_cast<const uint64 *>(b);
  return left < right ? -1 : left > right ? 1 : 0;
}

/// A position that sees no more than any of the peers has acknowledged.
scan::Position common_position(const Windows &windows) {
  scan::Position common;
  uint32 room = 0;
  for (int i = 0; i < windows.count; i++) {
    const scan::Position &one = windows.peers[i].acknowledged;
    common.xmin = i == 0 ? one.xmin : Min(common.xmin, one.xmin);
    common.xmax = i == 0 ? one.xmax : Min(common.xmax, one.xmax);
    room += one.running;
  }
  common.xip = static_cast<uint64 *>(palloc(sizeof(uint64) * Max(room, 1u)));
  for (int i = 0; i < windows.count; i++) {
    const scan::Position &one = windows.peers[i].acknowledged;
    for (uint32 x = 0; x < one.running; x++)
      if (one.xip[x] < common.xmax)
        common.xip[common.running++] = one.xip[x];
  }
  qsort(common.xip, common.running, sizeof(uint64), compare_xids);
  uint32 kept = 0;
  for (uint32 x = 0; x < common.running; x++)
    if (kept == 0 || common.xip[kept - 1] != common.xip[x])
      common.xip[kept++] = common.xip[x];
  common.running = kept;
  return common;
}

/// Everything in the current memory context.
Windows load_windows() {
  Windows windows{};
  constexpr int kRoom = 64;
  windows.peers = static_cast<PeerWindow *>(palloc0(sizeof(PeerWindow) * kRoom));
  for_each_row("peer", [&](Datum *values) {
    if (windows.count < kRoom)
      namestrcpy(&windows.peers[windows.count++].peer, NameStr(*DatumGetName(values[0])));
  });
  for (int i = 0; i < windows.count; i++) {
    windows.peers[i].last_acknowledgement = -1;
    windows.peers[i].acknowledged = scan::Position{};
  }
  for (const char *table : kHistory)
    for_each_row(table, [&](Datum *values) {
      PeerWindow *window = find_window(&windows, DatumGetName(values[kPeer]));
      if (window == nullptr || DatumGetChar(values[kKind]) != 'a' ||
          DatumGetInt64(values[kEntry]) <= window->last_acknowledgement)
        return;
      window->last_acknowledgement = DatumGetInt64(values[kEntry]);
      window->acknowledged = scan::position_from_datum(values[kSnapshot]);
    });
  for (const char *table : kHistory)
    for_each_row(table, [&](Datum *values) {
      PeerWindow *window = find_window(&windows, DatumGetName(values[kPeer]));
      if (window == nullptr || DatumGetChar(values[kKind]) != 'b' ||
          DatumGetInt64(values[kEntry]) <= window->last_acknowledgement)
        return;
      if (window->scans == window->scan_room) {
        window->scan_room = window->scan_room == 0 ? 8 : window->scan_room * 2;
        const auto room = static_cast<size_t>(window->scan_room);
        auto *positions = static_cast<scan::Position *>(palloc(sizeof(scan::Position) * room));
        auto *times = static_cast<TimestampTz *>(palloc(sizeof(TimestampTz) * room));
        if (window->scans > 0) {
          memcpy(positions, window->scan_positions, sizeof(scan::Position) * static_cast<size_t>(window->scans));
          memcpy(times, window->scan_times, sizeof(TimestampTz) * static_cast<size_t>(window->scans));
        }
        window->scan_positions = positions;
        window->scan_times = times;
      }
      window->scan_positions[window->scans] = scan::position_from_datum(values[kSnapshot]);
      window->scan_times[window->scans++] = DatumGetTimestampTz(values[kAt]);
    });
  windows.from = common_position(windows);
  return windows;
}

/// When a scan of the route first saw the transaction; 0: none has yet.
TimestampTz first_seen(const PeerWindow &window, uint64 xid) {
  TimestampTz first = 0;
  for (int i = 0; i < window.scans; i++)
    if (scan::sees(window.scan_positions[i], xid) && (first == 0 || window.scan_times[i] < first))
      first = window.scan_times[i];
  return first;
}

const char *kind_name(core::ChangeKind kind) {
  switch (kind) {
  case core::ChangeKind::kInsert:
    return "insert";
  case core::ChangeKind::kUpdate:
    return "update";
  case core::ChangeKind::kDelete:
    return "delete";
  case core::ChangeKind::kWhole:
  case core::ChangeKind::kMark: // has no keys, so no row shows it
    break;
  }
  return "copy";
}

// ---- one row per key ---------------------------------------------------------------------------

enum EntryColumn { kRelation, kKindText, kKey, kCluster, kChangedColumns, kSince, kXid, kWaitingFor, kEntryColumns };

/// The state between two rows.
struct Reading {
  MemoryContext home;
  Windows windows;
  Snapshot snapshot;
  scan::LogReader *log; // nullptr: closed
  MemoryContext per_run;
  MemoryContext per_key;
  core::Reader keys;
  int keys_left;
  KeyJson *json;
  Datum values[kEntryColumns]; // what all keys of a run share
  bool nulls[kEntryColumns];
};

void close_reading(Datum argument) {
  auto *reading = reinterpret_cast<Reading *>(DatumGetPointer(argument));
  if (reading->log == nullptr)
    return;
  scan::close_log(reading->log);
  UnregisterSnapshot(reading->snapshot);
  reading->log = nullptr;
}

Datum column_names(Oid root, core::ByteSpan mask) {
  auto *names = static_cast<Datum *>(palloc(sizeof(Datum) * (mask.size() * 8 + 1)));
  int count = 0;
  for (size_t bit = 0; bit < mask.size() * 8; bit++) {
    if ((mask[bit / 8] >> (bit % 8) & 1) == 0)
      continue;
    const char *name = get_attname(root, static_cast<AttrNumber>(bit + 1), true);
    if (name != nullptr)
      names[count++] = DirectFunctionCall1(namein, CStringGetDatum(name));
  }
  return PointerGetDatum(construct_array(names, count, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR));
}

/// Fills what the keys of the run share; false when nobody waits for them.
bool begin_run(Reading *reading, const core::ChangeRun &run, uint64 xid) {
  const config::Cluster *cluster = config::find_cluster(static_cast<int32>(run.cluster));
  const config::Table *table = config::find_table(run.root);
  if (cluster == nullptr || table == nullptr || !table->usable)
    return false;
  TimestampTz since = 0;
  auto *waiting = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(Max(reading->windows.count, 1))));
  int waiting_count = 0;
  for (int i = 0; i < reading->windows.count; i++) {
    PeerWindow &window = reading->windows.peers[i];
    if (scan::sees(window.acknowledged, xid) || !config::routed_to(cluster, NameStr(window.peer)))
      continue;
    waiting[waiting_count++] = NameGetDatum(&window.peer);
    const TimestampTz seen = first_seen(window, xid);
    if (seen != 0 && (since == 0 || seen < since))
      since = seen;
  }
  if (waiting_count == 0)
    return false;

  memset(reading->nulls, 0, sizeof reading->nulls);
  reading->values[kRelation] = ObjectIdGetDatum(run.root);
  reading->values[kKindText] = CStringGetTextDatum(kind_name(run.kind));
  reading->values[kCluster] = DirectFunctionCall1(namein, CStringGetDatum(NameStr(cluster->name)));
  reading->nulls[kChangedColumns] = run.kind != core::ChangeKind::kUpdate || run.mask.empty();
  if (!reading->nulls[kChangedColumns])
    reading->values[kChangedColumns] = column_names(run.root, run.mask);
  reading->nulls[kSince] = since == 0;
  reading->values[kSince] = TimestampTzGetDatum(since);
  reading->values[kXid] = FullTransactionIdGetDatum(FullTransactionIdFromU64(xid));
  reading->values[kWaitingFor] = PointerGetDatum(
      construct_array(waiting, waiting_count, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR));
  reading->json = open_key_json(table);
  reading->keys = core::Reader(run.key_bytes);
  reading->keys_left = run.keys;
  return true;
}

/// Moves to the next key; false at the end of the log.
bool next_key(Reading *reading) {
  while (reading->keys_left == 0) {
    CHECK_FOR_INTERRUPTS();
    core::ChangeRun run;
    uint64 xid;
    const MemoryContext old = MemoryContextSwitchTo(reading->home); // the log's scans outlive this call
    const bool found = scan::next_run(reading->log, &run, &xid);
    MemoryContextSwitchTo(old);
    if (!found)
      return false;
    MemoryContextReset(reading->per_run);
    MemoryContextSwitchTo(reading->per_run);
    begin_run(reading, run, xid);
    MemoryContextSwitchTo(old);
  }
  reading->keys_left--;
  MemoryContextReset(reading->per_key);
  const MemoryContext old = MemoryContextSwitchTo(reading->per_key);
  reading->values[kKey] = next_key_json(reading->json, &reading->keys);
  MemoryContextSwitchTo(old);
  return true;
}

Reading *open_reading(FunctionCallInfo fcinfo) {
  auto *reading = static_cast<Reading *>(palloc0(sizeof(Reading)));
  reading->home = CurrentMemoryContext;
  config::refresh();
  reading->windows = load_windows();
  reading->per_run = AllocSetContextCreate(CurrentMemoryContext, "seal_sync pending run", ALLOCSET_DEFAULT_SIZES);
  reading->per_key = AllocSetContextCreate(CurrentMemoryContext, "seal_sync pending key", ALLOCSET_DEFAULT_SIZES);
  if (reading->windows.count == 0)
    return reading;
  reading->snapshot = RegisterSnapshot(GetActiveSnapshot());
  reading->log = scan::open_log(reading->windows.from, reading->snapshot);
  // LIMIT ends the calls without asking us; the executor then runs this.
  auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  RegisterExprContextCallback(info->econtext, close_reading, PointerGetDatum(reading));
  return reading;
}

} // namespace

SEAL_SYNC_PG_FUNCTION(seal_sync_pending_entries) {
  FuncCallContext *call;
  if (SRF_IS_FIRSTCALL()) {
    call = SRF_FIRSTCALL_INIT();
    const MemoryContext old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
    TupleDesc desc;
    if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE)
      elog(ERROR, "return type must be a row type");
    call->tuple_desc = BlessTupleDesc(desc);
    call->user_fctx = open_reading(fcinfo);
    MemoryContextSwitchTo(old);
  }
  call = SRF_PERCALL_SETUP();
  auto *reading = static_cast<Reading *>(call->user_fctx);
  if (reading->log != nullptr && next_key(reading)) {
    const HeapTuple tuple = heap_form_tuple(call->tuple_desc, reading->values, reading->nulls);
    SRF_RETURN_NEXT(call, HeapTupleGetDatum(tuple));
  }
  // Its memory goes with SRF_RETURN_DONE: nobody may call back for it any more.
  UnregisterExprContextCallback(reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo)->econtext, close_reading,
                                PointerGetDatum(reading));
  close_reading(PointerGetDatum(reading));
  SRF_RETURN_DONE(call);
}

/// (peer, relation, cluster_id, keys, oldest): one pass over the log for all peers.
SEAL_SYNC_PG_FUNCTION(seal_sync_pending_counts) {
  struct Key {
    int32 peer;
    Oid relation;
    int32 cluster;
  };
  struct Count {
    Key key;
    int64 keys;
    TimestampTz oldest;
  };
  InitMaterializedSRF(fcinfo, 0);
  auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  config::refresh();
  Windows windows = load_windows();
  if (windows.count == 0)
    PG_RETURN_VOID();
  HASHCTL ctl{};
  ctl.keysize = sizeof(Key);
  ctl.entrysize = sizeof(Count);
  ctl.hcxt = CurrentMemoryContext;
  HTAB *counts = hash_create("seal_sync pending counts", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

  const Snapshot snapshot = RegisterSnapshot(GetActiveSnapshot());
  scan::LogReader *log = scan::open_log(windows.from, snapshot);
  core::ChangeRun run;
  uint64 xid;
  while (scan::next_run(log, &run, &xid)) {
    CHECK_FOR_INTERRUPTS();
    const config::Cluster *cluster = config::find_cluster(static_cast<int32>(run.cluster));
    if (cluster == nullptr)
      continue;
    for (int i = 0; i < windows.count; i++) {
      const PeerWindow &window = windows.peers[i];
      if (scan::sees(window.acknowledged, xid) || !config::routed_to(cluster, NameStr(window.peer)))
        continue;
      const Key key{i, run.root, cluster->id};
      bool found;
      auto *count = static_cast<Count *>(hash_search(counts, &key, HASH_ENTER, &found));
      if (!found) {
        count->keys = 0;
        count->oldest = 0;
      }
      count->keys += run.keys;
      const TimestampTz seen = first_seen(window, xid);
      if (seen != 0 && (count->oldest == 0 || seen < count->oldest))
        count->oldest = seen;
    }
  }
  scan::close_log(log);
  UnregisterSnapshot(snapshot);

  HASH_SEQ_STATUS status;
  hash_seq_init(&status, counts);
  while (auto *count = static_cast<Count *>(hash_seq_search(&status))) {
    Datum values[] = {NameGetDatum(&windows.peers[count->key.peer].peer), ObjectIdGetDatum(count->key.relation),
                            Int32GetDatum(count->key.cluster), Int64GetDatum(count->keys),
                            TimestampTzGetDatum(count->oldest)};
    bool nulls[] = {false, false, false, false, count->oldest == 0};
    tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
  }
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api

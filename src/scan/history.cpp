// The route's history: what was sent under which snapshot, and what the peer has acknowledged.
//
// Rows are only inserted, into one of two tables, which rotate. A sent batch (kind b) is inserted
// frozen and flushed: it is on disk, whatever becomes of the transaction that holds X_n (see
// doc/decisions/0001). The flush also covers the commit or abort record of every transaction that X_n
// calls finished, for those were inserted before the transactions left the process array; so no xid
// named by X_n can be used again after a crash (traps T1, T2). Acknowledgements (kind a) are ordinary.

#include "scan/history.hpp"

#include "config/config.hpp"
#include "pg/boundary.hpp"
#include "pg/shared_state.hpp"
#include "scan/arrived.hpp"
#include "scan/copies.hpp"
#include "scan/rotation.hpp"

namespace seal_sync::scan {

namespace {

constexpr int kTables = 2;
enum Column { kEntry, kPeer, kKind, kBatch, kBatchId, kSnapshot, kExcluded, kExcludedClusters, kCopied, kKeys, kAt, kCopiedJobs, kCopiedPins, kColumns };

Oid history_table(int number) {
  char name[NAMEDATALEN];
  snprintf(name, sizeof name, "route_history_%d", number);
  return config::own_relation(name);
}

struct Row {
  int64 entry;
  char kind;
  HistoryEntry value;
};

/// Calls fn(row values) for each row of the peer, both tables, newest state.
template <typename Fn> void for_each_entry(const char *peer, Fn fn) {
  // Both tables are locked before the snapshot is taken: rotation carries rows from one to the other and
  // empties it, and in between neither would show them.
  Relation tables[kTables];
  for (int t = 0; t < kTables; t++) {
    const Oid oid = history_table(t);
    tables[t] = OidIsValid(oid) ? table_open(oid, AccessShareLock) : nullptr;
  }
  const Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
  for (const Relation rel : tables) {
    if (rel == nullptr)
      continue;
    const SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, nullptr);
    HeapTuple tuple;
    while (HeapTupleIsValid(tuple = systable_getnext(scan))) {
      Datum values[kColumns];
      bool nulls[kColumns];
      heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
      if (namestrcmp(DatumGetName(values[kPeer]), peer) == 0)
        fn(values);
    }
    systable_endscan(scan);
  }
  UnregisterSnapshot(snapshot);
  for (const Relation rel : tables)
    if (rel != nullptr)
      table_close(rel, AccessShareLock);
}

HistoryEntry to_entry(Datum *values) {
  HistoryEntry entry;
  entry.found = true;
  entry.number = static_cast<uint64>(DatumGetInt64(values[kBatch]));
  memcpy(entry.id.bytes, DatumGetUUIDP(values[kBatchId])->data, sizeof entry.id.bytes);
  entry.position = position_from_datum(values[kSnapshot]);
  entry.acknowledged = DatumGetChar(values[kKind]) == 'a';
  return entry;
}

int64 last_entry(const char *peer) {
  int64 newest = 0;
  for_each_entry(peer, [&](Datum *values) { newest = Max(newest, DatumGetInt64(values[kEntry])); });
  return newest;
}

Datum oid_array(const Oid *oids, int count) {
  auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<Size>(Max(count, 1))));
  for (int i = 0; i < count; i++)
    elements[i] = ObjectIdGetDatum(oids[i]);
  return PointerGetDatum(construct_array(elements, count, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

void read_oids(Datum array, Oid **oids, int *count) {
  Datum *elements;
  deconstruct_array(DatumGetArrayTypePCopy(array), OIDOID, sizeof(Oid), true, TYPALIGN_INT, &elements, nullptr, count);
  *oids = static_cast<Oid *>(palloc(sizeof(Oid) * static_cast<Size>(Max(*count, 1))));
  for (int i = 0; i < *count; i++)
    (*oids)[i] = DatumGetObjectId(elements[i]);
}

Datum array_of(Datum *elements, bool *nulls, int count, Oid type, int16 length, bool by_value) {
  int dims[1] = {count};
  int lower[1] = {1};
  if (count == 0)
    return PointerGetDatum(construct_empty_array(type));
  return PointerGetDatum(construct_md_array(elements, nulls, 1, dims, lower, type, length, by_value, TYPALIGN_DOUBLE));
}

void write_copied(const LeftOut &left_out, Datum *values) {
  const auto count = static_cast<Size>(Max(left_out.copied_count, 1));
  auto *relations = static_cast<Oid *>(palloc(sizeof(Oid) * count));
  auto *jobs = static_cast<Datum *>(palloc(sizeof(Datum) * count));
  auto *pins = static_cast<Datum *>(palloc0(sizeof(Datum) * count));
  auto *no_pin = static_cast<bool *>(palloc(sizeof(bool) * count));
  for (int i = 0; i < left_out.copied_count; i++) {
    const LeftOut::Copied &copied = left_out.copied[i];
    relations[i] = copied.relation;
    jobs[i] = Int64GetDatum(copied.job);
    no_pin[i] = !copied.has_pin;
    if (copied.has_pin)
      pins[i] = position_to_datum(copied.pin);
  }
  values[kCopied] = oid_array(relations, left_out.copied_count);
  values[kCopiedJobs] = array_of(jobs, nullptr, left_out.copied_count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL);
  values[kCopiedPins] = array_of(pins, no_pin, left_out.copied_count, PG_SNAPSHOTOID, -1, false);
}

/// As nearly every batch does: told without a copy of anything, for the whole history is gone through.
bool copies_nothing(const Datum *values) {
  const auto *array = reinterpret_cast<const struct varlena *>(DatumGetPointer(values[kCopied]));
  if (VARATT_IS_EXTERNAL(array) || VARATT_IS_COMPRESSED(array))
    return false;
  int32 dimensions; // the first word of an array
  memcpy(&dimensions, VARDATA_ANY(array), sizeof dimensions);
  return dimensions == 0;
}

void read_copied(const Datum *values, LeftOut *left_out) {
  Oid *relations;
  read_oids(values[kCopied], &relations, &left_out->copied_count);
  Datum *jobs, *pins;
  bool *no_pin;
  int job_count, pin_count;
  deconstruct_array(DatumGetArrayTypePCopy(values[kCopiedJobs]), INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &jobs, nullptr, &job_count);
  deconstruct_array(DatumGetArrayTypePCopy(values[kCopiedPins]), PG_SNAPSHOTOID, -1, false, TYPALIGN_DOUBLE, &pins, &no_pin, &pin_count);
  left_out->copied_count = Min(left_out->copied_count, Min(job_count, pin_count));
  left_out->copied = static_cast<LeftOut::Copied *>(palloc0(sizeof(LeftOut::Copied) * static_cast<Size>(Max(left_out->copied_count, 1))));
  for (int i = 0; i < left_out->copied_count; i++) {
    left_out->copied[i] = {relations[i], DatumGetInt64(jobs[i]), !no_pin[i], {}};
    if (!no_pin[i])
      left_out->copied[i].pin = position_from_datum(pins[i]);
  }
}

HistoryEntry newest_of_kind(const char *peer, char kind) {
  HistoryEntry found;
  int64 newest = -1;
  for_each_entry(peer, [&](Datum *values) {
    if (DatumGetChar(values[kKind]) == kind && DatumGetInt64(values[kEntry]) > newest) {
      newest = DatumGetInt64(values[kEntry]);
      found = to_entry(values);
    }
  });
  return found;
}

} // namespace

void insert_history(const char *peer, char kind, uint64 number, const core::wire::Id &id,
                    const Position &position, const LeftOut &left_out, int64 keys, bool durable) {
  // A route worker, the only one that writes often, keeps the newest entry number.
  static NameData cached_peer;
  static int64 cached_entry = -1;
  if (cached_entry < 0 || MyBackendType != B_BG_WORKER || namestrcmp(&cached_peer, peer) != 0) {
    namestrcpy(&cached_peer, peer);
    cached_entry = last_entry(peer);
  }

  const pg::DatabaseSlot *slot = pg::my_database_slot();
  const int number_of_table =
      slot == nullptr ? 0 : static_cast<int>(pg_atomic_read_u32(const_cast<pg_atomic_uint32 *>(&slot->history)) % kTables);
  const Relation rel = table_open(history_table(number_of_table), RowExclusiveLock);
  NameData peer_name;
  namestrcpy(&peer_name, peer);
  pg_uuid_t uuid;
  memcpy(uuid.data, id.bytes, sizeof uuid.data);
  auto *clusters = static_cast<Datum *>(palloc(sizeof(Datum) * Max(left_out.cluster_count, 1)));
  for (int i = 0; i < left_out.cluster_count; i++)
    clusters[i] = Int32GetDatum(left_out.clusters[i]);

  Datum values[kColumns];
  bool nulls[kColumns] = {};
  values[kEntry] = Int64GetDatum(cached_entry + 1);
  values[kPeer] = NameGetDatum(&peer_name);
  values[kKind] = CharGetDatum(kind);
  values[kBatch] = Int64GetDatum(static_cast<int64>(number));
  values[kBatchId] = UUIDPGetDatum(&uuid);
  values[kSnapshot] = position_to_datum(position);
  values[kExcluded] = oid_array(left_out.roots, left_out.root_count);
  values[kExcludedClusters] = PointerGetDatum(
      construct_array(clusters, left_out.cluster_count, INT4OID, sizeof(int32), true, TYPALIGN_INT));
  write_copied(left_out, values);
  values[kKeys] = Int64GetDatum(keys);
  values[kAt] = TimestampTzGetDatum(GetCurrentTimestamp());

  const HeapTuple tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
  heap_insert(rel, tuple, GetCurrentCommandId(true), durable ? HEAP_INSERT_FROZEN : 0, nullptr);
  cached_entry++;
  table_close(rel, NoLock);
  if (durable)
    XLogFlush(XactLastRecEnd);
}

HistoryEntry last_sent(const char *peer) { return newest_of_kind(peer, 'b'); }

HistoryEntry last_acknowledged(const char *peer) { return newest_of_kind(peer, 'a'); }

HistoryEntry find_in_history(const char *peer, uint64 number, const core::wire::Id &id) {
  HistoryEntry found;
  const Position floor = log_floor(peer);
  for_each_entry(peer, [&](Datum *values) {
    if (static_cast<uint64>(DatumGetInt64(values[kBatch])) != number)
      return;
    const HistoryEntry entry = to_entry(values);
    // The history outlives the log: a window that starts before the floor has holes.
    if (entry.id == id && covers(entry.position, floor) && (!found.found || entry.acknowledged))
      found = entry;
  });
  return found;
}

LeftOut left_out_of(const char *peer, uint64 number, const core::wire::Id &id) {
  LeftOut left_out;
  for_each_entry(peer, [&](Datum *values) {
    if (DatumGetChar(values[kKind]) != 'b' || static_cast<uint64>(DatumGetInt64(values[kBatch])) != number ||
        !(to_entry(values).id == id))
      return;
    read_oids(values[kExcluded], &left_out.roots, &left_out.root_count);
    read_copied(values, &left_out);
    Datum *elements;
    int count;
    deconstruct_array(DatumGetArrayTypePCopy(values[kExcludedClusters]), INT4OID, sizeof(int32), true,
                      TYPALIGN_INT, &elements, nullptr, &count);
    left_out.clusters = static_cast<int32 *>(palloc(sizeof(int32) * Max(count, 1)));
    for (left_out.cluster_count = 0; left_out.cluster_count < count; left_out.cluster_count++)
      left_out.clusters[left_out.cluster_count] = DatumGetInt32(elements[left_out.cluster_count]);
  });
  return left_out;
}

void rewind_to(const char *peer, const HistoryEntry &entry) {
  // Rows that were copied later are gone over there, and the log does not have them. Of a table that had a pin nothing was shipped
  // between the pin and the copy: the peer's rows are those of the pin.
  LeftOut again;
  for_each_entry(peer, [&](Datum *values) {
    if (DatumGetChar(values[kKind]) != 'b' || static_cast<uint64>(DatumGetInt64(values[kBatch])) <= entry.number || copies_nothing(values))
      return;
    LeftOut left_out;
    read_copied(values, &left_out);
    for (int i = 0; i < left_out.copied_count; i++) {
      const LeftOut::Copied &copied = left_out.copied[i];
      LeftOut::Copied *known = nullptr;
      for (int k = 0; k < again.copied_count; k++)
        if (again.copied[k].relation == copied.relation)
          known = &again.copied[k];
      if (known == nullptr) {
        const Size size = sizeof(LeftOut::Copied) * static_cast<Size>(again.copied_count + 1);
        again.copied = static_cast<LeftOut::Copied *>(again.copied == nullptr ? palloc(size) : repalloc(again.copied, size));
        again.copied[again.copied_count++] = copied;
      } else if (copied.has_pin && (!known->has_pin || covers(known->pin, copied.pin))) {
        *known = copied;
      }
    }
  });
  for (int i = 0; i < again.copied_count; i++)
    file_copy(peer, again.copied[i].relation, again.copied[i].has_pin ? &again.copied[i].pin : nullptr);
  lower_pins(peer, entry.position);
  hold_again(peer, entry.number);
  insert_history(peer, 'a', entry.number, entry.id, entry.position, LeftOut{}, 0, false);
}

void start_at(const char *peer, const Position &position) {
  insert_history(peer, 'a', 0, core::wire::Id{}, position, LeftOut{}, 0, false);
}

int needed_positions(const char *peer, TimestampTz keep_since, Position *positions) {
  // The newest acknowledgement of all: the next window starts there, also after a rewind. And the
  // newest one that is older than the resend window; while there is none, the oldest.
  int64 newest = -1;
  int64 newest_old = -1;
  int64 oldest = PG_INT64_MAX;
  Datum next = 0;
  Datum resend = 0;
  for_each_entry(peer, [&](Datum *values) {
    if (DatumGetChar(values[kKind]) != 'a')
      return;
    const int64 entry = DatumGetInt64(values[kEntry]);
    if (entry > newest) {
      newest = entry;
      next = datumCopy(values[kSnapshot], false, -1);
    }
    const bool old = DatumGetTimestampTz(values[kAt]) <= keep_since;
    if (old ? entry > newest_old : newest_old < 0 && entry < oldest) {
      if (old)
        newest_old = entry;
      else
        oldest = entry;
      resend = datumCopy(values[kSnapshot], false, -1);
    }
  });
  if (next == 0)
    return 0;
  positions[0] = position_from_datum(next);
  positions[1] = position_from_datum(resend);
  return 2;
}

bool oldest_completed_pin(const char *peer, TimestampTz since, Position *pin) {
  bool found = false;
  for_each_entry(peer, [&](Datum *values) {
    if (DatumGetChar(values[kKind]) != 'b' || DatumGetTimestampTz(values[kAt]) < since || copies_nothing(values))
      return;
    LeftOut left_out;
    read_copied(values, &left_out);
    for (int i = 0; i < left_out.copied_count; i++)
      if (left_out.copied[i].has_pin && (!found || covers(*pin, left_out.copied[i].pin))) {
        *pin = left_out.copied[i].pin;
        found = true;
      }
  });
  return found;
}

Position log_floor(const char *peer) {
  Position floor;
  const Relation rel = table_open(config::own_relation("peer_state"), AccessShareLock);
  const AttrNumber column = get_attnum(RelationGetRelid(rel), "log_floor");
  const SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr);
  HeapTuple tuple;
  while (HeapTupleIsValid(tuple = systable_getnext(scan))) {
    bool is_null;
    const Datum name = heap_getattr(tuple, 1, RelationGetDescr(rel), &is_null);
    if (namestrcmp(DatumGetName(name), peer) != 0)
      continue;
    const Datum value = heap_getattr(tuple, column, RelationGetDescr(rel), &is_null);
    if (!is_null)
      floor = position_from_datum(value);
  }
  systable_endscan(scan);
  table_close(rel, AccessShareLock);
  return floor;
}

bool history_is_old(Oid table, TimestampTz keep_since) {
  bool old = false;
  const Relation rel = table_open(table, AccessShareLock);
  const SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr);
  const HeapTuple first = systable_getnext(scan); // insert-only: the first row is the oldest
  if (HeapTupleIsValid(first)) {
    bool is_null;
    old = DatumGetTimestampTz(heap_getattr(first, kAt + 1, RelationGetDescr(rel), &is_null)) < keep_since;
  }
  systable_endscan(scan);
  table_close(rel, AccessShareLock);
  return old;
}

bool carry_history_over(int from, int to, TimestampTz keep_since) {
  // Everything in `from` must be old. Of each peer, what stays needed whatever its age is copied: the
  // newest batch sent, the newest acknowledgement. Entry numbers keep their order.
  const Relation rel = table_open(history_table(from), AccessShareLock);
  const SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr);
  List *newest = NIL; // of HeapTuple, at most one per peer and kind
  bool all_old = true;
  HeapTuple tuple;
  const TupleDesc desc = RelationGetDescr(rel);
  while (all_old && HeapTupleIsValid(tuple = systable_getnext(scan))) {
    Datum values[kColumns];
    bool nulls[kColumns];
    heap_deform_tuple(tuple, desc, values, nulls);
    all_old = DatumGetTimestampTz(values[kAt]) <= keep_since;
    ListCell *cell;
    bool placed = false;
    foreach (cell, newest) {
      auto *other = static_cast<HeapTuple>(lfirst(cell));
      Datum theirs[kColumns];
      heap_deform_tuple(other, desc, theirs, nulls);
      if (DatumGetChar(theirs[kKind]) != DatumGetChar(values[kKind]) ||
          namestrcmp(DatumGetName(theirs[kPeer]), NameStr(*DatumGetName(values[kPeer]))) != 0)
        continue;
      placed = true;
      if (DatumGetInt64(theirs[kEntry]) < DatumGetInt64(values[kEntry])) {
        heap_freetuple(other);
        lfirst(cell) = heap_copytuple(tuple);
      }
      break;
    }
    if (!placed)
      newest = lappend(newest, heap_copytuple(tuple));
  }
  systable_endscan(scan);
  if (all_old) {
    const Relation target = table_open(history_table(to), RowExclusiveLock);
    ListCell *cell;
    foreach (cell, newest) {
      Datum values[kColumns];
      bool nulls[kColumns];
      heap_deform_tuple(static_cast<HeapTuple>(lfirst(cell)), desc, values, nulls);
      if (config::peer_exists(NameStr(*DatumGetName(values[kPeer]))))
        heap_insert(target, heap_form_tuple(RelationGetDescr(target), values, nulls),
                    GetCurrentCommandId(true), 0, nullptr);
    }
    table_close(target, NoLock);
  }
  table_close(rel, AccessShareLock);
  return all_old;
}

} // namespace seal_sync::scan

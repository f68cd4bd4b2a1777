// See origin.hpp.
#include "apply/origin.hpp"

#include "config/config.hpp"

namespace seal_sync::apply {

namespace {

enum Column { kNode = 1, kToken, kIssued, kConfirmed, kLogin, kFirstSeen, kColumns = kFirstSeen };

struct Found {
  Relation heap, index;
  SysScanDesc scan;
  HeapTuple tuple; // nullptr: no such row
};

Found find(const NameData *node, LOCKMODE mode) {
  Found found = {};
  found.heap = table_open(config::own_relation("origin"), mode);
  found.index = index_open(config::own_relation("origin_pkey"), AccessShareLock);
  PushActiveSnapshot(GetLatestSnapshot());
  ScanKeyData key;
  ScanKeyInit(&key, kNode, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(node));
  found.scan = systable_beginscan_ordered(found.heap, found.index, GetActiveSnapshot(), 1, &key);
  found.tuple = systable_getnext_ordered(found.scan, ForwardScanDirection);
  return found;
}

void close(Found &found) {
  systable_endscan_ordered(found.scan);
  PopActiveSnapshot();
  index_close(found.index, AccessShareLock);
  table_close(found.heap, NoLock);
}

} // namespace

OriginRow read_origin(const NameData &node) {
  OriginRow row = {};
  Found found = find(&node, AccessShareLock);
  if (HeapTupleIsValid(found.tuple)) {
    bool is_null;
    const TupleDesc desc = RelationGetDescr(found.heap);
    row.found = true;
    row.token = *DatumGetUUIDP(heap_getattr(found.tuple, kToken, desc, &is_null));
    row.issued = static_cast<uint64>(DatumGetInt64(heap_getattr(found.tuple, kIssued, desc, &is_null)));
    row.confirmed =
        static_cast<uint64>(DatumGetInt64(heap_getattr(found.tuple, kConfirmed, desc, &is_null)));
    row.login = *DatumGetName(heap_getattr(found.tuple, kLogin, desc, &is_null));
  }
  close(found);
  return row;
}

void issue_generation(const NameData &node, const pg_uuid_t &token, uint64 presented, uint64 generation) {
  NameData name = node, login;
  pg_uuid_t uuid = token;
  namestrcpy(&login, GetUserNameFromId(GetSessionUserId(), false));
  Datum values[kColumns] = {};
  bool nulls[kColumns] = {};
  bool replace[kColumns] = {};
  values[kNode - 1] = NameGetDatum(&name);
  values[kToken - 1] = UUIDPGetDatum(&uuid);
  values[kIssued - 1] = Int64GetDatum(static_cast<int64>(generation));
  values[kConfirmed - 1] = Int64GetDatum(static_cast<int64>(presented));
  values[kLogin - 1] = NameGetDatum(&login);
  values[kFirstSeen - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
  replace[kIssued - 1] = replace[kConfirmed - 1] = true;

  Found found = find(&node, RowExclusiveLock);
  const TupleDesc desc = RelationGetDescr(found.heap);
  if (HeapTupleIsValid(found.tuple)) {
    HeapTuple changed = heap_modify_tuple(found.tuple, desc, values, nulls, replace);
    CatalogTupleUpdate(found.heap, &changed->t_self, changed);
  } else {
    CatalogTupleInsert(found.heap, heap_form_tuple(desc, values, nulls));
  }
  close(found);
}

void confirm_generation(const NameData &node, uint64 generation) {
  Datum values[kColumns] = {};
  bool nulls[kColumns] = {};
  bool replace[kColumns] = {};
  values[kConfirmed - 1] = Int64GetDatum(static_cast<int64>(generation));
  replace[kConfirmed - 1] = true;
  Found found = find(&node, RowExclusiveLock);
  if (HeapTupleIsValid(found.tuple)) {
    HeapTuple changed =
        heap_modify_tuple(found.tuple, RelationGetDescr(found.heap), values, nulls, replace);
    CatalogTupleUpdate(found.heap, &changed->t_self, changed);
  }
  close(found);
}

} // namespace seal_sync::apply

// See partitions.hpp.
#include "apply/partitions.hpp"

extern "C" {
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
}

namespace seal_sync::apply {

namespace {

constexpr int kNone = -1;

/// What get_partition_for_tuple() of core does. Number of the partition or kNone.
int find_partition(PartitionKey key, PartitionDesc partitions, Datum *values, bool *nulls) {
  const PartitionBoundInfo bounds = partitions->boundinfo;
  bool any_null = false;
  for (int i = 0; i < key->partnatts; ++i)
    any_null = any_null || nulls[i];
  int found = kNone;
  bool equal = false;
  switch (key->strategy) {
  case PARTITION_STRATEGY_HASH: {
    const uint64 hash =
        compute_partition_hash_value(key->partnatts, key->partsupfunc, key->partcollation, values, nulls);
    return bounds->indexes[hash % static_cast<uint64>(bounds->nindexes)];
  }
  case PARTITION_STRATEGY_LIST:
    if (any_null) {
      found = bounds->null_index;
    } else {
      const int at =
          partition_list_bsearch(key->partsupfunc, key->partcollation, bounds, values[0], &equal);
      found = at >= 0 && equal ? bounds->indexes[at] : kNone;
    }
    break;
  default: // range
    if (!any_null) {
      const int at = partition_range_datum_bsearch(key->partsupfunc, key->partcollation, bounds,
                                                   key->partnatts, values, &equal);
      found = bounds->indexes[at + 1];
    }
  }
  return found != kNone ? found : bounds->default_index;
}

/// The columns of `table` may be numbered otherwise than those of the root, of which `row` is.
bool has_partition_below(Relation root, Relation table, TupleTableSlot *row) {
  const PartitionKey key = RelationGetPartitionKey(table);
  const PartitionDesc partitions = RelationGetPartitionDesc(table, true);
  if (partitions->nparts == 0)
    return false;
  Datum values[PARTITION_MAX_KEYS];
  bool nulls[PARTITION_MAX_KEYS];
  for (int i = 0; i < key->partnatts; ++i) {
    AttrNumber column = key->partattrs[i];
    if (column == 0)
      return true; // an expression, which no primary key allows: the executor will find out
    if (table != root)
      column = get_attnum(RelationGetRelid(root),
                          NameStr(TupleDescAttr(RelationGetDescr(table), column - 1)->attname));
    values[i] = slot_getattr(row, column, &nulls[i]);
  }
  const int found = find_partition(key, partitions, values, nulls);
  if (found == kNone)
    return false;
  if (partitions->is_leaf[found])
    return true;
  Relation below = table_open(partitions->oids[found], RowExclusiveLock); // as routing will
  const bool has = has_partition_below(root, below, row);
  table_close(below, NoLock);
  return has;
}

} // namespace

bool has_partition(Relation table, TupleTableSlot *row) { return has_partition_below(table, table, row); }

} // namespace seal_sync::apply

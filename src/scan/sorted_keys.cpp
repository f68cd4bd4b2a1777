// See sorted_keys.hpp.
#include "scan/sorted_keys.hpp"

#include "pg/boundary.hpp"

namespace seal_sync::scan {

struct SortedKeys {
  int key_count;
  TupleDesc desc; // key columns, leaf oid, cluster id, mask bytea (NULL: whole row), held id (NULL: none)
  Tuplesortstate *sort;
  TupleTableSlot *in;
  TupleTableSlot *current;  // first tuple of the group being made
  TupleTableSlot *lookahead;
  bool have_lookahead;
  bool sorted;
  FmgrInfo equal[INDEX_MAX_KEYS];
  Oid collations[INDEX_MAX_KEYS];
  int64 added;
  int64 read;
};

SortedKeys *begin_keys(const config::Table *root, int memory_kb) {
  auto *keys = static_cast<SortedKeys *>(palloc0(sizeof(SortedKeys)));
  keys->key_count = root->key_count;
  const int n = root->key_count;
  keys->desc = CreateTemplateTupleDesc(n + 4);
  AttrNumber attnos[INDEX_MAX_KEYS];
  Oid less[INDEX_MAX_KEYS];
  bool nulls_first[INDEX_MAX_KEYS] = {};

  const Oid key_index = root->key_index;
  const Relation index = RelationIdGetRelation(key_index);
  if (!RelationIsValid(index))
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("a primary key was dropped meanwhile"));
  for (int i = 0; i < n; i++) {
    const Oid family = index->rd_opfamily[i];
    const Oid type = index->rd_opcintype[i];
    attnos[i] = static_cast<AttrNumber>(i + 1);
    less[i] = get_opfamily_member(family, type, type, BTLessStrategyNumber);
    const Oid equal = get_opfamily_member(family, type, type, BTEqualStrategyNumber);
    if (!OidIsValid(less[i]) || !OidIsValid(equal))
      elog(ERROR, "missing operators in operator family %u for type %u", family, type);
    fmgr_info(get_opcode(equal), &keys->equal[i]);
    keys->collations[i] = index->rd_indcollation[i];
    TupleDescInitEntry(keys->desc, attnos[i], nullptr, root->keys[i].type, -1, 0);
    TupleDescInitEntryCollation(keys->desc, attnos[i], keys->collations[i]);
  }
  RelationClose(index);
  TupleDescInitEntry(keys->desc, static_cast<AttrNumber>(n + 1), nullptr, OIDOID, -1, 0);
  TupleDescInitEntry(keys->desc, static_cast<AttrNumber>(n + 2), nullptr, INT4OID, -1, 0);
  TupleDescInitEntry(keys->desc, static_cast<AttrNumber>(n + 3), nullptr, BYTEAOID, -1, 0);
  TupleDescInitEntry(keys->desc, static_cast<AttrNumber>(n + 4), nullptr, INT8OID, -1, 0);

  keys->sort = tuplesort_begin_heap(keys->desc, n, attnos, less, keys->collations, nulls_first,
                                    memory_kb, nullptr, 0);
  keys->in = MakeSingleTupleTableSlot(keys->desc, &TTSOpsVirtual);
  keys->current = MakeSingleTupleTableSlot(keys->desc, &TTSOpsMinimalTuple);
  keys->lookahead = MakeSingleTupleTableSlot(keys->desc, &TTSOpsMinimalTuple);
  return keys;
}

void add_key(SortedKeys *keys, const Datum *values, Oid leaf, int32 cluster, core::ByteSpan mask, bool whole,
             int64 held) {
  const int n = keys->key_count;
  ExecClearTuple(keys->in);
  for (int i = 0; i < n; i++) {
    keys->in->tts_values[i] = values[i];
    keys->in->tts_isnull[i] = false;
  }
  alignas(8) uint8 packed[VARHDRSZ + 256];
  SET_VARSIZE(packed, VARHDRSZ + mask.size());
  memcpy(packed + VARHDRSZ, mask.data(), mask.size());
  keys->in->tts_values[n] = ObjectIdGetDatum(leaf);
  keys->in->tts_isnull[n] = false;
  keys->in->tts_values[n + 1] = Int32GetDatum(cluster);
  keys->in->tts_isnull[n + 1] = false;
  keys->in->tts_values[n + 2] = PointerGetDatum(packed);
  keys->in->tts_isnull[n + 2] = whole;
  keys->in->tts_values[n + 3] = Int64GetDatum(held);
  keys->in->tts_isnull[n + 3] = held == 0;
  ExecStoreVirtualTuple(keys->in);
  tuplesort_puttupleslot(keys->sort, keys->in);
  keys->added++;
}

void sort_keys(SortedKeys *keys) {
  if (keys->sorted)
    return;
  tuplesort_performsort(keys->sort);
  keys->sorted = true;
  keys->have_lookahead = tuplesort_gettupleslot(keys->sort, true, true, keys->lookahead, nullptr);
}

namespace {

bool same_key(const SortedKeys *keys, TupleTableSlot *a, TupleTableSlot *b) {
  for (int i = 0; i < keys->key_count; i++)
    if (!DatumGetBool(FunctionCall2Coll(const_cast<FmgrInfo *>(&keys->equal[i]), keys->collations[i],
                                        a->tts_values[i], b->tts_values[i])))
      return false;
  return true;
}

void merge(const SortedKeys *keys, TupleTableSlot *slot, KeyGroup *group) {
  const int n = keys->key_count;
  const Oid leaf = DatumGetObjectId(slot->tts_values[n]);
  bool known = false;
  for (int i = 0; i < group->leaf_count; i++)
    known = known || group->leaves[i] == leaf;
  if (!known) {
    if (!OidIsValid(leaf) || group->leaf_count == kMaxLeavesPerKey)
      group->any_leaf = true; // look everywhere
    else
      group->leaves[group->leaf_count++] = leaf;
  }
  const bool whole = slot->tts_isnull[n + 2];
  // A row that moved between clusters was deleted in one and inserted, whole, in the other.
  const int32 cluster = DatumGetInt32(slot->tts_values[n + 1]);
  if (cluster != 0 && (whole || group->cluster == 0))
    group->cluster = cluster;
  if (whole)
    group->whole = true;
  else {
    const bytea *mask = DatumGetByteaPP(slot->tts_values[n + 2]);
    const int size = static_cast<int>(VARSIZE_ANY_EXHDR(mask));
    const auto *bits = reinterpret_cast<const uint8 *>(VARDATA_ANY(mask));
    while (group->mask_size < size)
      group->mask[group->mask_size++] = 0;
    for (int i = 0; i < size; i++)
      group->mask[i] = static_cast<uint8>(group->mask[i] | bits[i]);
  }
  if (!slot->tts_isnull[n + 3]) {
    group->whole = true;
    const int64 id = DatumGetInt64(slot->tts_values[n + 3]);
    bool noted = false; // a held key that has changed again comes from both
    for (int i = 0; i < group->held_count; i++)
      noted = noted || group->held[i] == id;
    if (!noted && group->held_count < 4)
      group->held[group->held_count++] = id;
  }
}

} // namespace

bool next_group(SortedKeys *keys, KeyGroup *group) {
  sort_keys(keys);
  if (!keys->have_lookahead)
    return false;
  std::swap(keys->current, keys->lookahead);
  slot_getallattrs(keys->current);
  group->mask_size = group->leaf_count = group->held_count = 0;
  group->whole = group->any_leaf = false;
  group->cluster = 0;
  memcpy(group->values, keys->current->tts_values, sizeof(Datum) * static_cast<size_t>(keys->key_count));
  merge(keys, keys->current, group);
  keys->read++;
  for (;;) {
    CHECK_FOR_INTERRUPTS();
    keys->have_lookahead = tuplesort_gettupleslot(keys->sort, true, true, keys->lookahead, nullptr);
    if (!keys->have_lookahead)
      return true;
    slot_getallattrs(keys->lookahead);
    if (!same_key(keys, keys->current, keys->lookahead))
      return true;
    merge(keys, keys->lookahead, group);
    keys->read++;
  }
}

void end_keys(SortedKeys *keys) {
  tuplesort_end(keys->sort);
  ExecDropSingleTupleTableSlot(keys->in);
  ExecDropSingleTupleTableSlot(keys->current);
  ExecDropSingleTupleTableSlot(keys->lookahead);
  pfree(keys);
}

int64 keys_added(const SortedKeys *keys) { return keys->added; }
int64 keys_read(const SortedKeys *keys) { return keys->read; }

} // namespace seal_sync::scan

// See index_entries.hpp.
#include "apply/index_entries.hpp"

namespace seal_sync::apply {

struct IndexEntries {
  Relation table;
  int count; // indexes of plain columns, checked at once
  Relation *indexes;
  IndexInfo **infos;
  ResultRelInfo *others; // expressions, predicates, exclusion, deferrable: the executor's; null: none
};

namespace {

bool is_plain(Relation index, const IndexInfo *info) {
  return info->ii_Expressions == NIL && info->ii_Predicate == NIL && info->ii_ExclusionOps == nullptr &&
         info->ii_ReadyForInserts && (!info->ii_Unique || index->rd_index->indimmediate);
}

/// Whether the key of a plain index is the same in both versions, byte by byte.
bool same_key(const IndexInfo *info, TupleDesc desc, TupleTableSlot *a, TupleTableSlot *b) {
  for (int i = 0; i < info->ii_NumIndexKeyAttrs; ++i) {
    const AttrNumber attno = info->ii_IndexAttrNumbers[i];
    if (attno <= 0)
      return false;
    bool null_a, null_b;
    const Datum value_a = slot_getattr(a, attno, &null_a);
    const Datum value_b = slot_getattr(b, attno, &null_b);
    const Form_pg_attribute attribute = TupleDescAttr(desc, attno - 1);
    if (null_a != null_b || (!null_a && !datum_image_eq(value_a, value_b, attribute->attbyval, attribute->attlen)))
      return false;
  }
  return true;
}

} // namespace

IndexEntries *open_index_entries(ResultRelInfo *result) {
  auto *entries = static_cast<IndexEntries *>(palloc0(sizeof(IndexEntries)));
  const int all = result->ri_NumIndices;
  const auto bytes = static_cast<Size>(Max(all, 1));
  entries->table = result->ri_RelationDesc;
  entries->indexes = static_cast<Relation *>(palloc(sizeof(Relation) * bytes));
  entries->infos = static_cast<IndexInfo **>(palloc(sizeof(IndexInfo *) * bytes));
  auto *others = static_cast<ResultRelInfo *>(palloc(sizeof(ResultRelInfo)));
  memcpy(others, result, sizeof(ResultRelInfo));
  others->ri_NumIndices = 0;
  others->ri_IndexRelationDescs = static_cast<Relation *>(palloc(sizeof(Relation) * bytes));
  others->ri_IndexRelationInfo = static_cast<IndexInfo **>(palloc(sizeof(IndexInfo *) * bytes));
  for (int i = 0; i < all; ++i) {
    const Relation index = result->ri_IndexRelationDescs[i];
    IndexInfo *const info = result->ri_IndexRelationInfo[i];
    if (is_plain(index, info)) {
      entries->indexes[entries->count] = index;
      entries->infos[entries->count++] = info;
    } else {
      others->ri_IndexRelationDescs[others->ri_NumIndices] = index;
      others->ri_IndexRelationInfo[others->ri_NumIndices++] = info;
    }
  }
  if (others->ri_NumIndices > 0)
    entries->others = others;
  return entries;
}

List *insert_index_entries(IndexEntries *entries, EState *estate, TupleTableSlot *row, TupleTableSlot *replaced,
                           bool only_summarizing) {
  Datum values[INDEX_MAX_KEYS];
  bool nulls[INDEX_MAX_KEYS];
  for (int i = 0; i < entries->count; ++i) {
    const Relation index = entries->indexes[i];
    IndexInfo *const info = entries->infos[i];
    if (only_summarizing && !pg::is_summarizing(info))
      continue;
    FormIndexDatum(info, row, estate, values, nulls);
    const bool unchanged =
        replaced != nullptr && same_key(info, RelationGetDescr(entries->table), replaced, row);
    // While an index is built concurrently, the version before need not be in it, nor have been checked against
    // those that are; and the build believes entries that it finds.
    const bool checked_before = unchanged && index->rd_index->indisvalid;
    const IndexUniqueCheck check = info->ii_Unique && !checked_before ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO;
    (void)index_insert(index, values, nulls, &row->tts_tid, entries->table, check, unchanged, info);
  }
  if (entries->others == nullptr)
    return NIL;
  return pg::exec_insert_index_tuples(entries->others, row, estate, replaced != nullptr, false, nullptr, NIL,
                                      only_summarizing);
}

} // namespace seal_sync::apply

// See other_keys.hpp.
#include "apply/other_keys.hpp"

#include "apply/reply.hpp"
#include "apply/standing.hpp"
#include "apply/target.hpp"

namespace seal_sync::apply {

struct UniqueProbe {
  MemoryContext context; // its own
  Oid heap, index;
  int count;
  Datum values[INDEX_MAX_KEYS];
  bool nulls[INDEX_MAX_KEYS];
};

namespace {

using core::wire::ColumnClass;

// ---- a key as the sender sends it -----------------------------------------------------------------

bool as_integer(Oid type, Datum value, int64 *number) {
  switch (type) {
  case INT2OID:
    *number = DatumGetInt16(value);
    return true;
  case INT4OID:
    *number = DatumGetInt32(value);
    return true;
  case INT8OID:
    *number = DatumGetInt64(value);
    return true;
  default:
    return false;
  }
}

/// A foreign key may be of another type than what it refers to. False: not one that is known to be the same value.
bool convert(Oid from, Oid into, Datum *value) {
  if (from == into)
    return true;
  int64 number;
  if (!as_integer(from, *value, &number))
    return (from == TEXTOID || from == VARCHAROID) && (into == TEXTOID || into == VARCHAROID);
  switch (into) {
  case INT2OID:
    *value = Int16GetDatum(static_cast<int16>(number));
    return number == static_cast<int16>(number);
  case INT4OID:
    *value = Int32GetDatum(static_cast<int32>(number));
    return number == static_cast<int32>(number);
  case INT8OID:
    *value = Int64GetDatum(number);
    return true;
  default:
    return false;
  }
}

void write_text(core::Buffer *out, char *text, int size, int encoding) {
  char *const converted = pg_server_to_any(text, size, encoding);
  out->text({converted, converted == text ? static_cast<std::size_t>(size) : strlen(converted)});
}

void write_value(core::Buffer *out, const SentColumn &column, Oid type, Datum value, int encoding) {
  switch (column.cls) {
  case ColumnClass::kFixed:
    if (get_typbyval(type))
      out->bytes(&value, column.width); // hosts are little-endian
    else
      out->bytes(DatumGetPointer(value), column.width);
    return;
  case ColumnClass::kBytes:
    out->sized(bytes_of(DatumGetByteaPP(value)));
    return;
  case ColumnClass::kText:
    if (type == NAMEOID) {
      char *const name = NameStr(*DatumGetName(value));
      write_text(out, name, static_cast<int>(strlen(name)), encoding);
    } else {
      text *const plain = DatumGetTextPP(value);
      write_text(out, VARDATA_ANY(plain), static_cast<int>(VARSIZE_ANY_EXHDR(plain)), encoding);
    }
    return;
  case ColumnClass::kBinary: {
    Oid function;
    bool varlena;
    getTypeBinaryOutputInfo(type, &function, &varlena);
    out->sized(bytes_of(OidSendFunctionCall(function, value))); // client_encoding is the sender's
    return;
  }
  case ColumnClass::kOutput: {
    Oid function;
    bool varlena;
    getTypeOutputInfo(type, &function, &varlena);
    char *const shown = OidOutputFunctionCall(function, value);
    write_text(out, shown, static_cast<int>(strlen(shown)), encoding);
    return;
  }
  }
}

/// values[k], types[k]: of the k-th column of the key.
bool fill(const Attempt *attempt, const Descriptor *descriptor, const Oid *types, Datum *values, bool stands,
          const char *cluster, OtherKey *other) {
  const MemoryContext caller = MemoryContextSwitchTo(attempt->rows);
  core::Buffer key = make_buffer(CurrentMemoryContext);
  for (int i = 0; i < (descriptor->key_count + 7) / 8; ++i)
    key.u8(0);
  bool written = true;
  for (int k = 0; k < descriptor->key_count && written; ++k) {
    const SentColumn &column = descriptor->columns[descriptor->key_columns[k]];
    const Oid type = get_atttype(descriptor->relation, column.attno);
    written = OidIsValid(type) && convert(types[k], type, &values[k]);
    if (written)
      write_value(&key, column, type, values[k], attempt->session->encoding);
  }
  MemoryContextSwitchTo(caller);
  *other = {NameStr(descriptor->schema), NameStr(descriptor->table), cluster, key.span(), stands};
  return written;
}

/// Runs what may call functions of types and operators in a subtransaction, of which nothing stays: false when
/// that fails, unless the failure is not of this row alone.
template <typename Work> bool attempted(const Work &work) {
  const MemoryContext caller = CurrentMemoryContext;
  const ResourceOwner owner = CurrentResourceOwner;
  volatile bool done = false;
  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(caller);
  PG_TRY();
  {
    done = work();
    RollbackAndReleaseCurrentSubTransaction();
  }
  PG_CATCH();
  {
    MemoryContextSwitchTo(caller);
    ErrorData *const error = CopyErrorData();
    FlushErrorState();
    RollbackAndReleaseCurrentSubTransaction();
    CurrentResourceOwner = owner;
    if (!is_row_error(error))
      ReThrowError(error);
    FreeErrorData(error);
    done = false;
  }
  PG_END_TRY();
  MemoryContextSwitchTo(caller);
  CurrentResourceOwner = owner;
  return done;
}

// ---- unique values --------------------------------------------------------------------------------

bool is_searchable(const IndexInfo *info) {
  return info->ii_Unique && info->ii_Expressions == NIL && info->ii_ExclusionOps == nullptr;
}

UniqueProbe *make_probe(MemoryContext parent, Relation heap, Relation index, const IndexInfo *info,
                        TupleTableSlot *row) {
  const MemoryContext context = AllocSetContextCreate(parent, "seal_sync unique values", ALLOCSET_SMALL_SIZES);
  auto *probe = static_cast<UniqueProbe *>(MemoryContextAllocZero(context, sizeof(UniqueProbe)));
  probe->context = context;
  probe->heap = RelationGetRelid(heap);
  probe->index = RelationGetRelid(index);
  probe->count = info->ii_NumIndexKeyAttrs;
  const MemoryContext caller = MemoryContextSwitchTo(context);
  for (int i = 0; i < probe->count; ++i) {
    const Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(heap), info->ii_IndexAttrNumbers[i] - 1);
    const Datum value = slot_getattr(row, attribute->attnum, &probe->nulls[i]);
    if (probe->nulls[i])
      continue;
    // What stands outside the row cannot be read any more; and is too long for an index.
    if (attribute->attlen == -1 && VARATT_IS_EXTERNAL(DatumGetPointer(value))) {
      MemoryContextSwitchTo(caller);
      MemoryContextDelete(context);
      return nullptr;
    }
    probe->values[i] = datumCopy(value, attribute->attbyval, attribute->attlen);
  }
  MemoryContextSwitchTo(caller);
  return probe;
}

/// The key of the row in the slot, which is of the refused row's table or of one of its partitions.
bool fill_from_row(Attempt *attempt, Relation heap, TupleTableSlot *row, OtherKey *other) {
  // Of this connection: rows of a stage may have come in another form.
  const Descriptor *const descriptor = described_as(attempt->session, attempt->current.descriptor->relation);
  if (descriptor == nullptr)
    return false;
  Datum values[INDEX_MAX_KEYS];
  Oid types[INDEX_MAX_KEYS];
  for (int k = 0; k < descriptor->key_count; ++k) {
    const char *const name = NameStr(descriptor->columns[descriptor->key_columns[k]].name);
    const AttrNumber attno = get_attnum(RelationGetRelid(heap), name);
    bool is_null = true;
    if (attno > 0)
      values[k] = slot_getattr(row, attno, &is_null);
    if (is_null)
      return false;
    types[k] = TupleDescAttr(RelationGetDescr(heap), attno - 1)->atttypid;
  }
  config::Table *const rule = config::find_table(RelationGetRelid(heap));
  const config::Cluster *const cluster = rule == nullptr ? nullptr : config::cluster_of(rule, row);
  return may_be_told(attempt, cluster) &&
         fill(attempt, descriptor, types, values, true, NameStr(cluster->name), other);
}

bool search(Attempt *attempt, const UniqueProbe *probe, const ItemPointerData *but, OtherKey *other) {
  const Relation heap = table_open(probe->heap, AccessShareLock);
  const OwnerScope scope = become_owner(heap->rd_rel->relowner);
  const Relation index = index_open(probe->index, AccessShareLock);
  ScanKeyData keys[INDEX_MAX_KEYS];
  for (int i = 0; i < probe->count; ++i) {
    const Oid type = index->rd_opcintype[i];
    const Oid equal = get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber);
    const auto attno = static_cast<AttrNumber>(i + 1);
    if (probe->nulls[i]) // NULLS NOT DISTINCT
      ScanKeyEntryInitialize(&keys[i], SK_ISNULL | SK_SEARCHNULL, attno, InvalidStrategy, InvalidOid, InvalidOid,
                             InvalidOid, 0);
    else
      ScanKeyEntryInitialize(&keys[i], 0, attno, BTEqualStrategyNumber, type, index->rd_indcollation[i],
                             get_opcode(equal), probe->values[i]);
  }
  TupleTableSlot *const slot = table_slot_create(heap, nullptr);
  // What this batch has written counts, and what others have committed.
  const IndexScanDesc scan = pg::index_beginscan(heap, index, SnapshotSelf, probe->count);
  index_rescan(scan, keys, probe->count, nullptr, 0);
  bool found = false;
  while (!found && index_getnext_slot(scan, ForwardScanDirection, slot))
    found = but == nullptr || !ItemPointerEquals(&slot->tts_tid, const_cast<ItemPointer>(but));
  if (found)
    found = fill_from_row(attempt, heap, slot, other);
  index_endscan(scan);
  ExecDropSingleTupleTableSlot(slot);
  index_close(index, NoLock);
  leave_owner(scope);
  table_close(heap, NoLock);
  return found;
}

} // namespace

UniqueProbe *note_probe(const Attempt *attempt, const ErrorData *error) {
  const Leaf *const leaf = attempt->writing.leaf;
  if (leaf == nullptr || !tells_standing(attempt) || error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION ||
      error->constraint_name == nullptr)
    return nullptr;
  for (int i = 0; i < leaf->result->ri_NumIndices; ++i) {
    const Relation index = leaf->result->ri_IndexRelationDescs[i];
    if (strcmp(RelationGetRelationName(index), error->constraint_name) == 0 &&
        is_searchable(leaf->result->ri_IndexRelationInfo[i]))
      return make_probe(attempt->context, leaf->relation, index, leaf->result->ri_IndexRelationInfo[i],
                        attempt->writing.row);
  }
  return nullptr;
}

void free_probe(UniqueProbe *probe) {
  if (probe != nullptr)
    MemoryContextDelete(probe->context);
}

bool find_conflict(Attempt *attempt, const UniqueProbe *probe, const ItemPointerData *but, OtherKey *other) {
  return attempted([&] { return search(attempt, probe, but, other); });
}

bool find_conflict_of(Attempt *attempt, Oid heap, Oid index, const ItemPointerData &tid, OtherKey *other) {
  if (!tells_standing(attempt))
    return false;
  return attempted([&] {
    const Relation table = table_open(heap, AccessShareLock);
    const Relation unique = index_open(index, AccessShareLock);
    TupleTableSlot *const row = table_slot_create(table, nullptr);
    const IndexInfo *const info = BuildIndexInfo(unique);
    ItemPointerData of = tid;
    UniqueProbe *probe = nullptr;
    if (is_searchable(info) && table_tuple_fetch_row_version(table, &of, SnapshotSelf, row))
      probe = make_probe(attempt->rows, table, unique, info, row);
    const bool found = probe != nullptr && search(attempt, probe, &tid, other);
    free_probe(probe);
    ExecDropSingleTupleTableSlot(row);
    index_close(unique, NoLock);
    table_close(table, NoLock);
    return found;
  });
}

bool parent_of(Attempt *attempt, const ForeignKey *key, const Datum *values, OtherKey *other) {
  const Descriptor *const descriptor = described_as(attempt->session, key->parent);
  if (descriptor == nullptr)
    return false;
  Datum key_values[INDEX_MAX_KEYS];
  Oid types[INDEX_MAX_KEYS];
  for (int k = 0; k < descriptor->key_count; ++k) {
    int i = 0;
    while (i < key->count && strcmp(NameStr(key->parent_columns[i]),
                                    NameStr(descriptor->columns[descriptor->key_columns[k]].name)) != 0)
      ++i;
    if (i == key->count) // it refers to something else than the primary key
      return false;
    key_values[k] = values[i];
    types[k] = key->types[i];
  }
  return attempted([&] { return fill(attempt, descriptor, types, key_values, false, "", other); });
}

bool child_of(Attempt *attempt, ForeignKeyQueries *queries, const Datum *values, OtherKey *other) {
  const Descriptor *const descriptor = described_as(attempt->session, queries_key(queries)->child);
  config::Table *const rule = descriptor == nullptr ? nullptr : config::find_table(descriptor->relation);
  if (rule == nullptr)
    return false;
  const char *columns[INDEX_MAX_KEYS + 1];
  Oid types[INDEX_MAX_KEYS];
  for (int k = 0; k < descriptor->key_count; ++k) {
    const SentColumn &column = descriptor->columns[descriptor->key_columns[k]];
    columns[k] = NameStr(column.name);
    types[k] = get_atttype(descriptor->relation, column.attno);
  }
  int count = descriptor->key_count;
  if (rule->cluster_attno > 0)
    columns[count++] = get_attname(descriptor->relation, rule->cluster_attno, false);
  return attempted([&] {
    Datum found[INDEX_MAX_KEYS + 1];
    if (!find_child(queries, values, columns, count, found))
      return false;
    const config::Cluster *const cluster =
        rule->cluster_attno > 0 ? config::cluster_of(rule, found[count - 1], false) : rule->constant_cluster;
    return may_be_told(attempt, cluster) &&
           fill(attempt, descriptor, types, found, true, NameStr(cluster->name), other);
  });
}

} // namespace seal_sync::apply

// See foreign_keys.hpp.
#include "apply/foreign_keys.hpp"

#include "apply/foreign_key_queries.hpp"
#include "apply/other_keys.hpp"
#include "apply/reply.hpp"
#include "apply/staged_batch.hpp"

namespace seal_sync::apply {

struct ForeignKeys {
  int count;
  ForeignKey *keys;
};

/// What was collected for one foreign key in one direction.
struct CollectedKeys {
  struct Id {
    Oid constraint;
    bool incoming;
    char pad[3];
  } id; // hash key
  ForeignKey *key;
  TupleDesc desc; // kExtras columns, then the key's
  TupleTableSlot *slot;
  Tuplestorestate *values;
};

struct ForeignKeyStore {
  HTAB *keys;
};

namespace {

enum Extra { kOrdinal = 1, kKind, kKey, kExtras = kKey };

CollectedKeys *collected(Attempt *attempt, const ForeignKey *key) {
  const MemoryContext caller = MemoryContextSwitchTo(attempt->context);
  if (attempt->foreign_keys == nullptr) {
    attempt->foreign_keys = static_cast<ForeignKeyStore *>(palloc0(sizeof(ForeignKeyStore)));
    HASHCTL control = {};
    control.keysize = sizeof(CollectedKeys::Id);
    control.entrysize = sizeof(CollectedKeys);
    control.hcxt = attempt->context;
    attempt->foreign_keys->keys =
        hash_create("seal_sync foreign keys", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  }
  CollectedKeys::Id id;
  memset(&id, 0, sizeof id);
  id.constraint = key->constraint;
  id.incoming = key->incoming;
  bool found;
  auto *entry = static_cast<CollectedKeys *>(
      hash_search(attempt->foreign_keys->keys, &id, HASH_ENTER, &found));
  if (!found) {
    entry->key = static_cast<ForeignKey *>(palloc(sizeof(ForeignKey)));
    *entry->key = *key;
    entry->desc = CreateTemplateTupleDesc(key->count + kExtras);
    TupleDescInitEntry(entry->desc, kOrdinal, "ordinal", INT8OID, -1, 0);
    TupleDescInitEntry(entry->desc, kKind, "kind", CHAROID, -1, 0);
    TupleDescInitEntry(entry->desc, kKey, "key", BYTEAOID, -1, 0);
    for (int i = 0; i < key->count; ++i)
      TupleDescInitEntry(entry->desc, static_cast<AttrNumber>(kExtras + i + 1), "value", key->types[i], -1,
                         0);
    entry->slot = MakeSingleTupleTableSlot(entry->desc, &TTSOpsMinimalTuple);
    // A segment's own resource owner would take the temporary file away with the segment.
    const ResourceOwner owner = CurrentResourceOwner;
    CurrentResourceOwner = attempt->owner;
    entry->values = tuplestore_begin_heap(false, false, work_mem);
    CurrentResourceOwner = owner;
  }
  MemoryContextSwitchTo(caller);
  return entry;
}

/// False: nothing to check, a null among them (MATCH SIMPLE) or all of them null. An old row is not
/// judged: it may be older than the constraint (NOT VALID).
bool read_values(const ForeignKey *key, TupleTableSlot *row, bool is_new, Datum *values, bool *nulls) {
  int null_count = 0;
  for (int i = 0; i < key->count; ++i) {
    values[i] = slot_getattr(row, key->attnos[i], &nulls[i]);
    null_count += nulls[i] ? 1 : 0;
  }
  if (null_count == 0)
    return true;
  if (is_new && !key->incoming && key->match == FKCONSTR_MATCH_FULL && null_count < key->count)
    ereport(ERROR, errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
            errmsg("insert or update on table \"%s\" violates foreign key constraint \"%s\"",
                   get_rel_name(key->child), NameStr(key->name)),
            errdetail("MATCH FULL does not allow mixing of null and nonnull key values."),
            err_generic_string(PG_DIAG_CONSTRAINT_NAME, NameStr(key->name)));
  return false;
}

bool same_values(const ForeignKey *key, const Datum *a, const Datum *b) {
  for (int i = 0; i < key->count; ++i) {
    int16 length;
    bool by_value;
    get_typlenbyval(key->types[i], &length, &by_value);
    if (!datum_image_eq(a[i], b[i], by_value, length))
      return false;
  }
  return true;
}

void collect(Attempt *attempt, const ForeignKey *key, const Datum *key_values) {
  CollectedKeys *const entry = collected(attempt, key);
  const MemoryContext caller = MemoryContextSwitchTo(attempt->rows);
  Datum values[kExtras + INDEX_MAX_KEYS] = {};
  bool nulls[kExtras + INDEX_MAX_KEYS] = {};
  values[kOrdinal - 1] = Int64GetDatum(static_cast<int64>(attempt->current.ordinal));
  values[kKind - 1] = CharGetDatum(static_cast<char>(attempt->current.kind));
  nulls[kKey - 1] = true;
  if (attempt->careful) { // the chunk will not be at hand when it is refused
    const core::ByteSpan row_key = current_key(attempt);
    auto *copy = static_cast<bytea *>(palloc(row_key.size() + sizeof(uint64) + VARHDRSZ));
    SET_VARSIZE(copy, row_key.size() + sizeof(uint64) + VARHDRSZ);
    memcpy(VARDATA(copy), &attempt->current.descriptor->number, sizeof(uint64));
    memcpy(VARDATA(copy) + sizeof(uint64), row_key.data(), row_key.size());
    values[kKey - 1] = PointerGetDatum(copy);
    nulls[kKey - 1] = false;
  }
  for (int i = 0; i < key->count; ++i) {
    values[kExtras + i] = key_values[i];
    if (get_typlen(key->types[i]) == -1) { // a toasted value may go with its row
      auto *stored = reinterpret_cast<varlena *>(DatumGetPointer(key_values[i]));
      if (VARATT_IS_EXTERNAL(stored))
        values[kExtras + i] = PointerGetDatum(detoast_external_attr(stored));
    }
  }
  tuplestore_putvalues(entry->values, entry->desc, values, nulls);
  MemoryContextSwitchTo(caller);
}

// ---- verification -------------------------------------------------------------------------------

struct Chunk {
  int count;
  CurrentRow rows[kForeignKeyChunk];
  Datum values[INDEX_MAX_KEYS][kForeignKeyChunk];
};

/// `values`: of the columns of the foreign key.
void violated(Attempt *attempt, ForeignKeyQueries *queries, const CurrentRow &row, const Datum *values) {
  const ForeignKey *const key = queries_key(queries);
  const char *const message =
      key->incoming
          ? psprintf("update or delete on table \"%s\" violates foreign key constraint \"%s\" on table \"%s\"",
                     get_rel_name(key->parent), NameStr(key->name), get_rel_name(key->child))
          : psprintf("insert or update on table \"%s\" violates foreign key constraint \"%s\"",
                     get_rel_name(key->child), NameStr(key->name));
  const char *const detail =
      key->incoming ? psprintf("The key is still referenced from table \"%s\".", get_rel_name(key->child))
                    : psprintf("The key is not present in table \"%s\".", get_rel_name(key->parent));
  if (!attempt->careful)
    ereport(ERROR, errcode(ERRCODE_FOREIGN_KEY_VIOLATION), errmsg("%s", message), errdetail("%s", detail),
            err_generic_string(PG_DIAG_CONSTRAINT_NAME, NameStr(key->name)));
  OtherKey other;
  if (tells_standing(attempt) &&
      (key->incoming ? child_of(attempt, queries, values, &other) : parent_of(attempt, key, values, &other)))
    attempt->other = &other;
  attempt->current = row;
  refuse_current(attempt, "23503", message, detail, NameStr(key->name));
  attempt->current = {};
  attempt->other = nullptr;
}

/// Part of a chunk: `count` keys from `first` on. Refuses what violates, or raises it.
void verify_keys(Attempt *attempt, ForeignKeyQueries *queries, const Chunk *chunk, int first, int count) {
  Datum *columns[INDEX_MAX_KEYS];
  for (int i = 0; i < INDEX_MAX_KEYS; ++i)
    columns[i] = const_cast<Datum *>(chunk->values[i]) + first;
  bool good[kForeignKeyChunk];
  // A key of a stage may come more than once: what its older rows have referred to does not count.
  check_foreign_keys(queries, columns, count, attempt->staged != nullptr, good);
  for (int i = 0; i < count; ++i) {
    if (good[i])
      continue;
    Datum values[INDEX_MAX_KEYS];
    for (int k = 0; k < queries_key(queries)->count; ++k)
      values[k] = columns[k][i];
    violated(attempt, queries, chunk->rows[first + i], values);
  }
}

/// The next keys of rows that are not refused, copied into attempt->rows. Fewer than `limit`: no more.
void read_chunk(Attempt *attempt, CollectedKeys *entry, int limit, Chunk *chunk) {
  ExecClearTuple(entry->slot);
  MemoryContextReset(attempt->rows);
  const MemoryContext caller = MemoryContextSwitchTo(attempt->rows);
  chunk->count = 0;
  while (chunk->count < limit && tuplestore_gettupleslot(entry->values, true, true, entry->slot)) {
    slot_getallattrs(entry->slot);
    CurrentRow row = {};
    row.ordinal = static_cast<Ordinal>(DatumGetInt64(entry->slot->tts_values[kOrdinal - 1]));
    if (is_refused(&attempt->session->notes, row.ordinal))
      continue;
    row.kind = static_cast<uint8>(DatumGetChar(entry->slot->tts_values[kKind - 1]));
    if (!entry->slot->tts_isnull[kKey - 1]) {
      const core::ByteSpan stored = bytes_of(DatumGetByteaPCopy(entry->slot->tts_values[kKey - 1]));
      uint64 number;
      memcpy(&number, stored.data(), sizeof number);
      row.descriptor = numbered_descriptor(attempt, number);
      row.bytes = stored.subspan(sizeof number);
    }
    chunk->rows[chunk->count] = row;
    for (int i = 0; i < entry->key->count; ++i)
      chunk->values[i][chunk->count] =
          datumCopy(entry->slot->tts_values[kExtras + i], TupleDescAttr(entry->desc, kExtras + i)->attbyval,
                    TupleDescAttr(entry->desc, kExtras + i)->attlen);
    chunk->count += 1;
  }
  MemoryContextSwitchTo(caller);
  CHECK_FOR_INTERRUPTS();
}

void verify_all(Attempt *attempt, Chunk *chunk) {
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, attempt->foreign_keys->keys);
  SPI_connect();
  while (auto *entry = static_cast<CollectedKeys *>(hash_seq_search(&status))) {
    ForeignKeyQueries *const queries = prepare_foreign_key_queries(entry->key);
    tuplestore_rescan(entry->values);
    do {
      read_chunk(attempt, entry, queries_chunk(queries), chunk);
      if (chunk->count > 0)
        verify_keys(attempt, queries, chunk, 0, chunk->count);
    } while (chunk->count == queries_chunk(queries));
    free_foreign_key_queries(queries);
  }
  SPI_finish();
}

// ---- a query that fails (careful mode) ------------------------------------------------------------

/// In a subtransaction, which is kept when all went well and `keep`. Else the error, when it may be one
/// of single keys.
template <typename Work> ErrorData *try_queries(Attempt *attempt, bool keep, const Work &work) {
  const MemoryContext caller = CurrentMemoryContext;
  const ResourceOwner owner = CurrentResourceOwner;
  ErrorData *volatile error = nullptr;
  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(caller);
  PG_TRY();
  {
    work();
    if (keep)
      ReleaseCurrentSubTransaction();
    else
      RollbackAndReleaseCurrentSubTransaction();
  }
  PG_CATCH();
  {
    MemoryContextSwitchTo(attempt->context);
    error = CopyErrorData();
    FlushErrorState();
    RollbackAndReleaseCurrentSubTransaction();
  }
  PG_END_TRY();
  MemoryContextSwitchTo(caller);
  CurrentResourceOwner = owner;
  if (error != nullptr && !is_row_error(error))
    ReThrowError(error);
  return error;
}

void refuse_keys(Attempt *attempt, const ErrorData *error, const Chunk *chunk, int first, int count) {
  for (int i = first; i < first + count; ++i) {
    attempt->current = chunk->rows[i];
    refuse_current(attempt, error);
  }
  attempt->current = {};
}

/// Halves what fails until single keys fail, which are refused. Whatever is locked here is given free
/// again: the batch will be repeated without the refused rows.
void isolate(Attempt *attempt, const ForeignKey *key, const Chunk *chunk, int first, int count) {
  ErrorData *const error = try_queries(attempt, false, [&] {
    SPI_connect();
    verify_keys(attempt, prepare_foreign_key_queries(key), chunk, first, count);
    SPI_finish();
  });
  if (error == nullptr)
    return;
  // No right to read the other table, no such function: the query itself fails, for whatever key.
  if (count == 1 || ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION) {
    refuse_keys(attempt, error, chunk, first, count);
  } else {
    isolate(attempt, key, chunk, first, count / 2);
    isolate(attempt, key, chunk, first + count / 2, count - count / 2);
  }
  FreeErrorData(error);
}

void isolate_all(Attempt *attempt, Chunk *chunk) {
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, attempt->foreign_keys->keys);
  while (auto *entry = static_cast<CollectedKeys *>(hash_seq_search(&status))) {
    const int limit = keys_at_once(entry->key);
    tuplestore_rescan(entry->values);
    do {
      read_chunk(attempt, entry, limit, chunk);
      if (chunk->count > 0)
        isolate(attempt, entry->key, chunk, 0, chunk->count);
    } while (chunk->count == limit);
  }
}

} // namespace

ForeignKeys *find_foreign_keys(Relation relation) {
  ForeignKeys keys = {};
  keys.keys = list_foreign_keys(relation, &keys.count);
  if (keys.count == 0)
    return nullptr;
  auto *found = static_cast<ForeignKeys *>(palloc(sizeof(ForeignKeys)));
  *found = keys;
  return found;
}

void note_foreign_keys(Attempt *attempt, ForeignKeys *keys, TupleTableSlot *old, TupleTableSlot *now) {
  for (int k = 0; k < keys->count; ++k) {
    const ForeignKey *const key = &keys->keys[k];
    Datum old_values[INDEX_MAX_KEYS], now_values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS];
    const bool had = old != nullptr && read_values(key, old, false, old_values, nulls);
    const bool has = now != nullptr && read_values(key, now, true, now_values, nulls);
    if (had && has && same_values(key, old_values, now_values))
      continue;
    if (key->incoming ? had : has)
      collect(attempt, key, key->incoming ? old_values : now_values);
  }
}

void verify_foreign_keys(Attempt *attempt) {
  if (attempt->foreign_keys == nullptr)
    return;
  auto *chunk = static_cast<Chunk *>(MemoryContextAlloc(attempt->context, sizeof(Chunk)));
  if (!attempt->careful) {
    attempt->verifying = true;
    verify_all(attempt, chunk);
    attempt->verifying = false;
  } else if (ErrorData *const error = try_queries(attempt, true, [&] { verify_all(attempt, chunk); })) {
    const int64 refused = attempt->session->notes.refused_count;
    isolate_all(attempt, chunk);
    if (attempt->session->notes.refused_count == refused)
      ReThrowError(error); // it came and went
  }
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, attempt->foreign_keys->keys);
  while (auto *entry = static_cast<CollectedKeys *>(hash_seq_search(&status))) {
    ExecDropSingleTupleTableSlot(entry->slot);
    tuplestore_end(entry->values);
  }
  attempt->foreign_keys = nullptr;
}

} // namespace seal_sync::apply

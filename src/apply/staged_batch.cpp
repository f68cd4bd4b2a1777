// See staged_batch.hpp.
#include "apply/staged_batch.hpp"

#include "apply/reply.hpp"
#include "apply/unpack.hpp"

namespace seal_sync::apply {

namespace {

// Places of chunks are numbers of 32 bits, and the last chunk's is the highest.
constexpr uint64 kMaxBatchChunks = PG_INT32_MAX;

[[noreturn]] void not_there(Attempt *attempt, const char *detail) {
  forget_batch(attempt->session);
  ereport(ERROR, errcode(sqlstate_of(core::wire::kNotPut)),
          errmsg("a stage of batch " UINT64_FORMAT " of node \"%s\" is not what is here", attempt->request.batch,
                 NameStr(attempt->session->origin)),
          errdetail("%s", detail));
  pg_unreachable();
}

HTAB *make_hash(const char *name, Size key, Size entry, MemoryContext context) {
  HASHCTL control = {};
  control.keysize = key;
  control.entrysize = entry;
  control.hcxt = context;
  return hash_create(name, 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

void add_table(Attempt *attempt, HTAB *described, uint32 part, const StagedDescription &description) {
  StagedBatch *const staged = attempt->staged;
  const uint64 key[2] = {static_cast<uint64>(description.dialect), description.number};
  bool found;
  auto *table = static_cast<StagedTable *>(hash_search(staged->tables, key, HASH_FIND, nullptr));
  if (table == nullptr) {
    const uint64 number = kStagedNumber + static_cast<uint64>(staged->own_count);
    Descriptor *descriptor = staged_descriptor(description.description, description.told, description.encoding, number);
    const NameData names[2] = {descriptor->schema, descriptor->table};
    auto *name = static_cast<StagedName *>(hash_search(staged->names, names, HASH_ENTER, &found));
    if (!found) {
      auto *here = static_cast<DescribedName *>(hash_search(described, names, HASH_FIND, nullptr));
      name->part = part;
      name->pass = description.pass;
      name->here = here == nullptr ? nullptr : here->descriptor;
      name->later = false;
    }
    // The connection's own descriptor where rows of the stage have its form: so a table is open once.
    if (name->here != nullptr && same_form(name->here, descriptor))
      descriptor = name->here;
    else
      staged->own[staged->own_count++] = descriptor;
    table = static_cast<StagedTable *>(hash_search(staged->tables, key, HASH_ENTER, nullptr));
    table->descriptor = descriptor;
    table->name = name;
  }
  if (table->name->part == part)
    table->name->pass = Min(table->name->pass, description.pass);
  else
    staged->parts[part].shares = true;
}

void describe_tables(Attempt *attempt) {
  StagedBatch *const staged = attempt->staged;
  // Invalidations may arrive until the very end of the transaction.
  const MemoryContext context =
      AllocSetContextCreate(TopTransactionContext, "seal_sync staged tables", ALLOCSET_DEFAULT_SIZES);
  auto **descriptions =
      static_cast<StagedDescription **>(palloc(sizeof(StagedDescription *) * staged->count));
  auto *counts = static_cast<int *>(palloc(sizeof(int) * staged->count));
  Size total = 0;
  for (uint32 i = 0; i < staged->count; ++i)
    total += static_cast<Size>(counts[i] = read_descriptions(staged->parts[i].header.number, &descriptions[i]));
  staged->tables = make_hash("seal_sync staged tables", sizeof(StagedTable::key), sizeof(StagedTable), context);
  staged->names = make_hash("seal_sync staged names", sizeof(StagedName::names), sizeof(StagedName), context);
  const MemoryContext caller = MemoryContextSwitchTo(context);
  staged->own = static_cast<Descriptor **>(MemoryContextAllocHuge(context, sizeof(Descriptor *) * (total + 1)));
  HTAB *const described = described_names(attempt->session, context);
  watch_staged(staged->tables);
  for (uint32 i = 0; i < staged->count; ++i)
    for (int k = 0; k < counts[i]; ++k) {
      if (descriptions[i][k].encoding != attempt->session->encoding)
        ereport(ERROR, errcode(sqlstate_of(core::wire::kSchemaChanged)),
                errmsg("node \"%s\" has staged rows in another encoding", NameStr(attempt->session->origin)));
      add_table(attempt, described, i, descriptions[i][k]);
    }
  MemoryContextSwitchTo(caller);
}

} // namespace

StagedBatch *read_stage_uses(core::Reader *in) {
  const uint64 count = in->varint();
  if (!in->ok() || count > core::wire::kMaxStages)
    damaged_message("batch");
  if (count == 0)
    return nullptr;
  auto *staged = static_cast<StagedBatch *>(palloc0(sizeof(StagedBatch)));
  staged->count = static_cast<uint32>(count);
  staged->uses = static_cast<core::wire::StageUse *>(palloc0(sizeof(core::wire::StageUse) * count));
  for (uint32 i = 0; i < staged->count; ++i) {
    core::wire::read(*in, staged->uses[i]);
    if (!in->ok())
      damaged_message("batch");
    for (uint32 k = 0; k < i; ++k)
      if (staged->uses[k].stage == staged->uses[i].stage)
        damaged_message("batch");
  }
  return staged;
}

uint64 stages_mark(const StagedBatch *staged) {
  if (staged == nullptr)
    return 0;
  uint64 mark = 1;
  for (uint32 i = 0; i < staged->count; ++i) {
    const core::wire::StageUse &use = staged->uses[i];
    mark = hash_bytes_extended(use.stage.bytes, sizeof use.stage.bytes, mark);
    mark = hash_combine64(mark, use.chunks);
    mark = hash_combine64(mark, use.rows);
  }
  return mark;
}

void open_stages(Attempt *attempt) {
  StagedBatch *const staged = attempt->staged;
  if (staged == nullptr)
    return;
  hold_stages(AccessShareLock);
  const MemoryContext caller = MemoryContextSwitchTo(attempt->context);
  staged->parts = static_cast<StagedPart *>(palloc0(sizeof(StagedPart) * staged->count));
  uint64 chunks = 0;
  for (uint32 i = 0; i < staged->count; ++i) {
    const core::wire::StageUse &use = staged->uses[i];
    StagedPart *const part = &staged->parts[i];
    pg_uuid_t id = uuid_of(use.stage);
    char *const shown = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&id)));
    if (!find_stage(attempt->session->origin, use.stage, &part->header))
      not_there(attempt, psprintf("There is no stage %s.", shown));
    if (static_cast<uint64>(part->header.chunks) != use.chunks || static_cast<uint64>(part->header.rows) != use.rows)
      not_there(attempt, psprintf("Stage %s has " INT64_FORMAT " chunks and " INT64_FORMAT " rows; the sender takes "
                                  UINT64_FORMAT " and " UINT64_FORMAT " for their number.",
                                  shown, part->header.chunks, part->header.rows, use.chunks, use.rows));
    part->first = static_cast<uint32>(chunks);
    chunks += use.chunks;
    staged->rows += use.rows;
    if (chunks + attempt->session->buffer.chunks > kMaxBatchChunks)
      ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("a batch of a peer has too many chunks"),
              errdetail("The limit is " UINT64_FORMAT ".", kMaxBatchChunks));
  }
  staged->chunks = static_cast<uint32>(chunks);
  describe_tables(attempt);
  MemoryContextSwitchTo(caller);
}

void forget_stages(Attempt *attempt) {
  if (attempt->staged == nullptr)
    return;
  for (uint32 i = 0; i < attempt->staged->count; ++i)
    delete_stage(attempt->staged->parts[i].header);
}

BatchChunk read_batch_chunk(Attempt *attempt, uint32 number) {
  const StagedBatch *const staged = attempt->staged;
  if (number >= staged_chunks(attempt))
    return {read_chunk(&attempt->session->buffer, number - staged_chunks(attempt)), 0, 0};
  uint32 i = staged->count - 1;
  while (staged->parts[i].first > number)
    --i;
  // Stages without chunks begin where their successor does.
  const StagedPart &part = staged->parts[i];
  const StagedChunk chunk = read_staged_chunk(part.header.number, number - part.first);
  return {unpack_chunk(chunk.bytes), chunk.dialect, chunk.pass};
}

StagedName *staged_name(const Attempt *attempt, const Descriptor *descriptor) {
  const NameData names[2] = {descriptor->schema, descriptor->table};
  return static_cast<StagedName *>(hash_search(attempt->staged->names, names, HASH_FIND, nullptr));
}

Descriptor *batch_descriptor(Attempt *attempt, int64 dialect, uint64 table) {
  if (dialect == 0)
    return find_descriptor(attempt->session, table);
  const uint64 key[2] = {static_cast<uint64>(dialect), table};
  auto *found = static_cast<StagedTable *>(hash_search(attempt->staged->tables, key, HASH_FIND, nullptr));
  if (found == nullptr)
    ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED), errmsg("the description of a table is missing in a stage"),
            errdetail("Table number " UINT64_FORMAT " of dialect " INT64_FORMAT ".", table, dialect));
  return found->descriptor;
}

Descriptor *numbered_descriptor(Attempt *attempt, uint64 number) {
  if (number < kStagedNumber)
    return find_descriptor(attempt->session, number);
  const StagedBatch *const staged = attempt->staged;
  if (staged == nullptr || number - kStagedNumber >= static_cast<uint64>(staged->own_count))
    ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED), errmsg("the description of a table is missing in a stage"));
  return staged->own[number - kStagedNumber];
}

uint64 wire_number(Attempt *attempt, const Descriptor *descriptor) {
  if (descriptor->number < kStagedNumber)
    return descriptor->number;
  const Descriptor *const here = staged_name(attempt, descriptor)->here;
  if (here == nullptr)
    schema_changed(descriptor, "Something is to be said of rows of a stage, and the table is not described on this connection.");
  if (!same_keys(here, descriptor))
    schema_changed(descriptor, "Something is to be said of rows of a stage, and keys are sent in another form now.");
  return here->number;
}

} // namespace seal_sync::apply

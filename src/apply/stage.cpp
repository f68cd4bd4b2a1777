// See stage.hpp.
#include "apply/stage.hpp"

#include "apply/progress.hpp"
#include "apply/relation_map.hpp"
#include "apply/reply.hpp"
#include "apply/settings.hpp"
#include "apply/stage_store.hpp"
#include "apply/stream.hpp"
#include "apply/unpack.hpp"
#include "config/config.hpp"
#include "pg/guc.hpp"
#include "pg/varlena.hpp"

namespace seal_sync::apply {

namespace {

using core::wire::StageRequest;

constexpr int64 kMaxStagedChunks = PG_INT32_MAX / 2; // they are numbered in four bytes, those put behind them too

StageRequest read_request(core::Reader *in) {
  StageRequest request;
  read(*in, request);
  if (!in->ok() || !in->at_end() || request.pass == 0 || request.pass > PG_INT32_MAX ||
      request.previous > PG_INT64_MAX || request.note.size() > core::wire::kMaxStageNote)
    damaged_message("stage");
  return request;
}

/// Everything that was put, exactly once; else the sender puts all again since its last stage.
void check_collected(Session *session, const StageRequest &request) {
  const ReceiveBuffer &buffer = session->buffer;
  if (buffer.chunks == request.chunks && buffer.rows == request.rows && !buffer.redescribed)
    return;
  const uint32 chunks = buffer.chunks;
  const uint64 rows = buffer.rows;
  const bool redescribed = buffer.redescribed;
  forget_batch(session);
  ereport(ERROR, errcode(sqlstate_of(core::wire::kNotPut)),
          errmsg("what node \"%s\" wants to stage is not complete here", NameStr(session->origin)),
          redescribed ? errdetail("A table was described anew after rows of it had been put.")
                      : errdetail("There are %u of " UINT64_FORMAT " chunks, " UINT64_FORMAT " of " UINT64_FORMAT " rows.",
                                  chunks, request.chunks, rows, request.rows));
}

[[noreturn]] void other_predecessor(const Session *session, const StageRequest &request, const char *held, int64 batch) {
  contradiction(psprintf("a stage of node \"%s\" does not follow what this node holds", NameStr(session->origin)),
                psprintf("%s: batch " INT64_FORMAT "; the sender takes batch " UINT64_FORMAT " for its predecessor%s.",
                         held, batch, request.previous,
                         static_cast<uint64>(batch) == request.previous ? " with another id" : ""));
}

StageHeader new_stage(const Session *session, const StageRequest &request) {
  const Applied last = last_applied(NameStr(session->origin));
  const bool follows = last.found ? static_cast<uint64>(last.batch) == request.previous && last.id == request.previous_id
                                  : request.previous == 0 && request.previous_id == core::wire::Id{};
  if (!follows)
    other_predecessor(session, request, "Held here", last.found ? last.batch : 0);
  if (list_stages(session->origin, nullptr) >= static_cast<int>(core::wire::kMaxStages))
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
            errmsg("node \"%s\" has too many stages", NameStr(session->origin)),
            errdetail("At most " UINT64_FORMAT " are kept at a time.", core::wire::kMaxStages));
  StageHeader header = {};
  header.id = request.stage;
  header.number = next_stage_number();
  header.previous = static_cast<int64>(request.previous);
  header.previous_id = request.previous_id;
  header.first_pass = static_cast<int32>(request.pass);
  header.created_at = GetCurrentTimestamp();
  return header;
}

void check_known(const Session *session, const StageRequest &request, const StageHeader &header) {
  if (static_cast<uint64>(header.previous) != request.previous || !(header.previous_id == request.previous_id))
    other_predecessor(session, request, "Begun with it", header.previous);
  if (static_cast<int32>(request.pass) < header.pass)
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
            errmsg("node \"%s\" goes back to an earlier pass of a stage", NameStr(session->origin)),
            errdetail("It is in pass %u; the stage is in pass %d.", request.pass, header.pass));
}

/// Once per table of this call, and per description only once on disk.
void keep_description(Session *session, const StageHeader &header, Descriptor *table) {
  if (table->staging == session->stagings)
    return;
  table->staging = session->stagings;
  if (has_description(header.number, session->dialect, table->number))
    return;
  StagedDescription kept = {};
  kept.dialect = session->dialect;
  kept.number = table->number;
  kept.pass = header.pass;
  kept.encoding = table->encoding;
  kept.description = table->description;
  kept.told = was_told(table);
  insert_description(header.number, kept);
}

void keep_descriptions(Session *session, const StageHeader &header, core::ByteSpan chunk) {
  core::wire::SectionReader sections(chunk);
  core::wire::Section section;
  while (sections.next(section))
    keep_description(session, header, find_descriptor(session, section.table));
}

/// Adds what was put to the stage's chunks and numbers.
void keep_chunks(Session *session, StageHeader *header) {
  ReceiveBuffer *const buffer = &session->buffer;
  if (buffer->chunks == 0)
    return;
  if (header->chunks + buffer->chunks > kMaxStagedChunks)
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("a stage of a peer has too many chunks"),
            errdetail("The limit is " INT64_FORMAT ".", kMaxStagedChunks));
  if (session->dialect == 0)
    session->dialect = next_stage_number();
  ChunkWriter *const writer = begin_chunks(header->number, session->dialect, header->pass, header->chunks);
  const MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "seal_sync chunk", ALLOCSET_DEFAULT_SIZES);
  const MemoryContext caller = MemoryContextSwitchTo(context);
  for (uint32 i = 0; i < buffer->chunks; ++i) {
    const core::ByteSpan sent = read_sent_chunk(buffer, i);
    keep_descriptions(session, *header, unpack_chunk(sent));
    write_chunk(writer, sent);
    header->bytes += static_cast<int64>(sent.size());
    MemoryContextReset(context);
  }
  MemoryContextSwitchTo(caller);
  MemoryContextDelete(context);
  end_chunks(writer);
  header->chunks += buffer->chunks;
  header->rows += static_cast<int64>(buffer->rows);
}

void check_size(const Session *session, const StageHeader &header) {
  if (guc::max_stage_size == 0)
    return;
  StageHeader *others;
  const int count = list_stages(session->origin, &others);
  int64 bytes = header.bytes;
  for (int i = 0; i < count; i++)
    if (others[i].number != header.number)
      bytes += others[i].bytes;
  if (bytes > static_cast<int64>(guc::max_stage_size) * 1024 * 1024)
    ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
            errmsg("node \"%s\" wants to stage more than seal_sync.max_stage_size", NameStr(session->origin)),
            errdetail("The limit is %d MB.", guc::max_stage_size),
            errhint("Raise seal_sync.max_stage_size there; the copy goes on by itself."));
}

} // namespace

void stage_collected(Session *session, core::Reader *in, core::Buffer *reply) {
  refuse_while_streaming();
  if (IsTransactionBlock() || IsSubTransaction())
    ereport(ERROR, errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
            errmsg("seal_sync.wire_stage must be called in a transaction of its own"));
  const StageRequest request = read_request(in);
  require_durable_commit();
  bound_lock_waits();
  config::refresh();
  check_generation(session, request.generation);
  check_collected(session, request);

  hold_stages(RowExclusiveLock);
  StageHeader header;
  const bool known = find_stage(session->origin, request.stage, &header);
  if (known)
    check_known(session, request, header);
  else
    header = new_stage(session, request);
  header.pass = static_cast<int32>(request.pass);
  session->stagings += 1;
  keep_chunks(session, &header);
  check_size(session, header);
  if (header.pass == header.first_pass) {
    header.first_pass_chunks = header.chunks;
    header.first_pass_rows = header.rows;
  }
  header.note = pg::make_bytea(request.note);
  if (known)
    update_stage(session->origin, header);
  else
    insert_stage(session->origin, header);
  session->at_commit.staged = true;
  publish_contact(session, DT_NOBEGIN);

  core::wire::StageReply answer;
  answer.chunks = static_cast<uint64>(header.chunks);
  answer.rows = static_cast<uint64>(header.rows);
  answer.bytes = static_cast<uint64>(header.bytes);
  write(*reply, answer);
}

void write_stages(Session *session, core::Buffer *reply) {
  bound_lock_waits();
  check_current(session);
  StageHeader *headers;
  const int count = list_stages(session->origin, &headers);
  reply->varint(static_cast<uint64>(count));
  for (int i = 0; i < count; ++i) {
    core::wire::StageRecord record;
    record.stage = headers[i].id;
    record.previous = static_cast<uint64>(headers[i].previous);
    record.previous_id = headers[i].previous_id;
    record.chunks = static_cast<uint64>(headers[i].chunks);
    record.rows = static_cast<uint64>(headers[i].rows);
    record.bytes = static_cast<uint64>(headers[i].bytes);
    record.note = bytes_of(headers[i].note);
    write(*reply, record);
  }
}

void drop_stage(Session *session, core::Reader *in) {
  core::wire::StageDrop request;
  read(*in, request);
  if (!in->ok() || !in->at_end())
    damaged_message("stage");
  require_durable_commit();
  bound_lock_waits();
  check_generation(session, request.generation);
  StageHeader header;
  if (find_stage(session->origin, request.stage, &header))
    delete_stage(header);
}

} // namespace seal_sync::apply

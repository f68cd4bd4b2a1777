// See apply_batch.hpp.
#include "apply/apply_batch.hpp"

#include "apply/batch_rows.hpp"
#include "apply/careful.hpp"
#include "apply/foreign_keys.hpp"
#include "apply/later_inserts.hpp"
#include "apply/progress.hpp"
#include "apply/reply.hpp"
#include "apply/segment.hpp"
#include "apply/settings.hpp"
#include "apply/staged_batch.hpp"
#include "apply/standing.hpp"
#include "apply/superseded.hpp"
#include "apply/unique_rechecks.hpp"
#include "apply/unpack.hpp"
#include "pg/latch.hpp"

namespace seal_sync::apply {

namespace {

// The answer of an attempt is sent before its commit. It has to fit into the socket's buffers: a sender
// that does not read must not keep our locks (trap T12).
constexpr Size kMaxRefusalsInAnswer = 4096;

// ---- may this batch be applied ------------------------------------------------------------------

void read_claims(core::Reader *in, Attempt *attempt) {
  const uint64 count = attempt->request.clusters;
  if (count > in->remaining())
    damaged_message("batch");
  attempt->claims = static_cast<Claim *>(palloc0(sizeof(Claim) * (count + 1)));
  for (uint64 i = 0; i < count; ++i) {
    Claim *const claim = &attempt->claims[i];
    const std::string_view name = in->text();
    claim->epoch = static_cast<int64>(in->u64());
    if (!in->ok())
      damaged_message("batch");
    name_from_wire(name, attempt->session->encoding, &claim->cluster);
  }
  attempt->claim_count = static_cast<int>(count);
}

enum class Place { kNext, kAppliedBefore };

/// Whether the batch follows what this node holds, is what it holds, or contradicts it.
Place place_of(const core::wire::ApplyRequest &request, const Applied &last, const Session *session) {
  const auto batch = static_cast<int64>(request.batch);
  if (last.found && last.batch == batch && last.id == request.batch_id)
    return Place::kAppliedBefore;
  const bool follows = last.found
                           ? static_cast<int64>(request.previous) == last.batch && request.previous_id == last.id
                           : request.previous == 0 && request.previous_id == core::wire::Id{};
  if (follows && batch > static_cast<int64>(request.previous))
    return Place::kNext;
  contradiction(psprintf("batch " INT64_FORMAT " of node \"%s\" does not follow what this node holds", batch,
                         NameStr(session->origin)),
                last.found ? psprintf("Held here: batch " INT64_FORMAT "; the sender takes batch "
                                      UINT64_FORMAT " for its predecessor%s.",
                                      last.batch, request.previous,
                                      static_cast<int64>(request.previous) == last.batch
                                          ? " with another id" : "")
                           : "Nothing was applied of it yet.");
}

/// Everything that was put, exactly once; else the sender puts all again.
void check_collected(Session *session, const core::wire::ApplyRequest &request, core::ByteSpan last_chunk) {
  const uint64 rows = session->buffer.rows + check_chunk(last_chunk);
  if (session->buffer.chunks == request.chunks && rows == request.rows)
    return;
  const uint64 chunks = session->buffer.chunks;
  forget_batch(session);
  ereport(ERROR, errcode(sqlstate_of(core::wire::kNotPut)),
          errmsg("batch " UINT64_FORMAT " of node \"%s\" is not complete here", request.batch,
                 NameStr(session->origin)),
          errdetail("There are " UINT64_FORMAT " of " UINT64_FORMAT " chunks, " UINT64_FORMAT " of " UINT64_FORMAT
                    " rows.",
                    chunks, request.chunks, rows, request.rows));
}

} // namespace

void check_apply_transaction() {
  if (!IsTransactionBlock() || IsSubTransaction())
    ereport(ERROR, errcode(ERRCODE_NO_ACTIVE_SQL_TRANSACTION),
            errmsg("seal_sync.wire_apply must be called in a transaction block of its own"));
  if (XactIsoLevel != XACT_READ_COMMITTED || XactReadOnly)
    ereport(ERROR, errcode(ERRCODE_INAPPROPRIATE_ISOLATION_LEVEL_FOR_BRANCH_TRANSACTION),
            errmsg("seal_sync.wire_apply needs a read-write transaction in isolation level READ COMMITTED"));
}

void ask_for_wanted(Attempt *attempt) {
  const BatchNotes &notes = attempt->session->notes;
  if (notes.unanswered > 0)
    ereport(ERROR, errcode(sqlstate_of(core::wire::kNeedRows)),
            errmsg("batch " UINT64_FORMAT " of node \"%s\" changes rows that are not here",
                   attempt->request.batch, NameStr(attempt->session->origin)),
            errdetail(INT64_FORMAT " rows are wanted whole.", notes.unanswered));
}

namespace {

// ---- the attempt --------------------------------------------------------------------------------

Attempt *open_attempt(Session *session) {
  const MemoryContext context =
      AllocSetContextCreate(CurrentMemoryContext, "seal_sync apply", ALLOCSET_DEFAULT_SIZES);
  auto *attempt = static_cast<Attempt *>(MemoryContextAllocZero(context, sizeof(Attempt)));
  attempt->session = session;
  attempt->context = context;
  attempt->owner = CurrentResourceOwner;
  attempt->segment = AllocSetContextCreate(context, "seal_sync apply segment", ALLOCSET_DEFAULT_SIZES);
  attempt->rows = AllocSetContextCreate(context, "seal_sync apply rows", ALLOCSET_DEFAULT_SIZES);
  return attempt;
}

/// A row's error may have a SQLSTATE that a sender takes for a passing one, for instance when it comes
/// from a function of the user's: such a batch is asked for again instead.
bool looks_transient(const ErrorData *error) {
  return ERRCODE_TO_CATEGORY(error->sqlerrcode) == MAKE_SQLSTATE('2', '5', '0', '0', '0') ||
         error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE ||
         error->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
}

void write_batch(Attempt *attempt, core::ByteSpan last_chunk);

/// The first attempt; from the second on this session is careful by itself.
void write_plainly(Attempt *attempt, core::ByteSpan last_chunk) {
  const MemoryContext caller = CurrentMemoryContext;
  PG_TRY();
  {
    write_batch(attempt, last_chunk);
  }
  PG_CATCH();
  {
    MemoryContextSwitchTo(caller);
    ErrorData *const error = CopyErrorData();
    if ((attempt->current.descriptor != nullptr || attempt->verifying) && is_row_error(error)) {
      attempt->session->notes.careful = true;
      if (looks_transient(error)) {
        FlushErrorState();
        ask_to_repeat(attempt, error->message);
      }
    }
    PG_RE_THROW();
  }
  PG_END_TRY();
}

void write_batch(Attempt *attempt, core::ByteSpan last_chunk) {
  BatchRows rows = {attempt, last_chunk, 0, PG_UINT64_MAX};
  if (!attempt->careful) {
    begin_segment(attempt);
    walk_rows(attempt, &rows);
    end_segment(attempt);
    finish_rows(attempt);
    return;
  }
  run_careful(attempt, walk_rows, &rows, set_rows_range);
  ask_for_wanted(attempt);
  const int64 refused = attempt->session->notes.refused_count;
  run_later_inserts(attempt);
  run_rechecks(attempt);
  verify_foreign_keys(attempt);
  if (attempt->session->notes.refused_count > refused)
    ask_to_repeat(attempt, "Rows are refused for what other rows of the batch are.");
}

bytea *refusals_to_store(Attempt *attempt) {
  const BatchNotes &notes = attempt->session->notes;
  if (notes.refused_count == 0)
    return nullptr;
  core::Buffer buffer = begin_reply();
  buffer.varint(static_cast<uint64>(notes.refused_count));
  (void)write_refusals(&notes, &buffer);
  if (tells_standing(attempt)) {
    ApplyContext context;
    enter_context(&context, attempt);
    note_images(attempt);
    leave_context(&context);
    write_standing(&notes, &buffer);
  }
  return DatumGetByteaP(finish_reply(buffer));
}

/// Behind the refusals stands what the sender of an earlier version does not read.
core::ByteSpan refusals_only(core::Reader in, uint64 count) {
  const uint8 *const from = in.position();
  core::wire::Refusal refusal;
  for (uint64 i = 0; i < count && in.ok(); ++i)
    core::wire::read(in, refusal);
  return {from, static_cast<std::size_t>(in.position() - from)};
}

/// `stored`: number of refusals, then the refusals, then what stands behind them if that was asked for.
void write_answer(core::Buffer *reply, core::wire::ApplyReply answer, const bytea *stored, bool tell_standing) {
  core::Reader refusals;
  if (stored != nullptr && answer.status == core::wire::ApplyStatus::kApplied &&
      VARSIZE_ANY_EXHDR(stored) > kMaxRefusalsInAnswer) {
    answer.complete = 0;
    stored = nullptr;
  }
  if (stored != nullptr) {
    refusals = core::Reader(bytes_of(stored));
    answer.refusals = refusals.varint();
  }
  write(*reply, answer);
  if (stored == nullptr)
    return;
  const core::ByteSpan records = tell_standing ? core::ByteSpan(refusals.position(), refusals.remaining())
                                               : refusals_only(refusals, answer.refusals);
  reply->bytes(records.data(), records.size());
}

void add_context(void *argument) {
  const auto *attempt = static_cast<const Attempt *>(argument);
  const CurrentRow &row = attempt->current;
  const char *const origin = NameStr(attempt->session->origin);
  if (row.descriptor != nullptr)
    errcontext("applying a row of table \"%s.%s\", batch " UINT64_FORMAT " of node \"%s\"",
               NameStr(row.descriptor->schema), NameStr(row.descriptor->table), attempt->request.batch, origin);
  else
    errcontext("applying batch " UINT64_FORMAT " of node \"%s\"", attempt->request.batch, origin);
}

} // namespace

void enter_context(ApplyContext *context, Attempt *attempt) {
  context->callback = {error_context_stack, add_context, attempt};
  error_context_stack = &context->callback;
  context->settings = pin_settings(attempt->session->encoding);
}

void leave_context(const ApplyContext *context) {
  restore_settings(context->settings);
  error_context_stack = context->callback.previous;
}

core::ByteSpan read_request(core::Reader *in, Attempt *attempt) {
  core::wire::ApplyRequest &request = attempt->request;
  core::wire::read(*in, request);
  if (!in->ok() || request.batch == 0 || request.batch > PG_INT64_MAX || request.previous > PG_INT64_MAX)
    damaged_message("batch");
  if ((request.flags & ~(core::wire::kApplyCareful | core::wire::kApplyStages | core::wire::kApplyTellStanding)) != 0)
    damaged_message("batch");
  request.complete_until = checked_complete_until(request.complete_until);
  read_claims(in, attempt);
  if ((request.flags & core::wire::kApplyStages) != 0)
    attempt->staged = read_stage_uses(in);
  return unpack_chunk(in->bytes(in->remaining()));
}

Attempt *begin_batch(Session *session, core::Reader *in, core::ByteSpan *last_chunk, core::Buffer *reply) {
  check_apply_transaction();
  require_durable_commit();
  bound_lock_waits();
  config::refresh();

  Attempt *const attempt = open_attempt(session);
  const core::wire::ApplyRequest &request = attempt->request;
  *last_chunk = read_request(in, attempt);
  check_generation(session, request.generation);
  const Applied last = last_applied(NameStr(session->origin));
  if (place_of(request, last, session) == Place::kAppliedBefore) {
    session->at_commit.applied = session->at_commit.repeated = true;
    session->at_commit.batch = last.batch;
    session->at_commit.complete_until = last.complete_until;
    core::wire::ApplyReply answer;
    answer.status = core::wire::ApplyStatus::kAppliedBefore;
    write_answer(reply, answer, last.refusals, tells_standing(attempt));
    return nullptr;
  }
  begin_notes(&session->notes, session->context, request.batch_id, stages_mark(attempt->staged));
  attempt->careful = (request.flags & core::wire::kApplyCareful) != 0 || session->notes.careful;
  attempt->wanted_before = session->notes.wanted_count;
  attempt->refused_before = session->notes.refused_count;
  check_claims(attempt);
  return attempt;
}

void finish_rows(Attempt *attempt) {
  ask_for_wanted(attempt);
  run_rechecks(attempt);
  verify_foreign_keys(attempt);
}

void finish_batch(Attempt *attempt, core::Buffer *reply) {
  Session *const session = attempt->session;
  const core::wire::ApplyRequest &request = attempt->request;
  ListCell *cell;
  foreach (cell, attempt->written) {
    const auto *rows = static_cast<WrittenRows *>(lfirst(cell));
    pg::TableStat counters = {};
    counters.keys_applied = rows->rows;
    pg::add_table_stat(rows->relation, NameStr(session->origin), counters);
  }

  const auto rows = static_cast<int64>(request.rows + staged_rows(attempt));
  bytea *const refusals = refusals_to_store(attempt);
  note_applied(NameStr(session->origin), static_cast<int64>(request.batch), request.batch_id,
               request.complete_until, rows, refusals);
  forget_stages(attempt);
  session->at_commit.applied = true;
  session->at_commit.batch = static_cast<int64>(request.batch);
  session->at_commit.rows = rows;
  session->at_commit.complete_until = request.complete_until;

  core::wire::ApplyReply answer;
  answer.inserted = attempt->inserted;
  answer.updated = attempt->updated;
  answer.deleted = attempt->deleted;
  answer.unchanged = attempt->unchanged;
  answer.apply_us = static_cast<uint64>(attempt->spent_us);
  write_answer(reply, answer, refusals, tells_standing(attempt));
}

void apply_batch(Session *session, core::Reader *in, core::Buffer *reply) {
  const int64 began = pg::monotonic_us();
  core::ByteSpan last_chunk;
  Attempt *const attempt = begin_batch(session, in, &last_chunk, reply);
  if (attempt == nullptr)
    return;
  check_collected(session, attempt->request, last_chunk);
  note_being_applied(session);
  open_stages(attempt);
  ApplyContext context;
  enter_context(&context, attempt);
  find_superseded(attempt, last_chunk);
  if (attempt->careful)
    write_batch(attempt, last_chunk);
  else
    write_plainly(attempt, last_chunk);
  close_superseded(attempt);
  leave_context(&context);
  attempt->spent_us = pg::monotonic_us() - began;
  finish_batch(attempt, reply);
}

} // namespace seal_sync::apply

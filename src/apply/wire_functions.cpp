// The smaller wire functions: put, apply, wanted, heartbeat, stage, stages, stage_drop. hello.cpp and relation_map.cpp have theirs.
//
// Called by a peer's route worker over libpq, through SQL. Each reads its message, calls the part that
// does the work, and answers in bytes (core/wire.hpp).

#include "apply/apply_batch.hpp"
#include "apply/progress.hpp"
#include "apply/reply.hpp"
#include "apply/settings.hpp"
#include "apply/stage.hpp"
#include "apply/stream.hpp"
#include "apply/unpack.hpp"
#include "config/config.hpp"
#include "core/quoting.hpp"
#include "pg/boundary.hpp"

namespace seal_sync::apply {
namespace {

/// What status shows of the last failure of a peer's batch.
void publish_error(Session *session, const ErrorData *error) {
  if (session->slot == nullptr)
    return;
  char *const text = core::message_may_quote_rows(unpack_sql_state(error->sqlerrcode))
                         ? psprintf("a row was refused with SQLSTATE %s", unpack_sql_state(error->sqlerrcode))
                         : pstrdup(error->message != nullptr ? error->message : "");
  cut_text(text, sizeof session->slot->last_error - 1);
  LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
  session->slot->last_error_at = GetCurrentTimestamp();
  strlcpy(session->slot->last_error_sqlstate, unpack_sql_state(error->sqlerrcode),
          sizeof session->slot->last_error_sqlstate);
  strlcpy(session->slot->last_error, text, sizeof session->slot->last_error);
  LWLockRelease(pg::shared_lock());
}

/// Whoever reads it, here or at the peer, has no use for more; and it is sent while locks are held.
void shorten(ErrorData *error) {
  for (char *const text : {error->message, error->detail, error->detail_log, error->hint, error->context})
    if (text != nullptr)
      cut_text(text);
}

template <typename Fn> void publishing_errors(Session *session, Fn fn) {
  const MemoryContext caller = CurrentMemoryContext;
  PG_TRY();
  {
    fn();
  }
  PG_CATCH();
  {
    MemoryContextSwitchTo(caller);
    ErrorData *const error = CopyErrorData();
    if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != MAKE_SQLSTATE('S', 'S', '0', '0', '0'))
      publish_error(session, error);
    shorten(error);
    if (quotes_rows(error) && error->detail_log == nullptr) { // for the log of this node only
      error->detail_log = error->detail;
      error->detail = nullptr;
    }
    FlushErrorState();
    ReThrowError(error);
  }
  PG_END_TRY();
}

} // namespace
} // namespace seal_sync::apply

/// wire_put(bytea): one chunk more of the batch to come. An empty one drops what was collected.
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_put) {
  using namespace seal_sync::apply;
  Session *const session = current_session();
  const bytea *const chunk = PG_GETARG_BYTEA_PP(0);
  if (streaming())
    publishing_errors(session, [&] { stream_chunk(session, unpack_chunk(bytes_of(chunk))); });
  else if (VARSIZE_ANY_EXHDR(chunk) == 0)
    forget_batch(session);
  else
    add_chunk(&session->buffer, session->context, bytes_of(chunk));
  PG_RETURN_VOID();
}

/// wire_begin(bytea): what is put from now on in this transaction is applied at once.
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_begin) {
  using namespace seal_sync;
  using namespace seal_sync::apply;
  Session *const session = current_session();
  core::Reader in(bytes_of(PG_GETARG_BYTEA_PP(0)));
  begin_stream(session, &in);
  PG_RETURN_VOID();
}

/// wire_apply(bytea) -> bytea
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_apply) {
  using namespace seal_sync;
  using namespace seal_sync::apply;
  Session *const session = current_session();
  core::Reader in(bytes_of(PG_GETARG_BYTEA_PP(0)));
  core::Buffer reply = begin_reply();
  publishing_errors(session, [&] {
    if (streaming())
      finish_stream(session, &in, &reply);
    else
      apply_batch(session, &in, &reply);
  });
  PG_RETURN_DATUM(finish_reply(reply));
}

/// wire_wanted() -> bytea: the keys whose whole rows the last attempt missed.
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_wanted) {
  using namespace seal_sync;
  using namespace seal_sync::apply;
  Session *const session = current_session();
  core::Buffer keys = make_buffer(CurrentMemoryContext);
  const uint64 count = write_wanted(&session->notes, &keys);
  core::Buffer reply = begin_reply();
  reply.varint(count);
  reply.bytes(keys.data, keys.size);
  PG_RETURN_DATUM(finish_reply(reply));
}

/// wire_heartbeat(bytea) -> bytea
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_heartbeat) {
  using namespace seal_sync;
  using namespace seal_sync::apply;
  Session *const session = current_session();
  core::Reader in(bytes_of(PG_GETARG_BYTEA_PP(0)));
  const uint64 generation = in.u64();
  const auto told = static_cast<TimestampTz>(in.i64());
  if (!in.ok() || !in.at_end())
    damaged_message("heartbeat");
  const TimestampTz complete_until = checked_complete_until(told);
  config::refresh();
  if (!session->confirmed) // what is confirmed must not be lost in a crash
    require_durable_commit();
  bound_lock_waits();
  check_generation(session, generation);
  publish_contact(session, complete_until);
  const Applied last = last_applied(NameStr(session->origin));
  core::wire::HeartbeatReply answer;
  if (last.found) {
    answer.batch = static_cast<uint64>(last.batch);
    answer.batch_id = last.id;
  }
  answer.clock = GetCurrentTimestamp();
  answer.config = config::version();
  core::Buffer reply = begin_reply();
  write(reply, answer);
  PG_RETURN_DATUM(finish_reply(reply));
}

/// wire_stage(bytea) -> bytea
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_stage) {
  using namespace seal_sync;
  using namespace seal_sync::apply;
  Session *const session = current_session();
  core::Reader in(bytes_of(PG_GETARG_BYTEA_PP(0)));
  core::Buffer reply = begin_reply();
  publishing_errors(session, [&] { stage_collected(session, &in, &reply); });
  PG_RETURN_DATUM(finish_reply(reply));
}

/// wire_stages() -> bytea
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_stages) {
  using namespace seal_sync;
  using namespace seal_sync::apply;
  core::Buffer reply = begin_reply();
  write_stages(current_session(), &reply);
  PG_RETURN_DATUM(finish_reply(reply));
}

/// wire_stage_drop(bytea)
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_stage_drop) {
  using namespace seal_sync;
  using namespace seal_sync::apply;
  core::Reader in(bytes_of(PG_GETARG_BYTEA_PP(0)));
  drop_stage(current_session(), &in);
  PG_RETURN_VOID();
}

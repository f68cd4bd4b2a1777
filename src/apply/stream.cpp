// See stream.hpp.
#include "apply/stream.hpp"

#include "apply/apply_batch.hpp"
#include "apply/batch_rows.hpp"
#include "apply/reply.hpp"
#include "apply/segment.hpp"
#include "apply/settings.hpp"
#include "config/config.hpp"
#include "pg/latch.hpp"

extern "C" {
#include "storage/latch.h"
#include "utils/timeout.h"
}

namespace seal_sync::apply {

namespace {

constexpr int kMostSilenceMs = 1000;

Attempt *stream = nullptr; // in the transaction's memory

// ---- a sender that falls silent -------------------------------------------------------------------

// The server's timeout for idle transactions runs only from the end of a call to the first message after it. A link
// that breaks under load breaks inside of a call: its first message is there, which ends that timeout, and half of
// the one with the chunk. So there is a timeout of our own, from part to part.
TimeoutId silence = MAX_TIMEOUTS;

/// In a signal handler. What ends an idle transaction ends this one, whatever is waited for; a peer that has
/// switched that off is ended all the same.
void at_silence() {
  if (IdleInTransactionSessionTimeout > 0)
    IdleInTransactionSessionTimeoutPending = true;
  else
    ProcDiePending = true;
  InterruptPending = true;
  SetLatch(MyLatch);
}

void wait_for_sender() { enable_timeout_after(silence, kMostSilenceMs); }

void hear_sender() {
  if (silence != MAX_TIMEOUTS)
    disable_timeout(silence, false);
}

void at_transaction_end(XactEvent event, void *) {
  if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE) {
    refuse_while_streaming();
    return;
  }
  if (stream != nullptr)
    hear_sender();
  stream = nullptr;
}

void apply_chunk(core::ByteSpan chunk, Ordinal first) {
  stream->streamed_rows += check_chunk(chunk);
  begin_segment(stream);
  walk_one_chunk(stream, chunk, first);
  end_segment(stream);
  // Nobody answers while it streams: it will fail, and until then would note what is wanted without a bound.
  ask_for_wanted(stream);
}

/// What was put before the batch began.
void apply_collected(Session *session) {
  for (; stream->streamed_chunks < session->buffer.chunks; ++stream->streamed_chunks)
    apply_chunk(read_chunk(&session->buffer, stream->streamed_chunks), ordinal_of(stream->streamed_chunks, 0));
}

/// Runs a part of the batch with the settings of apply, which end with each call.
template <typename Fn> void as_part(Fn fn) {
  hear_sender();
  const int64 began = pg::monotonic_us();
  check_apply_transaction();
  config::refresh();
  check_claims(stream);
  ApplyContext context;
  enter_context(&context, stream);
  fn();
  leave_context(&context);
  stream->spent_us += pg::monotonic_us() - began;
}

} // namespace

bool streaming() noexcept { return stream != nullptr; }

void refuse_while_streaming() {
  if (stream != nullptr)
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("a batch was begun and not finished"),
            errdetail("Batch " UINT64_FORMAT " of node \"%s\".", stream->request.batch,
                      NameStr(stream->session->origin)));
}

void begin_stream(Session *session, core::Reader *request) {
  static bool registered = false;
  if (!registered) {
    silence = RegisterTimeout(USER_TIMEOUT, at_silence);
    RegisterXactCallback(at_transaction_end, nullptr);
  }
  registered = true;
  refuse_while_streaming();
  const MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
  core::ByteSpan last_chunk;
  core::Buffer answer = make_buffer(CurrentMemoryContext);
  Attempt *const attempt = begin_batch(session, request, &last_chunk, &answer);
  if (attempt == nullptr || attempt->careful || attempt->staged != nullptr ||
      !last_chunk.empty()) // a new batch, all of which is put, and nothing known of it
    damaged_message("batch");
  attempt->owner = TopTransactionResourceOwner;
  bound_silence(kMostSilenceMs);
  stream = attempt;
  wait_for_sender();
  MemoryContextSwitchTo(caller);
}

void stream_chunk(Session *session, core::ByteSpan chunk) {
  as_part([&] {
    apply_collected(session);
    apply_chunk(chunk, ordinal_of(stream->streamed_chunks, 0));
    ++stream->streamed_chunks;
  });
  wait_for_sender();
}

void finish_stream(Session *session, core::Reader *in, core::Buffer *reply) {
  as_part([&] {
    Attempt told = {};
    told.session = session;
    const core::ByteSpan last_chunk = read_request(in, &told);
    const core::wire::ApplyRequest &request = told.request;
    if (told.staged != nullptr)
      damaged_message("batch");
    if (request.batch != stream->request.batch || !(request.batch_id == stream->request.batch_id))
      ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("another batch was begun"));
    check_generation(session, stream->request.generation); // the peer may have been dropped since it began
    stream->request.complete_until = request.complete_until;
    stream->request.rows = request.rows;
    apply_collected(session);
    apply_chunk(last_chunk, ordinal_of(kLastChunk, 0));
    if (stream->streamed_chunks != request.chunks || stream->streamed_rows != request.rows)
      ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
              errmsg("batch " UINT64_FORMAT " of node \"%s\" is not complete", request.batch,
                     NameStr(session->origin)));
    finish_rows(stream);
  });
  finish_batch(stream, reply);
  stream = nullptr;
}

} // namespace seal_sync::apply

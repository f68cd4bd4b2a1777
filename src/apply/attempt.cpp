// See attempt.hpp.
#include "apply/attempt.hpp"

#include "apply/reply.hpp"
#include "apply/staged_batch.hpp"
#include "apply/wire_row.hpp"

namespace seal_sync::apply {

namespace {

constexpr int kMaxAttempts = 100; // that end with kRepeat and have found nothing out

/// Whether the next attempt starts from more than this one did.
bool has_found_out(const Attempt *attempt) {
  const BatchNotes &notes = attempt->session->notes;
  return notes.refused_count > attempt->refused_before || notes.wanted_count > attempt->wanted_before;
}

} // namespace

void check_claims(Attempt *attempt) {
  if (attempt->rules == config::version())
    return;
  for (int i = 0; i < attempt->claim_count; ++i) {
    const Claim &claim = attempt->claims[i];
    const config::Cluster *const cluster = config::find_cluster(NameStr(claim.cluster));
    if (cluster == nullptr || cluster->epoch != claim.epoch ||
        strcmp(NameStr(cluster->primary_node), NameStr(attempt->session->origin)) != 0)
      ereport(ERROR, errcode(sqlstate_of(core::wire::kRulesChanged)),
              errmsg("node \"%s\" ships cluster \"%s\" in epoch " INT64_FORMAT
                     ", of which it is not primary here",
                     NameStr(attempt->session->origin), NameStr(claim.cluster), claim.epoch),
              cluster == nullptr ? errdetail("The cluster is not declared here.")
                                 : errdetail("Here its primary is node \"%s\" in epoch " INT64_FORMAT ".",
                                             NameStr(cluster->primary_node), cluster->epoch));
  }
  attempt->rules = config::version();
}

bool is_senders(const Attempt *attempt, const config::Cluster *cluster) {
  if (cluster == nullptr)
    return false;
  for (int i = 0; i < attempt->claim_count; ++i)
    if (strcmp(NameStr(attempt->claims[i].cluster), NameStr(cluster->name)) == 0)
      return true; // check_claims() has compared primary and epoch
  return false;
}

core::ByteSpan current_key(const Attempt *attempt) {
  const CurrentRow &row = attempt->current;
  if (row.columns == nullptr)
    return row.bytes;
  auto *values = static_cast<WireValue *>(palloc(sizeof(WireValue) * row.column_count));
  core::Reader in(row.bytes);
  core::Buffer key = make_buffer(CurrentMemoryContext);
  if (!parse_row(in, row.descriptor, row.columns, row.column_count, values) ||
      !write_key(&key, row.descriptor, row.columns, row.column_count, values))
    damaged_message("data");
  return key.span();
}

core::ByteSpan keep_current_key(const Attempt *attempt) {
  const MemoryContext caller = MemoryContextSwitchTo(attempt->rows); // building it takes more than it is
  const core::ByteSpan key = current_key(attempt);
  MemoryContextSwitchTo(caller);
  auto *copy = static_cast<uint8 *>(MemoryContextAlloc(attempt->context, key.size() + 1));
  memcpy(copy, key.data(), key.size());
  return {copy, key.size()};
}

void refuse_current(Attempt *attempt, const char *sqlstate, const char *message, const char *detail,
                    const char *constraint) {
  const CurrentRow &row = attempt->current;
  // The sender reads the key by what this connection has agreed on, though the row may be of a stage.
  const uint64 number = wire_number(attempt, row.descriptor);
  const MemoryContext caller = MemoryContextSwitchTo(attempt->rows);
  core::wire::Refusal refusal;
  refusal.schema = view_of(NameStr(row.descriptor->schema));
  refusal.table = view_of(NameStr(row.descriptor->table));
  refusal.kind = row.kind;
  refusal.key = current_key(attempt);
  refusal.sqlstate = view_of(sqlstate);
  refusal.message = view_of(message);
  refusal.detail = view_of(detail);
  refusal.constraint = view_of(constraint);
  refuse(&attempt->session->notes, row.ordinal, number, refusal, attempt->other);
  MemoryContextSwitchTo(caller);
}

void refuse_current(Attempt *attempt, const ErrorData *error) {
  refuse_current(attempt, unpack_sql_state(error->sqlerrcode), error->message,
                 quotes_rows(error) ? nullptr : error->detail, error->constraint_name);
}

bool quotes_rows(const ErrorData *error) {
  switch (error->sqlerrcode) {
  case ERRCODE_CHECK_VIOLATION:
  case ERRCODE_NOT_NULL_VIOLATION:
  case ERRCODE_EXCLUSION_VIOLATION:
  case ERRCODE_WITH_CHECK_OPTION_VIOLATION:
    return true;
  default:
    return false;
  }
}

bool is_row_error(const ErrorData *error) {
  if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
    return false;
  switch (ERRCODE_TO_CATEGORY(error->sqlerrcode)) {
  case MAKE_SQLSTATE('0', '8', '0', '0', '0'): // damage on the wire
  case MAKE_SQLSTATE('4', '0', '0', '0', '0'): // serialization, deadlock
  case MAKE_SQLSTATE('5', '3', '0', '0', '0'): // resources
  case MAKE_SQLSTATE('5', '7', '0', '0', '0'): // cancelled, shutting down
  case MAKE_SQLSTATE('5', '8', '0', '0', '0'): // system
  case MAKE_SQLSTATE('F', '0', '0', '0', '0'):
  case MAKE_SQLSTATE('S', 'S', '0', '0', '0'): // our own answers to the sender
  case MAKE_SQLSTATE('X', 'X', '0', '0', '0'):
    return false;
  default:
    return true;
  }
}

void ask_to_repeat(Attempt *attempt, const char *why) {
  BatchNotes &notes = attempt->session->notes;
  // An attempt that has found something out brings the end nearer: the notes are bounded.
  if (!has_found_out(attempt) && ++notes.attempts > kMaxAttempts)
    ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
            errmsg("batch " UINT64_FORMAT " of node \"%s\" was repeated too often", attempt->request.batch,
                   NameStr(attempt->session->origin)));
  ereport(ERROR, errcode(sqlstate_of(core::wire::kRepeat)),
          errmsg("batch " UINT64_FORMAT " of node \"%s\" is to be applied again", attempt->request.batch,
                 NameStr(attempt->session->origin)),
          errdetail("%s", why));
  pg_unreachable();
}

OwnerScope become_owner(Oid owner) {
  OwnerScope scope;
  GetUserIdAndSecContext(&scope.user, &scope.context);
  SetUserIdAndSecContext(owner, scope.context | SECURITY_RESTRICTED_OPERATION);
  return scope;
}

void leave_owner(const OwnerScope &scope) { SetUserIdAndSecContext(scope.user, scope.context); }

} // namespace seal_sync::apply

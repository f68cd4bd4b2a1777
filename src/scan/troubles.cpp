// See troubles.hpp.
#include "scan/troubles.hpp"

#include "config/event_log.hpp"
#include "core/quoting.hpp"
#include "pg/boundary.hpp"

namespace seal_sync::scan {

namespace {

struct Kind {
  const char *state; // of seal_sync.held
  const char *begins;
  const char *ends;
};
constexpr Kind kKinds[] = {{"quarantined", "quarantine_begin", "quarantine_end"}, {"parked", "parked", "unparked"}};
constexpr int kKindCount = 2;

struct Trouble {
  Oid root; // hash key
  bool now[kKindCount];
};

int kind_of(const char *state) {
  for (int i = 0; i < kKindCount; i++)
    if (strcmp(kKinds[i].state, state) == 0)
      return i;
  return -1; // waiting for the peer to be configured is no event
}

Trouble *enter(Session *session, Oid root) {
  if (session->troubles == nullptr) {
    HASHCTL ctl{};
    ctl.keysize = sizeof(Oid);
    ctl.entrysize = sizeof(Trouble);
    ctl.hcxt = session->context;
    session->troubles = hash_create("seal_sync troubles", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  }
  bool found;
  auto *trouble = static_cast<Trouble *>(hash_search(session->troubles, &root, HASH_ENTER, &found));
  if (!found)
    memset(trouble->now, 0, sizeof trouble->now);
  return trouble;
}

bool any_held(const char *peer, Oid root, const char *state) {
  Oid types[3] = {NAMEOID, OIDOID, TEXTOID};
  Datum values[3] = {DirectFunctionCall1(namein, CStringGetDatum(peer)), ObjectIdGetDatum(root), CStringGetTextDatum(state)};
  SPI_connect();
  const int rc = SPI_execute_with_args("SELECT FROM seal_sync.held WHERE peer OPERATOR(pg_catalog.=) $1 AND relation OPERATOR(pg_catalog.=) $2 "
                                       "AND state OPERATOR(pg_catalog.=) $3 LIMIT 1",
                                       3, types, values, nullptr, false, 1);
  const bool any = rc != SPI_OK_SELECT || SPI_processed > 0;
  SPI_finish();
  return any;
}

} // namespace

void load_troubles(Session *session) {
  Oid types[1] = {NAMEOID};
  Datum values[1] = {DirectFunctionCall1(namein, CStringGetDatum(NameStr(session->peer)))};
  SPI_connect();
  if (SPI_execute_with_args("SELECT DISTINCT relation, state FROM seal_sync.held WHERE peer OPERATOR(pg_catalog.=) $1", 1,
                            types, values, nullptr, true, 0) != SPI_OK_SELECT)
    elog(ERROR, "seal_sync: could not read seal_sync.held");
  for (uint64 i = 0; i < SPI_processed; i++) {
    bool is_null;
    const HeapTuple tuple = SPI_tuptable->vals[i];
    const Oid root = DatumGetObjectId(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &is_null));
    char *state = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 2);
    if (const int kind = kind_of(state); kind >= 0)
      enter(session, root)->now[kind] = true;
    pfree(state);
  }
  SPI_finish();
}

void note_trouble(Session *session, Oid root, const HeldReason &reason) {
  const int kind = kind_of(reason.state);
  if (kind < 0)
    return;
  Trouble *trouble = enter(session, root);
  if (trouble->now[kind])
    return;
  trouble->now[kind] = true;
  const char *sqlstate = reason.sqlstate != nullptr && reason.sqlstate[0] != '\0' ? reason.sqlstate : nullptr;
  // What is refused may be quoted in the reason; monitors read it.
  const bool shown = sqlstate != nullptr && !core::message_may_quote_rows(sqlstate);
  config::note_event(kKinds[kind].begins, config::table_scope(root), shown ? reason.message : nullptr,
                     {{"peer", NameStr(session->peer)}, {"sqlstate", sqlstate}});
}

void end_troubles(Session *session) {
  if (session->troubles == nullptr)
    return;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->troubles);
  while (auto *trouble = static_cast<Trouble *>(hash_seq_search(&status)))
    for (int kind = 0; kind < kKindCount; kind++) {
      if (!trouble->now[kind] || any_held(NameStr(session->peer), trouble->root, kKinds[kind].state))
        continue;
      trouble->now[kind] = false;
      if (const char *scope = config::table_scope(trouble->root); scope != nullptr) // dropped with all its keys
        config::note_event(kKinds[kind].ends, scope, nullptr, {{"peer", NameStr(session->peer)}});
    }
}

} // namespace seal_sync::scan

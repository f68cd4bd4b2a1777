#pragma once
// seal_sync.event: who did what. The one place where rows are entered.
//
// Called by everything that decides something: the calls (through sql_api/events.hpp), the guard before commit,
// DDL, the workers. A row belongs to the transaction that does what it tells of: rolled back, it did not happen.
// The actor is the login of the session, whatever role it has set; of what a worker does by itself it is
// seal_sync_worker, and the application says which. Invariant: no keys, no values of rows, no secrets, for
// monitors read it. Written below SQL, because who changes a table has no right on ours. PostgreSQL regime.

#include "pg/postgres.hpp"

#include <initializer_list>

namespace seal_sync::config {

/// One member of an event's detail. A null text is left out.
struct EventItem {
  EventItem(const char *item_name, const char *value) : name(item_name), text(value) {}
  EventItem(const char *item_name, int64 value) : name(item_name), number(value), is_number(true) {}
  const char *name;
  const char *text = nullptr;
  int64 number = 0;
  bool is_number = false;
};

/// scope as in health: "peer west", "table public.t", "node". reason may be null; detail is a JSON object or null.
void note_event(const char *event, const char *scope, const char *reason, const char *detail);
void note_event(const char *event, const char *scope, const char *reason, std::initializer_list<EventItem> detail);

/// A string as JSON writes it.
void append_json_text(StringInfo out, const char *text);

/// "table public.t"; nullptr when it is gone.
const char *table_scope(Oid relation);

} // namespace seal_sync::config

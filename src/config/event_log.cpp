// See event_log.hpp.
#include "config/event_log.hpp"

#include "config/config.hpp"

extern "C" {
#include "commands/sequence.h"
#include "utils/json.h"
}

namespace seal_sync::config {

namespace {

enum Column { kId = 1, kAt, kEvent, kScope, kActor, kApplication, kClientAddr, kReason, kDetail, kColumns = kDetail };

/// A worker of ours acts for nobody who has logged in.
const char *own_worker() {
  return MyBgworkerEntry != nullptr && strcmp(MyBgworkerEntry->bgw_library_name, "seal_sync") == 0
             ? MyBgworkerEntry->bgw_name
             : nullptr;
}

void set_text(Datum *values, bool *nulls, Column column, const char *text) {
  nulls[column - 1] = text == nullptr || text[0] == '\0';
  if (!nulls[column - 1])
    values[column - 1] = CStringGetTextDatum(text);
}

void set_client_addr(Datum *values, bool *nulls) {
  LOCAL_FCINFO(fcinfo, 0);
  InitFunctionCallInfoData(*fcinfo, nullptr, 0, InvalidOid, nullptr, nullptr);
  values[kClientAddr - 1] = inet_client_addr(fcinfo);
  nulls[kClientAddr - 1] = fcinfo->isnull;
}

} // namespace

void note_event(const char *event, const char *scope, const char *reason, const char *detail) {
  const Oid table = own_relation("event");
  const Oid numbers = own_relation("event_id_seq");
  if (!OidIsValid(table) || !OidIsValid(numbers))
    return; // the extension is being dropped
  const char *const worker = own_worker();
  NameData actor;
  const char *const login = worker != nullptr ? "seal_sync_worker" : GetUserNameFromId(GetSessionUserId(), true);
  namestrcpy(&actor, login != nullptr ? login : psprintf("%u", GetSessionUserId())); // dropped while it was logged in

  const Relation rel = table_open(table, RowExclusiveLock);
  // A later version's SQL may have added columns, while this library is still loaded.
  const int columns = Max(RelationGetDescr(rel)->natts, static_cast<int>(kColumns));
  auto *values = static_cast<Datum *>(palloc0(sizeof(Datum) * static_cast<Size>(columns)));
  auto *nulls = static_cast<bool *>(palloc0(sizeof(bool) * static_cast<Size>(columns)));
  for (int i = kColumns; i < columns; i++)
    nulls[i] = true;
  PushActiveSnapshot(GetLatestSnapshot()); // before commit there is none, and a long detail goes to TOAST
  values[kId - 1] = Int64GetDatum(nextval_internal(numbers, false));
  values[kAt - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
  set_text(values, nulls, kEvent, event);
  set_text(values, nulls, kScope, scope);
  values[kActor - 1] = NameGetDatum(&actor);
  set_text(values, nulls, kApplication, worker != nullptr ? worker : application_name);
  set_client_addr(values, nulls);
  set_text(values, nulls, kReason, reason);
  nulls[kDetail - 1] = detail == nullptr;
  if (detail != nullptr)
    values[kDetail - 1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(detail));

  const HeapTuple tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
  CatalogTupleInsert(rel, tuple);
  heap_freetuple(tuple);
  table_close(rel, NoLock);
  PopActiveSnapshot();
}

void note_event(const char *event, const char *scope, const char *reason, std::initializer_list<EventItem> detail) {
  StringInfoData json;
  initStringInfo(&json);
  for (const EventItem &item : detail) {
    if (!item.is_number && item.text == nullptr)
      continue;
    appendStringInfoString(&json, json.len == 0 ? "{" : ", ");
    escape_json(&json, item.name);
    appendStringInfoString(&json, ": ");
    if (item.is_number)
      appendStringInfo(&json, INT64_FORMAT, item.number);
    else
      escape_json(&json, item.text);
  }
  if (json.len > 0)
    appendStringInfoChar(&json, '}');
  note_event(event, scope, reason, json.len > 0 ? json.data : nullptr);
}

void append_json_text(StringInfo out, const char *text) { escape_json(out, text); }

const char *table_scope(Oid relation) {
  const char *const name = get_rel_name(relation);
  const char *const schema = get_namespace_name(get_rel_namespace(relation));
  return name == nullptr || schema == nullptr ? nullptr : psprintf("table %s.%s", schema, name);
}

} // namespace seal_sync::config

// See events.hpp.
#include "sql_api/events.hpp"

#include "config/event_log.hpp"
#include "pg/guc.hpp"

namespace seal_sync::sql_api {

namespace {

std::string json_text(const std::string &text) {
  const char *value = text.c_str();
  char *escaped = pg::call([value] {
    StringInfoData out;
    initStringInfo(&out);
    config::append_json_text(&out, value);
    return out.data;
  });
  std::string result(escaped);
  pfree(escaped);
  return result;
}

std::string member(const char *name, const std::string &value) { return json_text(name) + ": " + value; }

} // namespace

EventDetail::Item::Item(const char *name, const std::string &value) : json_(member(name, json_text(value))) {}
EventDetail::Item::Item(const char *name, const std::optional<std::string> &value) {
  if (value)
    json_ = member(name, json_text(*value));
}
EventDetail::Item::Item(const char *name, int64 value) : json_(member(name, std::to_string(value))) {}
EventDetail::Item::Item(const char *name, bool value) : json_(member(name, value ? "true" : "false")) {}
EventDetail::Item::Item(const char *name, const std::vector<std::string> &values) {
  if (values.empty())
    return;
  std::string list;
  for (const std::string &value : values)
    list += (list.empty() ? "[" : ", ") + json_text(value);
  json_ = member(name, list + "]");
}

EventDetail::EventDetail(std::initializer_list<Item> items) {
  for (const Item &item : items)
    if (!item.json().empty())
      json_ += (json_.empty() ? "{" : ", ") + item.json();
  if (!json_.empty())
    json_ += "}";
}

void record_event(const char *event, const std::string &scope, const std::optional<std::string> &reason,
                  const EventDetail &detail) {
  // What another transaction is forgetting is left to it: an operator's open transaction must not hold up
  // everybody else's calls.
  query("DELETE FROM seal_sync.event WHERE id IN (SELECT e.id FROM seal_sync.event e WHERE e.at < "
        "pg_catalog.clock_timestamp() - $1 * interval '1 s' FOR UPDATE SKIP LOCKED)",
        {int_arg(guc::event_retention)});
  const char *where = scope.c_str(), *why = reason ? reason->c_str() : nullptr, *what = detail.json();
  pg::call([=] { config::note_event(event, where, why, what); });
}

} // namespace seal_sync::sql_api

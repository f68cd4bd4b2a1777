#pragma once
// What the calls note in seal_sync.event: who did what. C++ regime; the caller is AsOwner, inside an Spi level.
//
//   record_event("pause", "peer " + peer, reason);
//   record_event("peer_alter", "peer " + peer, {}, {{"server", server}, {"keys", keys}});

#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

/// The detail of an event: nothing, a JSON object, or its members. Members without a value are left out.
class EventDetail {
public:
  class Item {
  public:
    Item(const char *name, const std::string &value);
    Item(const char *name, const char *value) : Item(name, std::string(value)) {}
    Item(const char *name, const std::optional<std::string> &value);
    Item(const char *name, int64 value);
    Item(const char *name, bool value);
    Item(const char *name, const std::vector<std::string> &values);
    [[nodiscard]] const std::string &json() const noexcept { return json_; }

  private:
    std::string json_; // "name": value
  };
  EventDetail() = default;
  EventDetail(std::string object) : json_(std::move(object)) {}
  EventDetail(std::initializer_list<Item> items);
  [[nodiscard]] const char *json() const noexcept { return json_.empty() ? nullptr : json_.c_str(); }

private:
  std::string json_;
};

/// Notes what the session's user does, in the transaction that does it, and forgets what is older than
/// seal_sync.event_retention. event: the name of the call. scope as in health: "peer west", "table public.t".
/// Names and numbers only: never keys, values of rows, or secrets.
void record_event(const char *event, const std::string &scope, const std::optional<std::string> &reason = {},
                  const EventDetail &detail = {});

} // namespace seal_sync::sql_api

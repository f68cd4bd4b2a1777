#pragma once
// A recorded key in readable form: {"id": 7}. PostgreSQL regime.

#include "config/config.hpp"
#include "core/bytes.hpp"

namespace seal_sync::sql_api {

/// Conversions of one table's key columns, kept between keys. Lives in the context it is made in.
struct KeyJson {
  const config::Table *table;
  FmgrInfo to_jsonb[INDEX_MAX_KEYS];
  const char *names[INDEX_MAX_KEYS];
};
KeyJson *open_key_json(const config::Table *table);

/// Reads one key, advancing the reader. The result is in the current context.
Datum next_key_json(KeyJson *json, core::Reader *keys);

} // namespace seal_sync::sql_api

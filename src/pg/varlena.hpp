#pragma once
// Bytes as a value of the server. PostgreSQL regime.

#include "core/bytes.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::pg {

/// A bytea, or any varlena of bytes, in the current memory context.
inline bytea *make_bytea(core::ByteSpan bytes) {
  auto *value = static_cast<bytea *>(palloc(bytes.size() + VARHDRSZ));
  SET_VARSIZE(value, bytes.size() + VARHDRSZ);
  if (!bytes.empty())
    memcpy(VARDATA(value), bytes.data(), bytes.size());
  return value;
}

} // namespace seal_sync::pg

#pragma once
// Small things that every file of this folder needs which reads or writes our own tables: values for statements, and looks that
// cost no statement. PostgreSQL regime.

#include "config/config.hpp"

namespace seal_sync::scan {

inline Datum name_datum(const char *text) { return DirectFunctionCall1(namein, CStringGetDatum(text)); }

/// One statement, between SPI_connect() and SPI_finish(); returns how many rows it had.
inline uint64 execute(const char *sql, int count, Oid *types, Datum *values, const char *nulls, int expected) {
  const int rc = SPI_execute_with_args(sql, count, types, values, nulls, false, 0);
  if (rc != expected)
    elog(ERROR, "seal_sync: unexpected SPI result %d", rc);
  return SPI_processed;
}

/// Whether a table of ours has no page: one look at the size of its file, which is what the usual case costs.
inline bool is_empty(const char *table) {
  const Relation rel = table_open(config::own_relation(table), AccessShareLock);
  const bool empty = RelationGetNumberOfBlocks(rel) == 0;
  table_close(rel, AccessShareLock);
  return empty;
}

/// For qsort: int64, ascending.
inline int compare_ids(const void *a, const void *b) {
  const int64 left = *static_cast<const int64 *>(a), right = *static_cast<const int64 *>(b);
  return left < right ? -1 : left > right ? 1 : 0;
}

} // namespace seal_sync::scan

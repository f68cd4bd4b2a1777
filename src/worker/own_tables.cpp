// See own_tables.hpp.
#include "worker/own_tables.hpp"

namespace seal_sync::worker {

namespace {

constexpr int kMaxParameters = 8;

struct Saved {
  const char *sql; // a literal: compared by address
  SPIPlanPtr plan;
};
Saved saved[32];

/// These statements run every second for months: planned once.
SPIPlanPtr plan_of(const char *sql, int parameters) {
  for (const Saved &entry : saved)
    if (entry.sql == sql)
      return entry.plan;
  Oid types[kMaxParameters];
  for (Oid &type : types)
    type = TEXTOID;
  const SPIPlanPtr plan = SPI_prepare(sql, parameters, types);
  if (plan == nullptr)
    elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
  for (Saved &entry : saved)
    if (entry.sql == nullptr) {
      SPI_keepplan(plan);
      entry = {sql, plan};
      break;
    }
  return plan;
}

} // namespace

Rows query(const char *sql, std::initializer_list<const char *> parameters) {
  Rows rows;
  const MemoryContext caller = CurrentMemoryContext;
  if (SPI_connect() != SPI_OK_CONNECT)
    elog(ERROR, "SPI_connect failed");
  Datum values[kMaxParameters];
  char nulls[kMaxParameters + 1] = {};
  int count = 0;
  for (const char *parameter : parameters) {
    values[count] = parameter != nullptr ? CStringGetTextDatum(parameter) : static_cast<Datum>(0);
    nulls[count++] = parameter != nullptr ? ' ' : 'n';
  }
  const int result = SPI_execute_plan(plan_of(sql, count), values, nulls, false, 0);
  if (result < 0)
    elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(result));
  if (SPI_tuptable != nullptr) {
    rows.count = static_cast<int>(SPI_processed);
    rows.columns = SPI_tuptable->tupdesc->natts;
    const MemoryContext spi = MemoryContextSwitchTo(caller);
    rows.values = static_cast<const char **>(
        palloc0(sizeof(char *) * static_cast<size_t>(Max(rows.count * rows.columns, 1))));
    for (int r = 0; r < rows.count; r++)
      for (int c = 0; c < rows.columns; c++)
        rows.values[r * rows.columns + c] =
            SPI_getvalue(SPI_tuptable->vals[r], SPI_tuptable->tupdesc, c + 1);
    MemoryContextSwitchTo(spi);
  }
  SPI_finish();
  MemoryContextSwitchTo(caller);
  return rows;
}

} // namespace seal_sync::worker

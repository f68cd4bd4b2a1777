#pragma once
// Reading and changing the extension's own tables from a worker: SQL with text parameters.
//
// Inside a transaction with an active snapshot. PostgreSQL regime.

#include "pg/postgres.hpp"

#include <initializer_list>

namespace seal_sync::worker {

/// All values as text, palloc'd in the current context; a null value is a null pointer.
struct Rows {
  int count = 0;
  int columns = 0;
  const char **values = nullptr;
  [[nodiscard]] const char *at(int row, int column) const { return values[row * columns + column]; }
};

/// Parameters are of type text: cast them in the statement. A null pointer is a null value.
Rows query(const char *sql, std::initializer_list<const char *> parameters);

} // namespace seal_sync::worker

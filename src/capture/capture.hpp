#pragma once
// What other folders may ask of capture. PostgreSQL regime.

#include "config/config.hpp"

namespace seal_sync::capture {

/// Registers the transaction callbacks; from _PG_init.
void init();
void init_trigger(); // part of init()

/// Enters every row of `relation` (a registered table or one of its leaves) whose cluster has its
/// primary here into the change log, to be shipped whole. The caller holds a lock that keeps writers
/// out. Returns the number of keys.
int64 recapture(Oid relation);

/// The same for rows whose cluster column holds one of these values: rows that were there before a
/// cluster was declared for them. Needs no lock: until then the guard has refused to change them.
int64 recapture_values(Oid relation, const char *const *values, int count);

/// The same as updates of some columns, by their numbers in the registered table: what DDL has made of them. A number that
/// is no column any more means nothing. Needs no lock: rows changed meanwhile record themselves.
int64 recapture_columns(Oid relation, const int16 *columns, int count);

} // namespace seal_sync::capture

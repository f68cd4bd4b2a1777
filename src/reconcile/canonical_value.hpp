#pragma once
// Canonical bytes (core/canonical.hpp) of what stands in columns, whatever their types.
//
// Called by the scan of a comparison for every column of every row, on both sides. Which rule a type follows is decided once
// (make_canonical) and told to the other side (describe_canonical); sides that follow other rules do not compare rows. Invariants:
// what the server keeps for itself is not looked at (OIDs, compression, short headers, the order of columns and keys of objects);
// nothing depends on settings but the output of types that are not known here, which is done under settings of our own
// (pin_settings). Large values are hashed as they are read. Server regime; memory beyond the plan is the caller's current context,
// which it resets row by row.

#include "core/row_hash.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::reconcile {

struct CanonicalType;

/// The plan for a column's type, in the current memory context. The type must not change while it is used (42804 when it has).
CanonicalType *make_canonical(Oid type, int32 typmod);

/// A name in UTF-8, as both sides know it.
const char *utf8_name(const char *name);

/// Equal descriptions, comparable values: names, not OIDs; text and varchar are one, a domain is what it is made of.
void describe_canonical(core::Buffer *out, const CanonicalType *type);

/// Bytes that every value of the type has in a key made of raw columns; 0: it is not of a fixed width.
Size raw_width(const CanonicalType *type);
/// So many bytes.
void write_raw(core::Buffer *out, const CanonicalType *type, Datum value);

void write_canonical(core::RowHasher *out, const CanonicalType *type, Datum value, bool is_null);

/// The bytes themselves.
void collect_canonical(core::Buffer *out, const CanonicalType *type, Datum value, bool is_null);

/// Settings that text of values may depend on, for the caller's transaction: AtEOXact_GUC(true, pin_settings()) ends it sooner.
int pin_settings();

} // namespace seal_sync::reconcile

#pragma once
// How a table that the peer described fits the one here: names to columns, wire classes to types.
//
// Built by wire_describe, kept in the session, checked again by wire_apply whenever the relation or
// the rules have changed since. Invariants: only names come from the wire; only registered tables fit;
// a descriptor that no longer fits raises kSchemaChanged before a row of it is touched.

#include "apply/apply_session.hpp"
#include "core/wire.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

struct SentColumn {
  NameData name;
  NameData type_schema, type_name;
  int32 typmod;
  core::wire::ColumnClass offered; // what the peer would like to send
  core::wire::ColumnClass cls;     // what it was told to send
  uint8 width;
  uint8 key_position;
  AttrNumber attno; // here, in the described relation; 0: the value is not taken
};

struct Descriptor {
  uint64 number;
  MemoryContext context; // of its own, below the session's
  NameData schema, table;
  int column_count;
  SentColumn *columns;
  int key_count;
  int *key_columns; // column numbers by key position
  NameData cluster_column, cluster;
  int encoding;               // the sender's
  core::ByteSpan description; // as it came, without the number
  uint64 order;   // session->descriptions when it came
  uint64 staging; // session->stagings when it was last met there
  Oid relation;
  bool valid;   // no invalidation since it was matched
  uint64 rules; // config::version() when it was matched
};

/// Before the descriptors of a session are freed: invalidations must not look at them any more.
void stop_watching();

/// A description that was kept with a stage, in the current memory context; it is matched when the table is opened.
/// `told`: one byte per column, as was_told() has made it.
Descriptor *staged_descriptor(core::ByteSpan description, core::ByteSpan told, int encoding, uint64 number);
core::ByteSpan was_told(const Descriptor *descriptor);

/// Descriptors that are not the session's, to be told of invalidations until the end of the transaction: values of
/// the table are Descriptor *, behind a key of 16 bytes.
void watch_staged(HTAB *tables);

/// The newest descriptors of this connection by name: DescribedName, in `context`.
struct DescribedName {
  NameData names[2]; // hash key: schema, table
  Descriptor *descriptor;
};
HTAB *described_names(Session *session, MemoryContext context);

/// Whether rows of one can be read by the other; whether keyrows can.
bool same_form(const Descriptor *a, const Descriptor *b);
bool same_keys(const Descriptor *a, const Descriptor *b);

/// Numbers of the wire are smaller.
inline constexpr uint64 kStagedNumber = uint64{1} << 32;

/// Nothing was agreed about this number: raises.
Descriptor *find_descriptor(Session *session, uint64 number);

/// The one that names this relation here, or nullptr.
const Descriptor *described_as(const Session *session, Oid relation);

/// After the relation is locked: still the same relation and the same agreement, or kSchemaChanged.
void recheck_descriptor(Session *session, Descriptor *descriptor, Oid relation);

/// The relation the descriptor names now, locked; raises kSchemaChanged when there is none.
Relation open_described(Session *session, const Descriptor *descriptor, LOCKMODE mode);

[[noreturn]] void schema_changed(const Descriptor *descriptor, const char *detail);

} // namespace seal_sync::apply

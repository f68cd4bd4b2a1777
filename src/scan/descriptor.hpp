#pragma once
// How a table travels: which columns, in which form, and what the peer said to it.
//
// One SentTable per registered table and connection (Session). Made from the catalogs when first
// needed and again when the table's definition has changed; the peer knows it by its number.

// A table that has been agreed on is described anew after DDL on either side even when no row of it has changed
// (look_again), because what DDL did to its rows is owed (agreement.hpp).

#include "scan/batch.hpp"
#include "config/config.hpp"

namespace seal_sync::scan {

struct SentColumn {
  NameData name;
  AttrNumber root_attno;
  core::wire::ColumnClass cls;
  uint8 width;        // on the wire, kFixed only
  uint8 key_position; // 1.. within the primary key
  Oid type;
  int16 typlen;
  bool by_value;
  FmgrInfo output; // kOutput: output function, kBinary: send function
  FmgrInfo input;  // the inverse, for keys the peer sends back
  Oid io_param;
};

struct SentTable {
  Oid root; // hash key
  uint64 signature; // of the config::Table it was made from
  uint32 number; // on this connection, kept when it is described again
  MemoryContext context; // of what follows
  char *schema; // as the peer was told
  char *name;
  TableFit fit;
  bool told_held;         // does not fit, and the keys in seal_sync.held say why
  TimestampTz decided_at; // a table that does not fit is asked for again after a while
  int column_count;
  SentColumn *columns;
  int key_count;
  int *key_columns; // index into columns, in key order
  bool noted;       // the agreement stands in seal_sync.agreement, or there is none
  bool told;        // the peer has said the following, of a table that fits
  core::wire::Id incarnation;
  uint64 newest;
  uint64 *numbers; // of each column
  int16 *places;   // where its values go over there
  char *sqlstate;   // what the peer said, when it does not fit
  char *message;
  char *detail;
  char *hint;
};

/// The description of a registered table for this connection, made or renewed as needed.
SentTable *sent_table(Session *session, const config::Table *root);
/// False: the peer has said lately that it does not take this table.
bool fits_or_unknown(const SentTable *sent);
void write_description(SentTable *sent, const config::Table *root, core::Buffer *out);
TableFit read_description_reply(SentTable *sent, core::Reader *reply);

/// Appends one value in the column's wire form.
void write_value(core::Buffer *out, const SentColumn *column, Datum value);
/// Reads a keyrow as the peer returns it into key values, in key order.
void read_keyrow(core::Reader *in, const SentTable *sent, Datum *values);

} // namespace seal_sync::scan

#pragma once
// Table seal_sync.reception: which columns a peer has been shipping to a table here, and which of them it has to ship
// for every row, because this node's rows have something else in them.
//
// DDL changes rows without any trigger: a column that is added is empty or full of a default, one that is rewritten
// has new values, one that is renamed has those of another one. The peer sees nothing of DDL here. So each column has a number, drawn when it was first
// agreed on or last rewritten, and the answer to wire_describe tells it: a peer that has shipped column c of every
// row since number n owes it again when the number is higher. Numbers count within an incarnation, a
// random id drawn with the row: another one means another table, and all of it is owed.
//
// Called by wire_describe, and by the event triggers (sql_api/ddl_events), which raise the numbers by SQL.
// PostgreSQL regime. A lost commit costs a needless copy: the next answer has another incarnation or a higher number.

#include "apply/relation_map.hpp"

namespace seal_sync::apply {

/// Appends to the answer: incarnation, highest number, then for each described column its place (the attribute number here; 0:
/// not taken) and its number. By the place the peer sees that a name leads to another column now.
void write_reception(core::Buffer *reply, const NameData &origin, const Descriptor *descriptor);

} // namespace seal_sync::apply

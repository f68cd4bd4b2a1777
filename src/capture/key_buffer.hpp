#pragma once
// Keys captured by the current transaction and not yet written to the change log.
//
// Called by the capture triggers and recapture; written at a bound, before commit and before PREPARE.
// Invariants (trap T9):
//  - a buffer belongs to one subtransaction level; only keys captured at that level (or handed up by
//    committed children) are in it, and they are written only while that level is the current one
//  - at commit of a subtransaction its keys go to the parent, at abort they are dropped
//  - nothing is left out because an equal key was written before: that one may still be rolled back
//  - memory is bounded whatever the number of keys or savepoints

#include "core/change_log_codec.hpp"
#include "config/config.hpp"

namespace seal_sync::capture {

/// Remembers one change. mask: changed root columns of an update, empty: take the whole row.
void remember(core::ChangeKind kind, const config::Table *table, const config::Cluster *cluster,
              core::ByteSpan mask, TupleTableSlot *row);

} // namespace seal_sync::capture

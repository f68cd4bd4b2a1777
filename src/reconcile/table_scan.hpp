#pragma once
// One pass over the rows of a registered table that belong to a cluster: their digest.
//
// Called on both sides of a comparison, and by table_digest(). Which columns are compared, and as what, is decided once
// (compared_table) and told to the other side; sides that describe a table otherwise do not compare its rows. Generated columns are
// not compared: they are made of others, and not shipped. Invariants: rows are those of the snapshot, of every partition, each once; a relation
// that was truncated, rewritten, attached or detached since, or that DDL holds, ends the scan with an error (trap T8), as do rules that change meanwhile,
// never with fewer rows; nothing is waited for; memory is a row's.

#include "config/config.hpp"
#include "core/row_digest.hpp"

namespace seal_sync::reconcile {

struct ComparedTable;

/// In the current memory context. 55000: the table has no primary key just now.
ComparedTable *compared_table(const config::Table *root);

/// Columns by name with their rules, and the key's. Equal descriptions, comparable rows.
void describe_compared(core::Buffer *out, const ComparedTable *table);
/// Bytes of a key that are told of a row; less than 16 for short keys of fixed width.
Size key_bytes(const ComparedTable *table);

/// Adds all rows of the cluster to `digest`. Settings are pinned by the caller. `snapshot` must be active or registered.
void digest_rows(const ComparedTable *table, const config::Cluster *cluster, Snapshot snapshot, const core::RunSecret &secret, core::RowDigest *digest);

} // namespace seal_sync::reconcile

#pragma once
// What a peer has got of each table, column by column; and what it has not, because DDL on either side made or changed
// columns without any row trigger firing.
//
// Table seal_sync.agreement holds, for each peer and table, the columns that were shipped by the last description
// that fitted, and the numbers that the peer gave its own columns (apply/reception.hpp). When a description
// fits again and something is new, those columns are owed for every row: the table is marked, and the
// database worker enters its keys into the log with just these columns (ship_owed). Invariant: agreement and mark change in one
// transaction, so a crash neither forgets what is owed nor ships it for ever.
//
// In the worker's transaction. PostgreSQL regime.

#include "scan/batch.hpp"

namespace seal_sync::scan {

/// Notes what the tables described since agree on, and marks what they owe. Called where the transaction is about
/// to commit.
void note_agreements(Session *session);

/// Tables that have been agreed on with the peer and still are registered. palloc'd.
int agreed_tables(const char *peer, Oid **relations);

/// Enters the keys of one table that owes columns, if there is one and the log has room. True: there was one.
bool ship_owed();

} // namespace seal_sync::scan

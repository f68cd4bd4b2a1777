#pragma once
// Whether a partitioned table has a partition for a key.
//
// Asked by row_writer before deletes and partial updates are routed: a partition that is not there holds
// no row, so such a row is no error, and must not cost a batch its first attempt. The executor's own
// routing knows no such question, it raises.

#include "pg/postgres.hpp"

namespace seal_sync::apply {

/// `row` has the layout of `table`; its key columns are filled, and partitions are chosen by nothing else.
bool has_partition(Relation table, TupleTableSlot *row);

} // namespace seal_sync::apply

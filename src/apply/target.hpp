#pragma once
// A table open for applying: executor state, routing to partitions, decoders, index lookup.
//
// Opened by apply_batch when the first section of the table comes, closed at the end of the segment
// (a batch, or what a subtransaction covers in careful mode), so nothing here outlives the resource
// owner it was made under. Invariants: the table and each partition written are locked ROW EXCLUSIVE
// before their cluster's role is read (the fence waits for such locks); the trigger list given to the
// executor has none of our own triggers and only those that fire in replica role.

#include "apply/relation_map.hpp"
#include "apply/value_codec.hpp"
#include "config/config.hpp"
#include "pg/key_cursor.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

struct Attempt;     // attempt.hpp
struct IndexEntries; // index_entries.hpp, per leaf
struct ForeignKeys; // foreign_keys.hpp, per leaf

/// A relation that holds rows: the table itself, or one partition.
struct Leaf {
  Oid oid; // hash key
  MemoryContext context; // of the target
  Relation relation;
  ResultRelInfo *result;
  IndexEntries *entries;
  AttrNumber *root_attnos; // [attno - 1] -> attno in the target; nullptr: identical
  config::Table *rule;
  uint64 rules; // config::version() of `rule`

  Relation key_index;
  pg::KeyCursor *cursor;
  SnapshotData dirty;
  int key_count;
  AttrNumber key_attnos[INDEX_MAX_KEYS]; // in this relation, by index column

  TupleTableSlot *existing; // as found
  TupleTableSlot *next;     // as it will be written
  BulkInsertState bulk;     // made when rows are inserted in runs

  bool has_stored_generated;
  bool has_other_unique;     // unique or exclusion constraints beside the primary key
  Bitmapset *unique_columns; // of those that are checked at once
  ForeignKeys *foreign_keys; // nullptr: neither references nor is referenced
};

struct Target {
  uint64 number; // hash key
  MemoryContext context;
  Descriptor *descriptor;
  Relation relation;
  Oid owner;
  ResourceOwner locks; // attempt->owner
  EState *estate;
  ResultRelInfo *result;
  Bitmapset **updated_columns;
  EPQState epq;
  bool after_query; // between AfterTriggerBeginQuery and EndQuery
  int64 written;    // rows, for the counters

  Leaf *only;                     // not partitioned
  ModifyTableState *modify;       // partitioned
  PartitionTupleRouting *routing; // partitioned
  HTAB *leaves;                   // partitioned

  ValueDecoder *decoders; // by sent column
  bool *sent;             // [attno - 1]: the current section carries it
  int default_count;      // columns that are not sent but have a default
  AttrNumber *default_attnos;
  ExprState **defaults;

  static constexpr int kRun = 500;
  TupleTableSlot *incoming[kRun]; // rows in the target's layout, made when needed
};

/// Everything is made in the current memory context. Locks are taken for attempt->owner: they stay when
/// the segment is rolled back, so that tables keep their shape until the end of the attempt.
Target *open_target(Attempt *attempt, Descriptor *descriptor);
void close_target(Target *target);

/// The slot for the i-th row of a run, empty.
TupleTableSlot *incoming_slot(Target *target, int i);

/// Where the row with these key columns lives; raises 23514 when no partition takes it.
Leaf *route(Target *target, TupleTableSlot *row);

/// The leaf's rule as of now.
inline config::Table *rule_of(Leaf *leaf) {
  if (leaf->rules != config::version()) {
    leaf->rule = config::find_table(leaf->oid);
    leaf->rules = config::version();
  }
  return leaf->rule;
}

/// Finds the row with the primary key of `row` (target layout) into leaf->existing, waiting for
/// transactions that are about to insert or delete it.
bool find_existing(Leaf *leaf, TupleTableSlot *row);

/// The same without waiting: false also when somebody is about to insert or delete it.
bool find_standing(Leaf *leaf, TupleTableSlot *row);

/// Whether any row lies between the keys of two rows of an ascending run. May say yes for no reason.
bool any_between(Leaf *leaf, TupleTableSlot *first, TupleTableSlot *last);

} // namespace seal_sync::apply

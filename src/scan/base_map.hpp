#pragma once
// Which of a stage's keys were read under which snapshot: what a batch that takes long still owes.
//
// A stage (trap T13) takes its keys in one fixed order, in passes. While a pass goes on, the snapshot is renewed now and then, so the
// order is cut into stretches, each with the position under which its keys were read last: its base. A key has to be read again
// iff it was changed after the base of its stretch. A pass that begins and ends under one snapshot leaves nothing owed
// at that snapshot, and the batch can be applied there. The copy of a table (trap T14) is one pass over its rows.
//
// Owned by worker/route_stage, asked by scan/collect for each logged key. Lives in a context of its own, for as long as the
// connection; kept by the peer as a note (core/stage_note.hpp). PostgreSQL regime.
// Invariant: every change of a key that a stretch's base sees, for a table that is noted here, is in the stage.

#include "core/stage_note.hpp"
#include "scan/batch.hpp"
#include "scan/key_order.hpp"

namespace seal_sync::scan {

struct Cut {
  Oid scope;
  bool at_end;        // behind all keys of the scope
  core::ByteSpan key; // as in the change log
  int base;           // index into positions
};

struct BaseMap {
  MemoryContext context;
  core::StageKind kind;
  Oid relation;       // kCopy: the registered table
  uint32 pass;
  uint64 fingerprint; // of the clusters that go, see session_fingerprint()
  core::wire::Id stage; // which this is the map of
  uint64 number;        // of the newest entry in the route's history when it was written
  uint64 chunks, rows;  // in the stage
  int pass_cuts;      // of the current pass
  Cut *cuts;
  int cut_count, cut_capacity;
  Position *positions;
  int position_count, position_capacity;
  int rest; // base behind the last cut; -1: never read
  struct Noted {
    Oid relation;
    uint32 pass; // the first one that has met it
    uint64 signature;
  } *tables;
  int table_count, table_capacity;
  struct Places *places; // of the batch at hand: cuts with their values, see prepare()
};

BaseMap *make_base_map(MemoryContext parent, core::StageKind kind, Oid relation, uint32 pass, uint64 fingerprint);
/// Nothing when the note cannot be read, or its parts do not fit together.
BaseMap *read_note(MemoryContext parent, core::ByteSpan note);
void write_note(const BaseMap *map, core::Buffer *out);
/// Makes the note about half as long: neighbouring stretches go under the older of their bases, so more is owed, and nothing is
/// lost. False: it is as short as it can be.
bool shrink(BaseMap *map);
void drop_base_map(BaseMap *map);

/// Whether its tables and clusters are what they were when keys were staged; else the stage is of no use.
bool still_good(const BaseMap *map, uint64 fingerprint);

/// Makes the map ready for one batch; what it needs is in the current context. False as still_good().
bool prepare(BaseMap *map);

struct Standing {
  bool passed;          // in the current pass
  const Position *base; // nullptr: never read
};
Standing standing_of(const BaseMap *map, Oid scope, const Datum *values);
/// Whether the passes before the current one have met the table: what stands there for its keys is true of them.
[[nodiscard]] bool met_before(const BaseMap *map, Oid relation);

/// The table's keys are in the stage from here on. Its pass must not have begun with the table.
void note_table(BaseMap *map, Oid relation, uint64 signature);
/// All keys up to this one, or to the end of the scope with an empty key, are staged as of `position`. False: the table is
/// not what it was.
bool advance(BaseMap *map, Oid scope, core::ByteSpan key, const Position &position);
/// So is everything behind: the next pass begins.
void finish_pass(BaseMap *map, const Position &position);

/// Of the clusters that are routed to a session's peer, with their epochs and whether it accepts them: a stage is good for these only.
uint64 session_fingerprint(const Session *session);

} // namespace seal_sync::scan

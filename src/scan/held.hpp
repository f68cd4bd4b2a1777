#pragma once
// seal_sync.held: keys that could not be shipped, kept apart so that neither a refused key nor a
// parked table pins the change log (traps T16, T17). Shipped whole when they are due.
//
// A key that an operator has skipped stays here, never due: the peer's row is not what we last sent, so
// the key's next change is to be shipped whole as well, and takes the key out.
//
// An operator who decides about keys may leave his transaction open over lunch. Invariant: the worker waits for no
// row of this table. A row that somebody else has locked is left as it is, and the key with it: it is not shipped
// until then (held_index.hpp), a refusal adds nothing to it (hold_key), and if it has arrived in the meantime, it is
// removed later (arrived.hpp). Only the worker adds rows for its peer, so that looking first is enough.
//
// In the route worker's transaction; what is changed, through SPI.

#include "config/config.hpp"
#include "core/bytes.hpp"
#include "scan/batch.hpp"

namespace seal_sync::scan {

/// To find keys in a hash table: relation and hash of the bytes, which are to be compared as well.
struct KeyHash {
  uint64 relation;
  uint64 bytes;
};
KeyHash hash_of(Oid relation, core::ByteSpan key);

/// Why a key is held.
struct HeldReason {
  const char *state; // quarantined, parked, waiting_peer
  const char *sqlstate = nullptr;
  const char *message = nullptr;
  const char *detail = nullptr;
  const char *hint = nullptr; // the peer's, how to make the table fit
  const char *constraint = nullptr;
  char kind = 'W';
  int64 batch = 0;
  bool awaits_cluster = false; // the peer does not accept the key's cluster, whatever it says of the table
  // Whether the key is held again although it has been skipped. Not for an attempt that was under way
  // when it was skipped: what the operator has seen and decided stands.
  bool over_skip = true;
  // What the peer says beyond that: another key, which is missing there (so that this one is held by it) or whose
  // row is in the way, and the peer's row, as JSON.
  Oid other_relation = InvalidOid;
  core::ByteSpan other_key;
  const char *other_cluster = nullptr;
  bool other_stands = false;
  const char *standing = nullptr;
};

/// Holds a key, or notes one more failed attempt. cluster 0: not known, a known one stays. Returns the row's id.
int64 hold_key(const char *peer, Oid relation, Oid leaf, int32 cluster, core::ByteSpan key,
               const HeldReason &reason);
/// The peer says something new of a table that it does not take: so do the keys that wait for the table.
/// Returns whether there were any to which it is news.
bool restate_held(const char *peer, Oid relation, const HeldReason &reason);
/// A table some of whose inserts and updates were not recorded: it is to be shipped again.
void mark_dirty(Oid relation, const char *reason);
/// Keys that wait for the peer; skipped ones do not.
int64 count_held(const char *peer);

} // namespace seal_sync::scan

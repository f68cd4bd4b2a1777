#pragma once
// seal_sync.held: keys that could not be shipped, kept apart so that neither a refused key nor a
// parked table pins the change log (traps T16, T17). Shipped whole when they are due.
//
// A key that an operator has skipped stays here, never due: the peer's row is not what we last sent, so
// the key's next change is to be shipped whole as well, and takes the key out.
//
// All of it through SPI, in the route worker's transaction.

#include "config/config.hpp"
#include "core/bytes.hpp"

namespace seal_sync::scan {

struct HeldKey {
  int64 id;
  Oid relation;
  core::ByteSpan key;
  bool due;
  bool skipped;
};

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
};

/// Quarantined and skipped keys of a peer, and due keys of parked or waiting tables, the longest due first, at most
/// `limit`. Left out: tables that are known not to fit, and clusters that are not accepted.
/// Array and bytes are palloc'd in the current context.
int load_held(const char *peer, int limit, const Datum *unfit, int unfit_count, const int32 *accepted,
              int accepted_count, HeldKey **keys);
/// Holds a key, or notes one more failed attempt. cluster 0: not known, a known one stays. Returns the row's id.
int64 hold_key(const char *peer, Oid relation, Oid leaf, int32 cluster, core::ByteSpan key,
               const HeldReason &reason);
/// The peer says something new of a table that it does not take: so do the keys that wait for the table.
/// Returns whether there were any to which it is news.
bool restate_held(const char *peer, Oid relation, const HeldReason &reason);
void release_held(const int64 *ids, int count);
/// A table some of whose inserts and updates were not recorded: it is to be shipped again.
void mark_dirty(Oid relation, const char *reason);
/// Keys that wait for the peer; skipped ones do not.
int64 count_held(const char *peer);

} // namespace seal_sync::scan

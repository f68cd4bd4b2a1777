#pragma once
// seal_sync.held: keys that could not be shipped, kept apart so that neither a refused key nor a
// parked table pins the change log (traps T16, T17). Shipped whole when they are due.
//
// All of it through SPI, in the route worker's transaction.

#include "config/config.hpp"
#include "core/bytes.hpp"

namespace seal_sync::scan {

struct HeldKey {
  int64 id;
  Oid relation;
  int32 cluster; // of a key that waits for its cluster, else 0
  core::ByteSpan key;
  bool due;
};

/// Why a key is held.
struct HeldReason {
  const char *state; // quarantined, parked, waiting_peer
  const char *sqlstate = nullptr;
  const char *message = nullptr;
  const char *detail = nullptr;
  const char *constraint = nullptr;
  char kind = 'W';
  int64 batch = 0;
};

/// Quarantined keys of a peer, and due keys of parked or waiting tables, the longest due first, at most
/// `limit`. Left out: tables that are known not to fit, and clusters that are not accepted.
/// Array and bytes are palloc'd in the current context.
int load_held(const char *peer, int limit, const Datum *unfit, int unfit_count, const int32 *accepted,
              int accepted_count, HeldKey **keys);
/// Holds a key, or notes one more failed attempt. Returns the row's id.
int64 hold_key(const char *peer, Oid relation, Oid leaf, int32 cluster, core::ByteSpan key,
               const HeldReason &reason);
void release_held(const int64 *ids, int count);
/// A table some of whose inserts and updates were not recorded: it is to be shipped again.
void mark_dirty(Oid relation, const char *reason);
int64 count_held(const char *peer);

} // namespace seal_sync::scan

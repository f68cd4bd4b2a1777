#pragma once
// Table seal_sync.origin: the nodes that have spoken to this one, their token and generations.
//
// Called by wire_hello (issues) and by batches and heartbeats (confirm). Read by the primary-key index
// under a snapshot taken now. Invariant (trap T4): a speaker is known only by its token together with
// the newest generation this node issued, or the one before it if the newest was never used. The
// token is known to every node it was presented to, so the login has to be the first one's too.

#include "pg/postgres.hpp"

namespace seal_sync::apply {

struct OriginRow {
  bool found;
  pg_uuid_t token;
  uint64 issued, confirmed;
  NameData login; // session user of its hellos, the same from the first one on
};

OriginRow read_origin(const NameData &node);
/// Inserts or updates: issued = generation. The login is noted once, at the first contact.
void issue_generation(const NameData &node, const pg_uuid_t &token, uint64 presented, uint64 generation);
void confirm_generation(const NameData &node, uint64 generation);

} // namespace seal_sync::apply

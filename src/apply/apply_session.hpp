#pragma once
// What one connection of a peer has agreed on with this node: who speaks, which generation it was
// given, which tables it has described, and the batch that is being collected.
//
// Made by wire_hello, used by all other wire functions, gone with the backend or the next hello.
// Lives in a memory context of its own below TopMemoryContext, so it survives the transactions of the
// single calls. Invariant: at most one session per origin exists in a database, and a session advisory
// lock is the proof (it works without shared memory, and dies with the backend).

#include "apply/receive_buffer.hpp"
#include "apply/refusals.hpp"
#include "core/wire.hpp"
#include "pg/postgres.hpp"
#include "pg/shared_state.hpp"

namespace seal_sync::apply {

struct Descriptor; // relation_map.hpp

struct Session {
  MemoryContext context;
  NameData origin;
  int encoding;      // the sender's server encoding
  uint64 generation; // the one issued to this connection
  bool confirmed;    // the peer has presented it since, and that is committed
  HTAB *tables;      // number -> Descriptor *
  ReceiveBuffer buffer;
  BatchNotes notes;
  bool batch_done; // committed; chunks and notes go with the next call
  int64 dialect;   // how the tables are described now, in stages; 0: no stage has seen it
  uint64 stagings; // calls of wire_stage
  uint64 descriptions; // calls of wire_describe
  pg::OriginSlot *slot; // nullptr without shared memory

  // What becomes true when the current transaction commits.
  struct AtCommit {
    bool confirmed;
    bool applied;
    bool repeated; // only the answer: it was applied before
    bool staged;   // the chunks stand in a stage
    int64 batch, rows;
    TimestampTz complete_until;
  } at_commit;
};

/// The session of this backend; raises when there was no hello, or its lock is gone.
Session *current_session();

/// Ends the predecessor connection of `origin`, if there is one, and takes its lock. False when it
/// does not go away in time. Already held by this backend: true at once.
bool take_origin_lock(const NameData &origin);

/// Until the end of the transaction the session applies a batch of which all has arrived: a successor waits for it, and does
/// not end it unless it waits for a lock.
void note_being_applied(const Session *session);
bool being_applied(const NameData &origin);

/// A new session in place of the old one; the lock is held already.
Session *open_session(const NameData &origin, int encoding, uint64 generation);
void close_session();

/// Until the end of the transaction `origin` stays a peer, or stays none: peer_drop waits for it and it for
/// peer_drop. To be called before it is looked at; what is read of a peer and written for it would otherwise
/// belong to two different ones. Waits as bound_lock_waits() says.
void keep_peer(const NameData &origin);
/// The other side of it, for peer_drop.
void lock_peer(const char *peer);

/// The generation's rule (trap T4) for a call that presents one: raises kContradiction unless it is
/// the one issued to this connection and no later connection has been given a newer one. Notes that it
/// is confirmed.
void check_generation(Session *session, uint64 generation);

/// The same rule for a call that presents none.
void check_current(Session *session);

/// Drops chunks and notes of a batch that is done.
void forget_batch(Session *session);

/// Copies times and numbers to shared memory, for status. Never fails.
void publish_contact(Session *session, TimestampTz complete_until);

/// What a peer says it is complete until, not later than now: its clock may be ahead of ours, and it
/// may say anything.
TimestampTz checked_complete_until(TimestampTz value);

[[noreturn]] void contradiction(const char *message, const char *detail);

} // namespace seal_sync::apply

// See apply_session.hpp.
#include "apply/apply_session.hpp"

#include "apply/connected.hpp"
#include "apply/origin.hpp"
#include "apply/relation_map.hpp"
#include "apply/reply.hpp"
#include "config/condition.hpp"
#include "config/config.hpp"

extern "C" {
#include "storage/lock.h"
}
#include <signal.h>

namespace seal_sync::apply {

namespace {

// Tells our advisory locks from those of pg_advisory_lock(), which use 1 and 2 here.
constexpr uint16 kLockClass = 0x5ea1;     // whose session speaks for a node; held by the session
constexpr uint16 kPeerLockClass = 0x5ea2; // that a node is a peer, or is not; held to the end of a transaction
constexpr uint16 kApplyLockClass = 0x5ea3; // a whole batch is being applied; held to the end of its transaction
constexpr int kPredecessorWaitMs = 5000;
constexpr int kLookForHolderMs = 500; // reading the lock table stops all who lock

Session *session = nullptr;

LOCKTAG lock_tag(const char *node, uint16 lock_class) {
  const uint64 hash = DatumGetUInt64(
      hash_any_extended(reinterpret_cast<const unsigned char *>(node), static_cast<int>(strlen(node)), 0));
  LOCKTAG tag;
  SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, static_cast<uint32>(hash >> 32), static_cast<uint32>(hash),
                       lock_class);
  return tag;
}

LOCKTAG origin_lock_tag(const NameData &origin) { return lock_tag(NameStr(origin), kLockClass); }

struct Holder {
  int pid;      // 0: nobody
  bool waiting; // for a lock of somebody else's
};

/// The backend that holds the lock, from the lock table itself.
Holder holder_of(const LOCKTAG &tag) {
  Holder holder = {};
  LockData *const locks = GetLockStatusData();
  for (int i = 0; i < locks->nelements; ++i) {
    const LockInstanceData &lock = locks->locks[i];
    if (lock.holdMask != 0 && memcmp(&lock.locktag, &tag, sizeof tag) == 0)
      holder.pid = lock.pid;
  }
  for (int i = 0; i < locks->nelements; ++i)
    holder.waiting = holder.waiting || (locks->locks[i].pid == holder.pid && locks->locks[i].waitLockMode != NoLock);
  return holder;
}

void at_transaction_end(XactEvent event, void *) {
  if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE || event == XACT_EVENT_PARALLEL_PRE_COMMIT)
    return;
  watch_staged(nullptr);
  if (session == nullptr)
    return;
  const Session::AtCommit done = session->at_commit;
  session->at_commit = {};
  if (event != XACT_EVENT_COMMIT)
    return;
  if (done.confirmed)
    session->confirmed = true;
  if (done.staged) // had the commit failed, they could have been staged again
    session->batch_done = true;
  if (!done.applied)
    return;
  // Chunks stay until now: had the commit failed, the sender could have applied them again.
  session->buffer.rows = 0;
  session->batch_done = true;
  if (session->slot != nullptr) {
    LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
    const TimestampTz now = GetCurrentTimestamp();
    if (!done.repeated || session->slot->last_batch != done.batch) {
      session->slot->last_batch = done.batch;
      session->slot->last_batch_rows = done.rows;
      session->slot->last_batch_at = now;
    }
    session->slot->last_contact_at = now;
    session->slot->complete_until = done.complete_until;
    LWLockRelease(pg::shared_lock());
  }
}

void leave_slot(int, Datum) {
  if (session == nullptr || session->slot == nullptr)
    return;
  LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
  if (session->slot->pid == MyProcPid)
    session->slot->pid = 0;
  LWLockRelease(pg::shared_lock());
}

void register_callbacks() {
  static bool registered = false;
  if (registered)
    return;
  RegisterXactCallback(at_transaction_end, nullptr);
  before_shmem_exit(leave_slot, 0);
  registered = true;
}

} // namespace

TimestampTz checked_complete_until(TimestampTz value) {
  if (!IS_VALID_TIMESTAMP(value))
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
            errmsg("a peer is complete until a time that does not exist"));
  return Min(value, GetCurrentTimestamp());
}

void contradiction(const char *message, const char *detail) {
  const char *const s = core::wire::kContradiction;
  ereport(ERROR, errcode(sqlstate_of(s)), errmsg("%s", message),
          detail[0] != '\0' ? errdetail("%s", detail) : 0);
  pg_unreachable();
}

Session *current_session() {
  if (session == nullptr)
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("no peer has introduced itself on this connection"),
            errhint("Call seal_sync.wire_hello first, on the same connection."));
  const LOCKTAG tag = origin_lock_tag(session->origin);
  if (!pg::lock_held_by_me(&tag, ExclusiveLock))
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("this connection of node \"%s\" has lost its lock", NameStr(session->origin)));
  if (session->at_commit.staged) // what was staged goes with the commit, and what is put now would go along
    ereport(ERROR, errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
            errmsg("seal_sync.wire_stage must be called in a transaction of its own"));
  if (session->batch_done)
    forget_batch(session);
  return session;
}

bool being_applied(const NameData &origin) {
  const LOCKTAG tag = lock_tag(NameStr(origin), kApplyLockClass);
  if (LockAcquire(&tag, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
    return true;
  LockRelease(&tag, ShareLock, false);
  return false;
}

void note_being_applied(const Session *s) {
  const LOCKTAG tag = lock_tag(NameStr(s->origin), kApplyLockClass);
  (void)LockAcquire(&tag, ExclusiveLock, false, false);
}

bool take_origin_lock(const NameData &origin) {
  LOCKTAG tag = origin_lock_tag(origin);
  if (pg::lock_held_by_me(&tag, ExclusiveLock))
    return true;
  int ended = 0;
  for (int waited = 0;; waited += 10) {
    if (LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL)
      return true;
    if (waited >= kPredecessorWaitMs)
      return false;
    // The network may have died without a word: the old connection would hold its locks for hours. But one that has all of a
    // batch needs no network: it is let finish while it gets on, or over a link that breaks often a large batch would never be applied.
    const Holder found = waited % kLookForHolderMs == 0 ? holder_of(tag) : Holder{};
    const int holder = found.waiting || !being_applied(origin) ? found.pid : 0;
    if (holder != 0 && holder != ended && BackendPidGetProc(holder) != nullptr) {
      ereport(LOG, errmsg("ending the previous connection of node \"%s\"", NameStr(origin)),
              errdetail("Its process is %d.", holder));
      if (kill(holder, SIGTERM) == 0)
        ended = holder;
    }
    (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
  }
}

bool is_connected(const NameData &origin) { return holder_of(origin_lock_tag(origin)).pid != 0; }

void keep_peer(const NameData &origin) {
  const LOCKTAG tag = lock_tag(NameStr(origin), kPeerLockClass);
  (void)LockAcquire(&tag, ShareLock, false, false);
}

void lock_peer(const char *peer) {
  const LOCKTAG tag = lock_tag(peer, kPeerLockClass);
  (void)LockAcquire(&tag, ExclusiveLock, false, false);
}

Session *open_session(const NameData &origin, int encoding, uint64 generation) {
  register_callbacks();
  if (session != nullptr && strcmp(NameStr(session->origin), NameStr(origin)) != 0) {
    const LOCKTAG old = origin_lock_tag(session->origin);
    (void)LockRelease(&old, ExclusiveLock, true);
  }
  close_session();
  const MemoryContext context =
      AllocSetContextCreate(TopMemoryContext, "seal_sync apply session", ALLOCSET_DEFAULT_SIZES);
  auto *fresh = static_cast<Session *>(MemoryContextAllocZero(context, sizeof(Session)));
  fresh->context = context;
  fresh->origin = origin;
  fresh->encoding = encoding;
  fresh->generation = generation;
  HASHCTL control = {};
  control.keysize = sizeof(uint64);
  control.entrysize = sizeof(uint64) + sizeof(Descriptor *);
  control.hcxt = context;
  fresh->tables =
      hash_create("seal_sync described tables", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  fresh->slot = pg::origin_slot(MyDatabaseId, NameStr(origin), true);
  session = fresh;
  return fresh;
}

void close_session() {
  if (session == nullptr)
    return;
  leave_slot(0, 0);
  Session *const old = session;
  session = nullptr;
  stop_watching();
  drop_chunks(&old->buffer);
  MemoryContextDelete(old->context);
}

void forget_batch(Session *s) {
  s->batch_done = false;
  drop_chunks(&s->buffer);
  drop_notes(&s->notes);
}

namespace {

OriginRow newest_generation(Session *s, uint64 generation) {
  keep_peer(s->origin);
  // A detach waits for whoever holds this lock, and the lock's owner looks only now.
  config::refresh();
  if (config::detached() != nullptr)
    ereport(ERROR, errcode(ERRCODE_CANNOT_CONNECT_NOW), errmsg("node \"%s\" is detached", config::local_node()),
            errdetail("%s", config::detached()));
  const OriginRow row = read_origin(s->origin);
  if (!row.found) { // peer_drop: configuration, nothing that contradicts
    const char *const state = core::wire::kNotPeer;
    ereport(ERROR, errcode(sqlstate_of(state)),
            errmsg("node \"%s\" is not a peer here any more", NameStr(s->origin)));
  }
  if (generation != s->generation || row.issued != s->generation)
    contradiction(psprintf("node \"%s\" speaks with generation " UINT64_FORMAT
                           ", which is not the one issued to this connection",
                           NameStr(s->origin), generation),
                  psprintf("Issued to this connection: " UINT64_FORMAT "; newest: " UINT64_FORMAT ".",
                           s->generation, row.issued));
  return row;
}

} // namespace

void check_current(Session *s) { (void)newest_generation(s, s->generation); }

void check_generation(Session *s, uint64 generation) {
  const OriginRow row = newest_generation(s, generation);
  if (!s->confirmed) {
    if (row.confirmed != generation)
      confirm_generation(s->origin, generation);
    s->at_commit.confirmed = true;
  }
}

void publish_contact(Session *s, TimestampTz complete_until) {
  if (s->slot == nullptr)
    return;
  const TimestampTz now = GetCurrentTimestamp();
  LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
  s->slot->last_contact_at = now;
  if (complete_until > s->slot->complete_until)
    s->slot->complete_until = complete_until;
  LWLockRelease(pg::shared_lock());
}

} // namespace seal_sync::apply

// After the peer has answered: what was left out or refused is held, what went through is released, the
// acknowledgement is noted; and the same from the log alone when the answer was lost.
#include "core/change_log_codec.hpp"
#include "pg/boundary.hpp"
#include "pg/shared_state.hpp"
#include "scan/arrived.hpp"
#include "scan/batch_state.hpp"
#include "scan/held.hpp"
#include "scan/keys.hpp"
#include "scan/log_reader.hpp"
#include "scan/peer_text.hpp"
#include "scan/standing.hpp"
#include "scan/troubles.hpp"
#include "scan/values.hpp"

namespace seal_sync::scan {

namespace {

// Of refusals that are read at once: it bounds the memory for what the peer says.
constexpr uint64 kRefusalsAtOnce = 10000;

/// A key that was held before, went out with this batch and is held again: it stays.
void keep_held(Batch *batch, int64 id) {
  const MemoryContext old = MemoryContextSwitchTo(batch->context);
  append_id(&batch->kept, &batch->kept_count, &batch->kept_capacity, id);
  MemoryContextSwitchTo(old);
}

/// What this batch has shipped of seal_sync.held, and what has arrived before, less what is held again.
void release_all(Batch *batch) {
  for (int i = 0; i < batch->session->arrived_count; i++)
    append_id(&batch->released, &batch->released_count, &batch->released_capacity, batch->session->arrived[i]);
  qsort(batch->released, static_cast<size_t>(batch->released_count), sizeof(int64), compare_ids);
  qsort(batch->kept, static_cast<size_t>(batch->kept_count), sizeof(int64), compare_ids);
  int left = 0, k = 0;
  for (int i = 0; i < batch->released_count; i++) {
    const int64 id = batch->released[i];
    while (k < batch->kept_count && batch->kept[k] < id)
      k++;
    if ((k < batch->kept_count && batch->kept[k] == id) || (left > 0 && batch->released[left - 1] == id))
      continue;
    batch->released[left++] = id;
  }
  batch->released_count = left;
  hold_after_all(batch->session, batch->kept, batch->kept_count);
  release_held(batch->session, batch->released, left, batch->number);
}

/// Keeps every key of a sorter in seal_sync.held.
void hold_all(Batch *batch, const TableWork *work, SortedKeys *keys, HeldReason reason) {
  const MemoryContext scratch =
      AllocSetContextCreate(batch->context, "seal_sync held key", ALLOCSET_DEFAULT_SIZES);
  note_trouble(batch->session, work->root, reason);
  KeyGroup group;
  while (next_group(keys, &group)) {
    MemoryContextReset(scratch);
    const MemoryContext old = MemoryContextSwitchTo(scratch);
    core::Buffer key;
    init_buffer(&key, scratch);
    write_key(&key, work->table, group.values);
    const Oid leaf = group.leaf_count == 1 && !group.any_leaf ? group.leaves[0] : InvalidOid;
    reason.over_skip = held_as(batch, work->root, key.span()).skipped;
    keep_held(batch, hold_key(NameStr(batch->session->peer), work->root, leaf, group.cluster, key.span(), reason));
    MemoryContextSwitchTo(old);
  }
  MemoryContextDelete(scratch);
}

HeldReason reason_of(const SentTable *sent) {
  HeldReason reason{sent->fit == TableFit::kWaitingPeer ? "waiting_peer" : "parked"};
  reason.sqlstate = sent->sqlstate;
  reason.message = sent->message;
  reason.detail = sent->detail;
  reason.hint = sent->hint;
  return reason;
}

HeldReason reason_of(const Batch *batch, const core::wire::Refusal &refusal) {
  const Session *session = batch->session;
  HeldReason reason{"quarantined"};
  reason.sqlstate = peer_text(session, refusal.sqlstate);
  reason.message = peer_text(session, refusal.message);
  reason.detail = peer_text(session, refusal.detail);
  reason.constraint = peer_text(session, refusal.constraint);
  reason.kind = static_cast<char>(refusal.kind);
  reason.batch = static_cast<int64>(batch->number);
  return reason;
}

core::wire::Refusal next_refusal(core::Reader *in) {
  core::wire::Refusal refusal;
  core::wire::read(*in, refusal);
  if (!in->ok())
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
            errmsg("the peer's list of refused keys cannot be read"));
  return refusal;
}

/// A refused key of this batch.
struct Refused {
  TableWork *work;
  core::ByteSpan key; // as in the change log
  int32 cluster;      // 0: not known yet
  HeldReason reason;
  bool skipped; // when the batch was taken
  bool logged;  // it has changed since the last batch
};

Refused refused_key(const Batch *batch, const core::wire::Refusal &refusal) {
  // By the name the peer was told: the table may have been renamed since.
  TableWork *work = nullptr;
  const char *schema = peer_text(batch->session, refusal.schema);
  const char *table = peer_text(batch->session, refusal.table);
  for (int t = 0; t < batch->table_count; t++) {
    const SentTable *sent = batch->order[t]->sent;
    if (sent->name != nullptr && strcmp(table, sent->name) == 0 && strcmp(schema, sent->schema) == 0)
      work = batch->order[t];
  }
  if (work == nullptr)
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
            errmsg("the peer refuses a key of a table that this batch does not have"));
  Datum values[INDEX_MAX_KEYS];
  core::Reader keyrow(refusal.key);
  read_keyrow(&keyrow, work->sent, values);
  core::Buffer key;
  init_buffer(&key, CurrentMemoryContext);
  write_key(&key, work->table, values);
  const config::Cluster *constant = work->table->constant_cluster;
  return {work, key.span(), constant != nullptr ? constant->id : 0, reason_of(batch, refusal), held_as(batch, work->root, key.span()).skipped, false};
}

struct RefusedEntry {
  KeyHash hash; // key
  Refused *refused;
};

/// The rows are not at hand any more, and of a deleted one there is none: the log tells under which
/// cluster a key was entered. What it does not tell was held before, with its cluster, or came with a copy. Of skipped keys it
/// tells whether they have changed.
void find_clusters(const Batch *batch, Refused *refused, uint64 count) {
  HASHCTL ctl{};
  ctl.keysize = sizeof(KeyHash);
  ctl.entrysize = sizeof(RefusedEntry);
  ctl.hcxt = CurrentMemoryContext;
  HTAB *wanted = hash_create("seal_sync refused keys", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  for (uint64 i = 0; i < count; i++)
    if (refused[i].cluster == 0 || refused[i].skipped) {
      const KeyHash hash = hash_of(refused[i].work->root, refused[i].key);
      static_cast<RefusedEntry *>(hash_search(wanted, &hash, HASH_ENTER, nullptr))->refused = &refused[i];
    }
  if (hash_get_num_entries(wanted) == 0)
    return;
  const MemoryContext scratch =
      AllocSetContextCreate(CurrentMemoryContext, "seal_sync refused key", ALLOCSET_DEFAULT_SIZES);
  LogReader *log = open_log(last_acknowledged(NameStr(batch->session->peer)).position, batch->snapshot);
  core::ChangeRun run;
  while (next_run(log, &run, nullptr)) {
    const config::Cluster *cluster = config::find_cluster(static_cast<int32>(run.cluster));
    const config::Table *table = config::find_table(run.root);
    if (run.kind == core::ChangeKind::kMark || table == nullptr || cluster == nullptr ||
        !config::routed_to(cluster, NameStr(batch->session->peer)))
      continue;
    core::Reader keys(run.key_bytes);
    for (int i = 0; i < run.keys; i++) {
      const uint8_t *start = keys.position();
      MemoryContextReset(scratch);
      const MemoryContext old = MemoryContextSwitchTo(scratch);
      Datum values[INDEX_MAX_KEYS];
      read_key(&keys, table, values);
      MemoryContextSwitchTo(old);
      const core::ByteSpan key(start, static_cast<size_t>(keys.position() - start));
      const KeyHash hash = hash_of(table->root, key);
      const auto *entry = static_cast<RefusedEntry *>(hash_search(wanted, &hash, HASH_FIND, nullptr));
      // Where a row moved between clusters the insert tells, as in a sorted group.
      if (entry == nullptr || entry->refused->key.size() != key.size() ||
          memcmp(entry->refused->key.data(), key.data(), key.size()) != 0)
        continue;
      entry->refused->logged = true;
      if (entry->refused->cluster == 0 || run.kind != core::ChangeKind::kDelete)
        entry->refused->cluster = cluster->id;
    }
  }
  close_log(log);
}

/// Rows of a copy are in no log: under which cluster the row goes that stands here under X_n; 0: there is none, or DDL has the table.
int32 cluster_now(const Batch *batch, TableWork *work, core::ByteSpan key) {
  if (batch->rules_version != config::version())
    return 0;
  KeyGroup group{};
  group.any_leaf = true;
  core::Reader reader(key);
  read_key(&reader, work->table, group.values);
  const MemoryContext old = MemoryContextSwitchTo(batch->context); // the source outlives the refusals at hand
  if (work->source == nullptr)
    work->source = make_source(work->table, batch->snapshot);
  if (!open_source(work->source)) {
    MemoryContextSwitchTo(old);
    return 0;
  }
  config::Table *leaf = nullptr;
  bool stale = false, gone = false;
  TupleTableSlot *row = find_row(work->source, &group, &leaf, &stale, &gone);
  const config::Cluster *cluster = row != nullptr && !stale ? config::cluster_of(leaf, row) : nullptr;
  const int32 id = cluster != nullptr ? cluster->id : 0;
  close_source(work->source);
  MemoryContextSwitchTo(old);
  return id;
}

/// Where the peer says what stands behind its refusals; at the end: it does not.
core::Reader behind_refusals(core::Reader in, uint64 count) {
  core::wire::Refusal refusal;
  for (uint64 i = 0; i < count && in.ok(); i++)
    core::wire::read(in, refusal);
  return in;
}

void quarantine_some(Batch *batch, core::Reader *refusals, core::Reader *standing, uint64 count) {
  auto *refused = static_cast<Refused *>(palloc_extended(sizeof(Refused) * count, MCXT_ALLOC_HUGE));
  for (uint64 i = 0; i < count; i++) {
    refused[i] = refused_key(batch, next_refusal(refusals));
    if (!standing->at_end())
      read_standing(batch->session, refused[i].work->sent, standing, &refused[i].reason);
  }
  find_clusters(batch, refused, count);
  for (uint64 i = 0; i < count; i++) {
    if (refused[i].cluster == 0 && refused[i].work->table->constant_cluster == nullptr)
      refused[i].cluster = cluster_now(batch, refused[i].work, refused[i].key);
    note_trouble(batch->session, refused[i].work->root, refused[i].reason);
    // Through a stage or a copy a key may have been sent before it was skipped, and again unasked.
    refused[i].reason.over_skip = refused[i].skipped && refused[i].logged;
    keep_held(batch, hold_key(NameStr(batch->session->peer), refused[i].work->root, InvalidOid, refused[i].cluster,
                              refused[i].key, refused[i].reason));
  }
}

void quarantine(Batch *batch, core::Reader *refusals, uint64 count) {
  core::Reader standing = behind_refusals(*refusals, count);
  const MemoryContext some =
      AllocSetContextCreate(batch->context, "seal_sync refused keys", ALLOCSET_DEFAULT_SIZES);
  const MemoryContext old = MemoryContextSwitchTo(some);
  while (count > 0) {
    const uint64 now = Min(count, kRefusalsAtOnce);
    quarantine_some(batch, refusals, &standing, now);
    count -= now;
    MemoryContextReset(some);
    CHECK_FOR_INTERRUPTS();
  }
  MemoryContextSwitchTo(old);
  MemoryContextDelete(some);
}

void count_tables(const Batch *batch) {
  for (int i = 0; i < batch->table_count; i++) {
    const TableWork *work = batch->order[i];
    pg::TableStat delta{};
    delta.captured_inserts = work->inserts;
    delta.captured_updates = work->updates;
    delta.captured_deletes = work->deletes;
    delta.keys_shipped = work->shipped;
    delta.bytes_shipped = static_cast<int64>(work->bytes);
    pg::add_table_stat(work->root, NameStr(batch->session->peer), delta);
  }
}

} // namespace

void tell_held(Session *session) {
  if (session->tables == nullptr)
    return;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->tables);
  while (auto *sent = static_cast<SentTable *>(hash_seq_search(&status)))
    if (!fits_or_unknown(sent) && !sent->told_held) {
      if (restate_held(NameStr(session->peer), sent->root, reason_of(sent))) {
        note_trouble(session, sent->root, reason_of(sent));
        end_troubles(session);
      }
      sent->told_held = true;
    }
}

void acknowledge(Batch *batch, const core::wire::Id &id, core::Reader *refusals, uint64 refusal_count) {
  const MemoryContext old = MemoryContextSwitchTo(batch->context);
  for (int i = 0; i < batch->table_count; i++) {
    const TableWork *work = batch->order[i];
    if (work->marked)
      mark_dirty(work->root, "the change log was full");
    if (completes_copy(work))
      end_copy_job(work->job->job);
    if (!fits(work) && keys_added(work->keys) > 0 && !work->left_to_copy && work->activates == nullptr)
      hold_all(batch, work, work->keys, reason_of(work->sent));
    if (work->gives_up)
      (void)unbegin_copy_job(work->job->job);
    if (work->waiting != nullptr) {
      HeldReason reason{"waiting_peer"};
      reason.message = "the peer does not accept this cluster from this node yet";
      reason.awaits_cluster = true;
      hold_all(batch, work, work->waiting, reason);
    }
  }
  quarantine(batch, refusals, refusal_count);
  release_all(batch);
  if (batch->released_count > 0)
    end_troubles(batch->session);
  insert_history(NameStr(batch->session->peer), 'a', batch->number, id, batch->position, LeftOut{},
                 collected(batch), false);
  count_tables(batch);
  MemoryContextSwitchTo(old);
}

void recover(Session *session, const HistoryEntry &entry, core::Reader *refusals, uint64 refusal_count) {
  const char *peer = NameStr(session->peer);
  const LeftOut left_out = left_out_of(peer, entry.number, entry.id);
  const HistoryEntry before = last_acknowledged(peer);
  // A copied row that was refused, or left out with its cluster, is in no log: the copy is made once more, from its pin.
  const bool complete = refusal_count == 0 && left_out.cluster_count == 0;
  for (int i = 0; i < left_out.copied_count; i++)
    if (complete)
      end_copy_job(left_out.copied[i].job);
    else if (left_out.copied[i].has_pin)
      (void)restart_copy_job(left_out.copied[i].job, core::wire::Id{});

  // The rows are not read again and tables may have other names by now, so with any refusal each key of
  // the window is tried once more. What was left out says so; why a table does not fit is told anew when
  // it is described.
  HeldReason refused{"quarantined"};
  HeldReason of_table{"parked"};
  HeldReason of_cluster{"waiting_peer"};
  refused.message = "may have been refused in a batch whose answer was lost";
  of_table.message = of_cluster.message = "left out of a batch whose answer was lost";
  of_cluster.awaits_cluster = true;
  refused.batch = of_table.batch = of_cluster.batch = static_cast<int64>(entry.number);
  for (uint64 i = 0; i < refusal_count; i++)
    (void)next_refusal(refusals);
  if (before.found) {
    const Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    LogReader *log = open_log(before.position, snapshot);
    core::ChangeRun run;
    uint64 xid;
    while (next_run(log, &run, &xid)) {
      if (!sees(entry.position, xid))
        continue; // belongs to a later batch
      if (run.kind == core::ChangeKind::kMark) {
        mark_dirty(run.root, "the change log was full");
        continue;
      }
      const config::Cluster *cluster = config::find_cluster(static_cast<int32>(run.cluster));
      if (cluster == nullptr || !config::routed_to(cluster, peer))
        continue;
      const HeldReason *reason = refusal_count > 0 ? &refused : nullptr;
      for (int i = 0; i < left_out.root_count; i++)
        if (left_out.roots[i] == run.root)
          reason = &of_table;
      for (int i = 0; i < left_out.cluster_count; i++)
        if (left_out.clusters[i] == static_cast<int32>(run.cluster))
          reason = &of_cluster;
      const config::Table *table = reason != nullptr ? config::find_table(run.root) : nullptr;
      if (table == nullptr)
        continue;
      note_trouble(session, run.root, *reason);
      core::Reader keys(run.key_bytes);
      for (int i = 0; i < run.keys; i++) {
        const uint8_t *start = keys.position();
        Datum values[INDEX_MAX_KEYS];
        read_key(&keys, table, values);
        hold_key(peer, run.root, run.leaf, cluster->id,
                 core::ByteSpan(start, static_cast<size_t>(keys.position() - start)), *reason);
      }
    }
    close_log(log);
    UnregisterSnapshot(snapshot);
  }
  insert_history(peer, 'a', entry.number, entry.id, entry.position, LeftOut{}, 0, false);
}

int64 pending_keys(const char *peer) {
  const HistoryEntry from = last_acknowledged(peer);
  if (!from.found)
    return 0;
  int64 count = count_held(peer);
  const Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
  LogReader *log = open_log(from.position, snapshot);
  core::ChangeRun run;
  while (next_run(log, &run, nullptr)) {
    const config::Cluster *cluster = config::find_cluster(static_cast<int32>(run.cluster));
    if (cluster != nullptr && config::routed_to(cluster, peer))
      count += run.keys;
  }
  close_log(log);
  UnregisterSnapshot(snapshot);
  return count;
}

} // namespace seal_sync::scan

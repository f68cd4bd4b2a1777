// Takes X_n and collects the keys of the window after the last acknowledged position.
//
// Called by batch.hpp's open(). Invariant: a batch is every logged change visible in X_n and not seen by
// the previous position, for the clusters that are routed to the peer; catalogs are read only under
// locks that do not wait, and DDL in the way makes the batch stale.
#include "core/change_log_codec.hpp"
#include "pg/boundary.hpp"
#include "scan/batch_state.hpp"
#include "scan/held.hpp"
#include "scan/keys.hpp"
#include "scan/log_reader.hpp"

namespace seal_sync::scan {

namespace {

constexpr int kMaxHeldAtOnce = 50000;
constexpr int kFirstSorters = 4; // these many tables get much memory to sort, the rest little
constexpr int kMuchMemoryKb = 16 * 1024;

struct HeldIndexEntry {
  KeyHash hash; // key
  HeldKey *held;
};

TableWork *work_for(Batch *batch, Oid root) {
  bool found;
  auto *work = static_cast<TableWork *>(hash_search(batch->tables, &root, HASH_ENTER, &found));
  if (found)
    return OidIsValid(work->absorbed_by) ? work_for(batch, work->absorbed_by) : work;
  memset(work, 0, sizeof *work);
  work->root = root;
  // Catalogs are read under a lock that does not wait: DDL that holds the table makes us step back.
  if (!ConditionalLockRelationOid(root, AccessShareLock)) {
    batch->stale = true;
    work->unregistered = true;
    return work;
  }
  work->table = config::find_table(root);
  if (work->table != nullptr && work->table->root != root) {
    // Attached to another registered table since: its keys go on under that one.
    UnlockRelationOid(root, AccessShareLock);
    work->unregistered = true;
    work->absorbed_by = work->table->root;
    return work_for(batch, work->absorbed_by);
  }
  if (work->table == nullptr)
    work->unregistered = true;
  else if (!work->table->usable)
    batch->stale = work->unregistered = true;
  if (!work->unregistered) {
    const int memory = batch->table_count < kFirstSorters ? kMuchMemoryKb : kLittleMemoryKb;
    work->root_signature = work->table->signature;
    work->sent = sent_table(batch->session, work->table);
    work->keys = begin_keys(work->table, memory);
    if (batch->table_count == batch->order_capacity) {
      batch->order_capacity = Max(16, batch->order_capacity * 2);
      const size_t size = sizeof(TableWork *) * static_cast<size_t>(batch->order_capacity);
      batch->order = static_cast<TableWork **>(batch->order == nullptr ? palloc(size)
                                                                       : repalloc(batch->order, size));
    }
    batch->order[batch->table_count++] = work;
  }
  UnlockRelationOid(root, AccessShareLock);
  return work;
}

/// The held row that stands for this key, if any: then the peer's row is not what we last sent.
const HeldKey *find_held(const Batch *batch, Oid relation, core::ByteSpan key) {
  if (batch->held_index == nullptr)
    return nullptr;
  const KeyHash hash = hash_of(relation, key);
  const auto *entry = static_cast<HeldIndexEntry *>(hash_search(batch->held_index, &hash, HASH_FIND, nullptr));
  if (entry == nullptr || entry->held->key.size() != key.size() ||
      memcmp(entry->held->key.data(), key.data(), key.size()) != 0)
    return nullptr;
  return entry->held;
}

/// Tables that the peer has said not to take, as far as that is fresh.
int unfit_tables(Session *session, Datum **roots) {
  if (session->tables == nullptr)
    return 0;
  int count = 0;
  *roots = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(hash_get_num_entries(session->tables) + 1)));
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->tables);
  while (auto *sent = static_cast<SentTable *>(hash_seq_search(&status)))
    if (!fits_or_unknown(sent))
      (*roots)[count++] = ObjectIdGetDatum(sent->root);
  return count;
}

void collect_held(Batch *batch) {
  Datum *unfit = nullptr;
  const int unfit_count = unfit_tables(batch->session, &unfit);
  HeldKey *held;
  const int count = load_held(NameStr(batch->session->peer), kMaxHeldAtOnce, unfit, unfit_count,
                              batch->session->accepted_clusters, batch->session->accepted_count, &held);
  if (count == 0)
    return;
  HASHCTL ctl{};
  ctl.keysize = sizeof(KeyHash);
  ctl.entrysize = sizeof(HeldIndexEntry);
  ctl.hcxt = batch->context;
  batch->held_index = hash_create("seal_sync held keys", count, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  const MemoryContext scratch =
      AllocSetContextCreate(batch->context, "seal_sync held key", ALLOCSET_DEFAULT_SIZES);
  for (int i = 0; i < count && !batch->stale; i++) {
    const KeyHash hash = hash_of(held[i].relation, held[i].key);
    auto *entry = static_cast<HeldIndexEntry *>(hash_search(batch->held_index, &hash, HASH_ENTER, nullptr));
    entry->held = &held[i];
    if (!held[i].due)
      continue;
    TableWork *work = work_for(batch, held[i].relation);
    if (work->unregistered || work->sent->fit == TableFit::kParked ||
        work->sent->fit == TableFit::kWaitingPeer)
      continue;
    MemoryContextReset(scratch);
    const MemoryContext old = MemoryContextSwitchTo(scratch);
    Datum values[INDEX_MAX_KEYS];
    core::Reader reader(held[i].key);
    read_key(&reader, work->table, values);
    MemoryContextSwitchTo(old);
    add_key(work->keys, values, InvalidOid, 0, {}, true, held[i].id);
    batch->held_keys++;
  }
  MemoryContextDelete(scratch);
}

void collect_run(Batch *batch, const core::ChangeRun &run, MemoryContext scratch) {
  const config::Cluster *cluster = config::find_cluster(static_cast<int32>(run.cluster));
  if (cluster == nullptr || !config::routed_to(cluster, NameStr(batch->session->peer)))
    return;
  TableWork *work = work_for(batch, run.root);
  if (work->unregistered)
    return;
  SortedKeys *into = work->keys;
  if (!accepted(batch->session, cluster->id)) {
    remember_once(&batch->left_out.clusters, &batch->left_out.cluster_count, cluster->id);
    if (work->waiting == nullptr)
      work->waiting = begin_keys(work->table, kLittleMemoryKb);
    into = work->waiting;
  }
  switch (run.kind) {
  case core::ChangeKind::kInsert:
    work->inserts += run.keys;
    break;
  case core::ChangeKind::kUpdate:
    work->updates += run.keys;
    break;
  case core::ChangeKind::kDelete:
    work->deletes += run.keys;
    break;
  case core::ChangeKind::kMark:
    work->marked = true;
    batch->marks++;
    return;
  case core::ChangeKind::kWhole:
    break;
  }
  const bool whole = run.kind == core::ChangeKind::kInsert || run.kind == core::ChangeKind::kWhole;
  core::Reader reader(run.key_bytes);
  for (int i = 0; i < run.keys; i++) {
    const uint8_t *start = reader.position();
    MemoryContextReset(scratch);
    const MemoryContext old = MemoryContextSwitchTo(scratch);
    Datum values[INDEX_MAX_KEYS];
    read_key(&reader, work->table, values);
    MemoryContextSwitchTo(old);
    const core::ByteSpan key(start, static_cast<size_t>(reader.position() - start));
    const HeldKey *held = into == work->waiting ? nullptr : find_held(batch, run.root, key);
    add_key(into, values, run.leaf, cluster->id, run.mask, whole, held == nullptr ? 0 : held->id);
    batch->log_keys++;
  }
}

void collect_window(Batch *batch, const Position &previous) {
  const MemoryContext scratch =
      AllocSetContextCreate(batch->context, "seal_sync key", ALLOCSET_DEFAULT_SIZES);
  LogReader *log = open_log(previous, batch->snapshot);
  core::ChangeRun run;
  while (!batch->stale && next_run(log, &run, nullptr))
    collect_run(batch, run, scratch);
  close_log(log);
  MemoryContextDelete(scratch);
}

} // namespace

bool held_unskipped(const Batch *batch, Oid relation, core::ByteSpan key) {
  const HeldKey *held = find_held(batch, relation, key);
  return held != nullptr && !held->skipped;
}

Batch *open(Session *session, const Position &previous) {
  config::refresh();
  const MemoryContext context =
      AllocSetContextCreate(CurrentMemoryContext, "seal_sync batch", ALLOCSET_DEFAULT_SIZES);
  const MemoryContext old = MemoryContextSwitchTo(context);
  auto *batch = static_cast<Batch *>(palloc0(sizeof(Batch)));
  batch->session = session;
  batch->context = context;
  HASHCTL ctl{};
  ctl.keysize = sizeof(Oid);
  ctl.entrysize = sizeof(TableWork);
  ctl.hcxt = context;
  batch->tables = hash_create("seal_sync batch tables", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  // The clock first: whatever was committed before it is in the snapshot.
  batch->taken_at = GetCurrentTimestamp();
  batch->snapshot = RegisterSnapshot(GetLatestSnapshot());
  PushActiveSnapshot(batch->snapshot);
  batch->position = position_of(batch->snapshot);
  batch->rules_version = config::version();
  collect_held(batch);
  collect_window(batch, previous);
  MemoryContextSwitchTo(old);
  return batch;
}

} // namespace seal_sync::scan

// Takes X_n and collects the keys of the window after the last acknowledged position.
//
// Called by batch.hpp's open(). Invariant: a batch is every logged change visible in X_n and not seen by
// the previous position, for the clusters that are routed to the peer; catalogs are read only under
// locks that do not wait, and DDL in the way makes the batch stale.
#include "core/change_log_codec.hpp"
#include "pg/boundary.hpp"
#include "scan/agreement.hpp"
#include "scan/arrived.hpp"
#include "scan/batch_state.hpp"
#include "scan/copies.hpp"
#include "scan/held.hpp"
#include "scan/keys.hpp"
#include "scan/log_reader.hpp"
#include "scan/values.hpp"

namespace seal_sync::scan {

constexpr int kFirstSorters = 4; // these many tables get much memory to sort, the rest little
constexpr int kMuchMemoryKb = 16 * 1024;

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

namespace {

// More would keep the changes of today waiting behind keys that are refused once more.
constexpr int kMaxRefusedAtOnce = 5000;
constexpr int kMaxLeftOutAtOnce = 50000;

/// How the table travels now, or nullptr when it is registered no more, or DDL has it: then *busy is set.
SentTable *look_at(Session *session, Oid root, bool *busy) {
  if (!ConditionalLockRelationOid(root, AccessShareLock)) {
    *busy = true;
    return nullptr;
  }
  const config::Table *table = config::find_table(root);
  SentTable *sent = nullptr;
  if (table != nullptr && table->root == root) {
    if (table->usable)
      sent = sent_table(session, table);
    else
      *busy = true;
  }
  UnlockRelationOid(root, AccessShareLock);
  return sent;
}

/// Whether this key is held, as of X_n: then the peer's row is not what we last sent.
bool find_held(Batch *batch, TableWork *work, core::ByteSpan key, HeldState *state) {
  if (batch->held_index == nullptr)
    return false;
  if (!work->held_asked) {
    work->any_held = any_held(batch->held_index, work->root);
    work->held_asked = true;
  }
  return work->any_held && look_up_held(batch->held_index, work->root, key, state);
}

/// Tables of which nothing can go now: the peer has said not to take them, as far as that is fresh, or their copy goes first. Their held
/// keys would fill the share of all others.
int unfit_tables(const Batch *batch, Oid **roots) {
  const HTAB *tables = batch->session->tables;
  int count = 0;
  const int64 most = (tables == nullptr ? 0 : hash_get_num_entries(const_cast<HTAB *>(tables))) + batch->table_count;
  *roots = static_cast<Oid *>(palloc(sizeof(Oid) * static_cast<size_t>(most + 1)));
  for (int i = 0; i < batch->table_count; i++)
    if (batch->order[i]->left_to_copy)
      (*roots)[count++] = batch->order[i]->root;
  if (tables == nullptr)
    return count;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, const_cast<HTAB *>(tables));
  while (auto *sent = static_cast<SentTable *>(hash_seq_search(&status)))
    if (!fits_or_unknown(sent))
      (*roots)[count++] = sent->root;
  return count;
}

/// In the middle of a pass: keys up to there are staged, or come with the next pass.
bool passed(const Batch *batch, Oid root, const Datum *values) {
  return batch->backlog != nullptr && batch->backlog->pass_cuts > 0 && standing_of(batch->backlog, root, values).passed;
}

/// Whether a logged change of a key is owed, given what is staged.
bool owed(const Batch *batch, const TableWork *work, const core::ChangeRun &run, uint64 xid, const Datum *values) {
  if (work->activates != nullptr) {
    // The copy has read rows that stand; a delete before that is owed since the copy began.
    const Position *base = standing_of(work->copied, run.leaf, values).base;
    if (run.kind != core::ChangeKind::kDelete && base != nullptr && sees(*base, xid))
      return false;
  }
  if (batch->backlog == nullptr)
    return true;
  const Standing standing = standing_of(batch->backlog, work->root, values);
  if (batch->backlog->pass_cuts > 0 && standing.passed)
    return false;
  return !met_before(batch->backlog, work->root) || standing.base == nullptr || !sees(*standing.base, xid);
}

/// A change that is staged arrives with the batch that its stage belongs to: if the key was held, it is held no more then, not even
/// when it has been skipped. A batch that begins in the middle of a pass does not end with its stage being applied.
void note_staged(Batch *batch, TableWork *work, const SortedKeys *into, core::ByteSpan key) {
  HeldState held{};
  if (into == work->waiting || mid_pass(batch) || !find_held(batch, work, key, &held))
    return;
  append_id(&batch->released, &batch->released_count, &batch->released_capacity, held.id);
}

/// Tables all of whose rows come with this batch.
int copied_tables(const Batch *batch, const Oid **roots) {
  auto *copied = static_cast<Oid *>(palloc(sizeof(Oid) * static_cast<size_t>(batch->table_count + 1)));
  int count = 0;
  for (int i = 0; i < batch->table_count; i++)
    if (batch->order[i]->copy != nullptr || batch->order[i]->activates != nullptr)
      copied[count++] = batch->order[i]->root;
  *roots = copied;
  return count;
}

/// Keys whose time has come, and those that depend on them or on what has changed again in this window.
void collect_held(Batch *batch) {
  if (batch->held_index == nullptr || batch->stale)
    return;
  HeldSelection which{};
  which.refused = kMaxRefusedAtOnce;
  which.left_out = kMaxLeftOutAtOnce;
  which.unfit_count = unfit_tables(batch, &which.unfit);
  which.accepted = batch->session->accepted_clusters;
  which.accepted_count = batch->session->accepted_count;
  // A key that has changed a thousand times is found as often.
  qsort(batch->found, static_cast<size_t>(batch->found_count), sizeof(int64), compare_ids);
  int distinct = 0;
  for (int i = 0; i < batch->found_count; i++)
    if (distinct == 0 || batch->found[distinct - 1] != batch->found[i])
      batch->found[distinct++] = batch->found[i];
  batch->found_count = distinct;
  which.found = batch->found;
  which.found_count = batch->found_count;
  which.copied_count = copied_tables(batch, &which.copied);
  HeldKey *held;
  const int count = load_held(batch->held_index, which, &held);
  const MemoryContext scratch =
      AllocSetContextCreate(batch->context, "seal_sync held key", ALLOCSET_DEFAULT_SIZES);
  for (int i = 0; i < count && !batch->stale; i++) {
    TableWork *work = work_for(batch, held[i].relation);
    if (work->unregistered && !batch->stale) // somebody took it out while the answer was on its way
      drop_held(batch->session, held[i].id);
    if (work->unregistered || work->sent->fit == TableFit::kParked ||
        work->sent->fit == TableFit::kWaitingPeer)
      continue;
    MemoryContextReset(scratch);
    const MemoryContext old = MemoryContextSwitchTo(scratch);
    Datum values[INDEX_MAX_KEYS];
    core::Reader reader(held[i].key);
    read_key(&reader, work->table, values);
    MemoryContextSwitchTo(old);
    if (work->left_to_copy || passed(batch, work->root, values))
      continue;
    add_key(work->keys, values, InvalidOid, 0, {}, true, held[i].id);
    batch->held_keys++;
  }
  MemoryContextDelete(scratch);
}

/// `previous`: where the window of tables that no copy concerns begins.
void collect_run(Batch *batch, const core::ChangeRun &run, uint64 xid, const Position &previous, MemoryContext scratch) {
  const config::Cluster *cluster = config::find_cluster(static_cast<int32>(run.cluster));
  if (cluster == nullptr || !config::routed_to(cluster, NameStr(batch->session->peer)))
    return;
  TableWork *work = work_for(batch, run.root);
  if (work->unregistered)
    return;
  // The copy has them all; a change that was not logged (a mark) is noted with the window it is in.
  const bool new_here = !sees(previous, xid);
  if (work->since != nullptr ? sees(*work->since, xid) : !new_here)
    return;
  if (work->left_to_copy && run.kind != core::ChangeKind::kMark) {
    batch->left_keys += run.keys;
    return;
  }
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
    if (new_here) {
      work->marked = true;
      batch->marks++;
    }
    return;
  case core::ChangeKind::kWhole:
    break;
  }
  // A copy within the batch brings every row that stands. Not while it is open whether the table fits: then keys are held.
  if (work->copy != nullptr && fits(work) && run.kind != core::ChangeKind::kDelete)
    return;
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
    if (!owed(batch, work, run, xid, values)) {
      batch->staged_keys += batch->backlog != nullptr ? 1 : 0;
      note_staged(batch, work, into, key);
      continue;
    }
    HeldState held{};
    if (into != work->waiting && find_held(batch, work, key, &held))
      append_id(&batch->found, &batch->found_count, &batch->found_capacity, held.id);
    add_key(into, values, run.leaf, cluster->id, run.mask, whole, held.id);
    batch->log_keys++;
    work->log_keys++;
  }
}

/// Tables that DDL may have changed since they were agreed on, though no row of them has; some at a time, for each costs
/// a round trip, and of a busy route few.
void look_again(Batch *batch) {
  constexpr int kAtOnce = 20;
  constexpr int kAtOnceBusy = 4;
  constexpr int kBusyEveryMs = 5000;
  Session *session = batch->session;
  const bool busy = collected(batch) > 0;
  // Nothing new is applied before a backlog that is staged, so there is no hurry then; and its tables are those that have rows in it.
  if (batch->stale || batch->backlog != nullptr || (busy && !TimestampDifferenceExceeds(session->looked_at, batch->taken_at, kBusyEveryMs)))
    return;
  session->looked_at = batch->taken_at;
  bool ddl_under_way = false;
  if (!session->recalled) {
    Oid *relations;
    const int count = agreed_tables(NameStr(session->peer), &relations);
    for (int i = 0; i < count; i++)
      (void)look_at(session, relations[i], &ddl_under_way);
    // Who has it now is perhaps what it is to be described for: once more, until all of them have been seen.
    session->recalled = !ddl_under_way;
  }
  if (session->tables == nullptr)
    return;
  Oid wanted[kAtOnce];
  int count = 0;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->tables);
  while (auto *sent = static_cast<SentTable *>(hash_seq_search(&status))) {
    const SentTable *now = look_at(session, sent->root, &ddl_under_way);
    if (now == nullptr || now->fit != TableFit::kUnknown)
      continue;
    wanted[count++] = sent->root;
    if (count == (busy ? kAtOnceBusy : kAtOnce)) {
      hash_seq_term(&status);
      break;
    }
  }
  for (int i = 0; i < count; i++)
    (void)work_for(batch, wanted[i]);
}

void collect_window(Batch *batch, const Position &previous) {
  const MemoryContext scratch =
      AllocSetContextCreate(batch->context, "seal_sync key", ALLOCSET_DEFAULT_SIZES);
  const Position *from = &previous;
  for (int i = 0; i < batch->table_count; i++)
    if (batch->order[i]->since != nullptr && !covers(*batch->order[i]->since, *from))
      from = batch->order[i]->since;
  LogReader *log = open_log(*from, batch->snapshot);
  core::ChangeRun run;
  uint64 xid;
  while (!batch->stale && next_run(log, &run, &xid))
    collect_run(batch, run, xid, previous, scratch);
  close_log(log);
  MemoryContextDelete(scratch);
}

} // namespace

HeldState held_as(const Batch *batch, Oid relation, core::ByteSpan key) {
  HeldState held{};
  if (batch->held_index != nullptr)
    (void)look_up_held(batch->held_index, relation, key, &held);
  return held;
}

namespace {

Batch *make_batch(Session *session) {
  config::refresh();
  const MemoryContext context =
      AllocSetContextCreate(CurrentMemoryContext, "seal_sync batch", ALLOCSET_DEFAULT_SIZES);
  MemoryContextSwitchTo(context);
  auto *batch = static_cast<Batch *>(palloc0(sizeof(Batch)));
  batch->session = session;
  batch->context = context;
  init_buffer(&batch->reached_key, context);
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
  return batch;
}

int by_root(const void *a, const void *b) {
  const Oid left = (*static_cast<TableWork *const *>(a))->root;
  const Oid right = (*static_cast<TableWork *const *>(b))->root;
  return left < right ? -1 : left > right;
}

/// A stage that takes its keys in an order needs it to be the same each time.
void sort_tables(Batch *batch) {
  if (batch->table_count > 1)
    qsort(batch->order, static_cast<size_t>(batch->table_count), sizeof(TableWork *), by_root);
}

} // namespace

Batch *open(Session *session, const Position &previous, const Stages &stages) {
  const MemoryContext caller = CurrentMemoryContext;
  Batch *batch = make_batch(session);
  batch->backlog = stages.backlog;
  if (batch->backlog != nullptr && !prepare(batch->backlog)) {
    batch->stale = batch->backlog_useless = true;
    MemoryContextSwitchTo(caller);
    return batch;
  }
  if (batch->backlog != nullptr) {
    const BaseMap *map = batch->backlog;
    batch->begins_at = map->pass_cuts > 0 ? map->cuts[map->pass_cuts - 1].scope : InvalidOid;
    // Their staged rows want a description on this connection, whatever else there is of them.
    for (int i = 0; i < batch->backlog->table_count; i++)
      work_for(batch, batch->backlog->tables[i].relation);
  }
  plan_copies(batch, stages);
  batch->held_index = open_held_index(NameStr(session->peer), batch->snapshot);
  collect_window(batch, previous);
  collect_held(batch);
  look_again(batch);
  sort_tables(batch);
  MemoryContextSwitchTo(caller);
  return batch;
}

Batch *open_copy(Session *session, Oid relation, BaseMap *map) {
  const MemoryContext caller = CurrentMemoryContext;
  Batch *batch = make_batch(session);
  batch->job_count = load_copies(NameStr(session->peer), &batch->jobs);
  TableWork *work = work_for(batch, relation);
  if (!work->unregistered) {
    const bool begun = map->cut_count > 0;
    const Cut *cut = begun ? &map->cuts[map->cut_count - 1] : nullptr;
    work->copy = begin_copy(work->table, batch->snapshot, begun ? cut->scope : InvalidOid, begun ? cut->key : core::ByteSpan{});
    batch->copies = 1;
  } else {
    batch->stale = true;
  }
  MemoryContextSwitchTo(caller);
  return batch;
}

} // namespace seal_sync::scan

// The story of one batch; see batch.hpp.
#include "scan/batch.hpp"

#include "core/change_log_codec.hpp"
#include "pg/boundary.hpp"
#include "pg/shared_state.hpp"
#include "scan/descriptor.hpp"
#include "scan/held.hpp"
#include "scan/history.hpp"
#include "scan/keys.hpp"
#include "scan/row_encoder.hpp"
#include "scan/row_source.hpp"
#include "scan/sorted_keys.hpp"

namespace seal_sync::scan {

namespace {

constexpr int kMaxHeldAtOnce = 50000;
constexpr int kFirstSorters = 4; // these many tables get much memory to sort, the rest little
constexpr int kMuchMemoryKb = 16 * 1024;
constexpr int kLittleMemoryKb = 1024;

/// One registered table in the batch.
struct TableWork {
  Oid root; // hash key
  bool unregistered; // table_remove'd since: its entries are dropped
  Oid absorbed_by;
  uint64 root_signature;
  const config::Table *table;
  SentTable *sent;
  SortedKeys *keys;
  SortedKeys *waiting; // of clusters that the peer does not accept yet
  RowSource *source;
  RowEncoder *encoder;
  bool marked;                     // the log was full: changes were left out
  int64 inserts, updates, deletes; // captured
  int64 shipped;
  size_t bytes;
};

struct HeldIndexEntry {
  uint64 hash[2]; // key: relation and hash of the bytes
  HeldKey *held;
};

} // namespace

struct Batch {
  Session *session;
  MemoryContext context;
  Snapshot snapshot;
  Position position;
  TimestampTz taken_at;
  HTAB *tables;
  int table_count;
  TableWork **order; // in order of first appearance
  int order_capacity;
  HTAB *held_index;
  int64 log_keys;
  int64 held_keys;
  int64 marks;
  int64 rows;
  int64 delete_rows;
  bool stale;
  uint64 rules_version; // config::version() when it was taken
  int current; // table being encoded
  int64 *released; // held ids that this batch ships
  int released_count;
  int released_capacity;
  LeftOut left_out;
  uint64 number;
};

// ---- sessions ----------------------------------------------------------------------------------

Session *open_session(const char *peer, MemoryContext parent) {
  const MemoryContext context = AllocSetContextCreate(parent, "seal_sync session", ALLOCSET_DEFAULT_SIZES);
  auto *session = static_cast<Session *>(MemoryContextAllocZero(context, sizeof(Session)));
  session->context = context;
  namestrcpy(&session->peer, peer);
  session->config_version = config::version();
  // Values that travel as text must not depend on the server's settings.
  const struct {
    const char *name;
    const char *value;
  } pins[] = {{"DateStyle", "ISO, YMD"},   {"IntervalStyle", "postgres"}, {"extra_float_digits", "3"},
              {"bytea_output", "hex"},     {"lc_monetary", "C"},          {"search_path", "pg_catalog"},
              {"xmloption", "content"}};
  for (const auto &pin : pins)
    SetConfigOption(pin.name, pin.value, PGC_SUSET, PGC_S_OVERRIDE);
  return session;
}

void close_session(Session *session) { MemoryContextDelete(session->context); }

void accept_cluster(Session *session, int32 cluster_id) {
  const MemoryContext old = MemoryContextSwitchTo(session->context);
  const size_t size = sizeof(int32) * static_cast<size_t>(session->accepted_count + 1);
  session->accepted_clusters = static_cast<int32 *>(
      session->accepted_clusters == nullptr ? palloc(size) : repalloc(session->accepted_clusters, size));
  session->accepted_clusters[session->accepted_count++] = cluster_id;
  MemoryContextSwitchTo(old);
}

void forget_tables(Session *session) {
  if (session->tables == nullptr)
    return;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->tables);
  while (auto *sent = static_cast<SentTable *>(hash_seq_search(&status)))
    sent->columns = nullptr; // made and described anew when next needed
}

namespace {

bool accepted(const Session *session, int32 cluster_id) {
  for (int i = 0; i < session->accepted_count; i++)
    if (session->accepted_clusters[i] == cluster_id)
      return true;
  return false;
}

// ---- collecting --------------------------------------------------------------------------------

void remember_left_out(Batch *batch, Oid root) {
  LeftOut *left_out = &batch->left_out;
  for (int i = 0; i < left_out->root_count; i++)
    if (left_out->roots[i] == root)
      return;
  const size_t size = sizeof(Oid) * static_cast<size_t>(left_out->root_count + 1);
  left_out->roots = static_cast<Oid *>(left_out->roots == nullptr ? palloc(size)
                                                                   : repalloc(left_out->roots, size));
  left_out->roots[left_out->root_count++] = root;
}

void remember_left_out_cluster(Batch *batch, int32 cluster) {
  LeftOut *left_out = &batch->left_out;
  for (int i = 0; i < left_out->cluster_count; i++)
    if (left_out->clusters[i] == cluster)
      return;
  const size_t size = sizeof(int32) * static_cast<size_t>(left_out->cluster_count + 1);
  left_out->clusters = static_cast<int32 *>(
      left_out->clusters == nullptr ? palloc(size) : repalloc(left_out->clusters, size));
  left_out->clusters[left_out->cluster_count++] = cluster;
}

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

void held_hash(Oid relation, core::ByteSpan key, uint64 *hash) {
  hash[0] = relation;
  hash[1] = DatumGetUInt64(hash_any_extended(key.data(), static_cast<int>(key.size()), 0));
}

/// The held row that stands for this key, if any: then the peer's row is not what we last sent.
int64 held_id(const Batch *batch, Oid relation, core::ByteSpan key) {
  if (batch->held_index == nullptr)
    return 0;
  uint64 hash[2];
  held_hash(relation, key, hash);
  const auto *entry = static_cast<HeldIndexEntry *>(hash_search(batch->held_index, hash, HASH_FIND, nullptr));
  if (entry == nullptr || entry->held->key.size() != key.size() ||
      memcmp(entry->held->key.data(), key.data(), key.size()) != 0)
    return 0;
  return entry->held->id;
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
  ctl.keysize = sizeof(uint64[2]);
  ctl.entrysize = sizeof(HeldIndexEntry);
  ctl.hcxt = batch->context;
  batch->held_index = hash_create("seal_sync held keys", count, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  const MemoryContext scratch =
      AllocSetContextCreate(batch->context, "seal_sync held key", ALLOCSET_DEFAULT_SIZES);
  for (int i = 0; i < count && !batch->stale; i++) {
    uint64 hash[2];
    held_hash(held[i].relation, held[i].key, hash);
    auto *entry = static_cast<HeldIndexEntry *>(hash_search(batch->held_index, hash, HASH_ENTER, nullptr));
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
    add_key(work->keys, values, InvalidOid, {}, true, held[i].id);
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
    remember_left_out_cluster(batch, cluster->id);
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
    // A key that only waits for its cluster carries the cluster in place of a held row's number.
    const int64 held = into == work->waiting ? cluster->id : held_id(batch, run.root, key);
    add_key(into, values, run.leaf, run.mask, whole, held);
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

bool fits(const TableWork *work) { return work->sent->fit == TableFit::kFits; }

} // namespace

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

void close(Batch *batch) {
  for (int i = 0; i < batch->table_count; i++) {
    TableWork *work = batch->order[i];
    if (work->source != nullptr)
      close_source(work->source);
    if (work->keys != nullptr)
      end_keys(work->keys);
    if (work->waiting != nullptr)
      end_keys(work->waiting);
  }
  PopActiveSnapshot();
  UnregisterSnapshot(batch->snapshot);
  MemoryContextDelete(batch->context);
}

int64 collected(const Batch *batch) { return batch->log_keys + batch->held_keys + batch->marks; }
int64 shipped_rows(const Batch *batch) { return batch->rows; }
int64 shipped_deletes(const Batch *batch) { return batch->delete_rows; }
const Position &position(const Batch *batch) { return batch->position; }
TimestampTz taken_at(const Batch *batch) { return batch->taken_at; }
bool stale(const Batch *batch) { return batch->stale; }

bool worth_shipping(const Batch *batch) {
  if (batch->log_keys + batch->marks > 0)
    return true;
  for (int i = 0; i < batch->table_count; i++)
    if (fits(batch->order[i]) && keys_added(batch->order[i]->keys) > 0)
      return true;
  return false;
}

int left_out_tables(const Batch *batch) {
  int count = 0;
  for (int i = 0; i < batch->table_count; i++)
    count += !fits(batch->order[i]);
  return count;
}

// ---- agreeing with the peer --------------------------------------------------------------------

int undescribed(Batch *batch) {
  if (batch->stale)
    return -1;
  for (int i = 0; i < batch->table_count; i++)
    if (batch->order[i]->sent->fit == TableFit::kUnknown)
      return i;
  return -1;
}

void write_describe(Batch *batch, int table, core::Buffer *out) {
  // Tables described before have cost round trips: this one may be gone or changed by now.
  const TableWork *work = batch->order[table];
  if (!ConditionalLockRelationOid(work->root, AccessShareLock)) {
    batch->stale = true;
    return;
  }
  const config::Table *now = config::find_table(work->root);
  if (now == nullptr || now->signature != work->root_signature || batch->rules_version != config::version())
    batch->stale = true;
  else
    write_description(work->sent, now, out);
  UnlockRelationOid(work->root, AccessShareLock);
}

TableFit read_describe(Batch *batch, int table, core::Reader *reply) {
  return read_description_reply(batch->order[table]->sent, reply);
}

const char *table_problem(const Batch *batch, int table, const char **hint) {
  const SentTable *sent = batch->order[table]->sent;
  *hint = sent->hint;
  return sent->message;
}

void commit_to_history(Batch *batch, uint64 number, const core::wire::Id &id) {
  const MemoryContext old = MemoryContextSwitchTo(batch->context);
  for (int i = 0; i < batch->table_count; i++)
    if (!fits(batch->order[i]) && keys_added(batch->order[i]->keys) > 0)
      remember_left_out(batch, batch->order[i]->root);
  batch->number = number;
  insert_history(NameStr(batch->session->peer), 'b', number, id, batch->position, batch->left_out,
                 collected(batch), true);
  MemoryContextSwitchTo(old);
}

uint64 write_clusters(Batch *batch, core::Buffer *out) {
  uint64 count = 0;
  if (batch->rules_version != config::version()) // a role may have moved since the rows were read
    batch->stale = true;
  for (int i = 0; i < config::cluster_count(); i++) {
    const config::Cluster *cluster = config::cluster_at(i);
    if (!accepted(batch->session, cluster->id) ||
        !config::routed_to(cluster, NameStr(batch->session->peer)))
      continue;
    out->text(NameStr(cluster->name));
    out->u64(static_cast<uint64>(cluster->epoch));
    count++;
  }
  return count;
}

// ---- rows --------------------------------------------------------------------------------------

namespace {

void remember_released(Batch *batch, const KeyGroup *group) {
  for (int i = 0; i < group->held_count; i++) {
    if (batch->released_count == batch->released_capacity) {
      batch->released_capacity = Max(64, batch->released_capacity * 2);
      const size_t size = sizeof(int64) * static_cast<size_t>(batch->released_capacity);
      batch->released = static_cast<int64 *>(
          batch->released == nullptr ? palloc(size) : repalloc_huge(batch->released, size));
    }
    batch->released[batch->released_count++] = group->held[i];
  }
}

/// What the peer is to make of one key: the row as it is under X_n, or a delete when no such row
/// belongs to a cluster that this node owns and routes to it (trap T5).
void encode_group(Batch *batch, TableWork *work, const KeyGroup *group) {
  config::Table *leaf = nullptr;
  bool gone;
  TupleTableSlot *row = find_row(work->source, group, &leaf, &batch->stale, &gone);
  if (batch->stale)
    return;
  if (row != nullptr) {
    const config::Cluster *cluster = config::cluster_of(leaf, row);
    if (cluster != nullptr && config::routed_to(cluster, NameStr(batch->session->peer))) {
      if (accepted(batch->session, cluster->id)) {
        remember_released(batch, group);
        const bool whole = group->whole || group->mask_size == 0;
        encode_row(work->encoder, leaf, row, whole ? nullptr : group->mask, group->mask_size);
        return;
      }
      // It has moved to a cluster that the peer does not accept yet: over there it is gone until then.
      if (work->waiting == nullptr)
        work->waiting = begin_keys(work->table, kLittleMemoryKb);
      add_key(work->waiting, group->values, leaf->relation, {}, true, cluster->id);
      encode_delete(work->encoder, group->values);
      return;
    }
  }
  remember_released(batch, group);
  if (!gone)
    encode_delete(work->encoder, group->values);
}

bool begin_table(Batch *batch, TableWork *work) {
  if (batch->rules_version != config::version()) {
    batch->stale = true;
    return false;
  }
  if (work->source == nullptr) {
    work->source = make_source(work->table, batch->snapshot);
    work->encoder = make_encoder(work->sent, batch->context);
    sort_keys(work->keys);
  }
  if (open_source(work->source))
    return true;
  batch->stale = true;
  return false;
}

} // namespace

bool next_chunk(Batch *batch, core::Buffer *out, size_t limit) {
  const MemoryContext old = MemoryContextSwitchTo(batch->context);
  bool more = false;
  while (batch->current < batch->table_count && !batch->stale && !more) {
    TableWork *work = batch->order[batch->current];
    bool finished = true;
    if (fits(work) && keys_added(work->keys) > 0 && begin_table(batch, work)) {
      KeyGroup group;
      while (!batch->stale && out->size + encoded_bytes(work->encoder) < limit &&
             (finished = !next_group(work->keys, &group)) == false)
        encode_group(batch, work, &group);
      const size_t before = out->size;
      const auto rows = static_cast<int64>(flush_sections(work->encoder, out, &batch->delete_rows));
      work->shipped += rows;
      work->bytes += out->size - before;
      batch->rows += rows;
      close_source(work->source);
    }
    if (finished)
      batch->current++;
    more = !finished || out->size >= limit;
  }
  MemoryContextSwitchTo(old);
  return more && !batch->stale;
}

void write_wanted(Batch *batch, core::Reader *wanted, core::Buffer *out) {
  const MemoryContext old = MemoryContextSwitchTo(batch->context);
  const uint64 count = wanted->varint();
  for (uint64 i = 0; i < count && wanted->ok() && !batch->stale; i++) {
    const uint64 number = wanted->varint();
    core::Reader keyrow(wanted->sized());
    if (!wanted->ok())
      break;
    TableWork *work = nullptr;
    for (int t = 0; t < batch->table_count; t++)
      if (batch->order[t]->sent->number == number && fits(batch->order[t]))
        work = batch->order[t];
    if (work == nullptr || work->source == nullptr)
      ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
              errmsg("the peer asks for a row of a table that this batch does not have"));
    KeyGroup group{};
    group.any_leaf = group.whole = true;
    read_keyrow(&keyrow, work->sent, group.values);
    if (begin_table(batch, work)) {
      encode_group(batch, work, &group);
      batch->rows += static_cast<int64>(flush_sections(work->encoder, out, &batch->delete_rows));
      close_source(work->source);
    }
  }
  if (!wanted->ok())
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
            errmsg("the peer's list of wanted rows cannot be read"));
  MemoryContextSwitchTo(old);
}

// ---- after -------------------------------------------------------------------------------------

namespace {

const char *to_cstring(std::string_view text) { return pnstrdup(text.data(), text.size()); }

/// A key that was held before, went out with this batch and is held again: it stays.
void keep_held(Batch *batch, int64 id) {
  for (int i = 0; i < batch->released_count; i++)
    if (batch->released[i] == id)
      batch->released[i] = 0;
}

/// Keeps every key of a sorter in seal_sync.held.
void hold_all(Batch *batch, const TableWork *work, SortedKeys *keys, const HeldReason &reason) {
  const MemoryContext scratch =
      AllocSetContextCreate(batch->context, "seal_sync held key", ALLOCSET_DEFAULT_SIZES);
  KeyGroup group;
  while (next_group(keys, &group)) {
    MemoryContextReset(scratch);
    const MemoryContext old = MemoryContextSwitchTo(scratch);
    core::Buffer key;
    init_buffer(&key, scratch);
    write_key(&key, work->table, group.values);
    const Oid leaf = group.leaf_count == 1 && !group.any_leaf ? group.leaves[0] : InvalidOid;
    const auto cluster = static_cast<int32>(keys == work->waiting ? group.held[0] : 0);
    keep_held(batch, hold_key(NameStr(batch->session->peer), work->root, leaf, cluster, key.span(), reason));
    MemoryContextSwitchTo(old);
  }
  MemoryContextDelete(scratch);
}

HeldReason reason_of(const SentTable *sent) {
  HeldReason reason{sent->fit == TableFit::kWaitingPeer ? "waiting_peer" : "parked"};
  reason.sqlstate = sent->sqlstate;
  reason.message = sent->message;
  reason.detail = sent->detail;
  return reason;
}

HeldReason reason_of(const core::wire::Refusal &refusal, uint64 batch) {
  HeldReason reason{"quarantined"};
  reason.sqlstate = to_cstring(refusal.sqlstate);
  reason.message = to_cstring(refusal.message);
  reason.detail = to_cstring(refusal.detail);
  reason.constraint = to_cstring(refusal.constraint);
  reason.kind = static_cast<char>(refusal.kind);
  reason.batch = static_cast<int64>(batch);
  return reason;
}

void quarantine(Batch *batch, const core::wire::Refusal &refusal) {
  // By the name the peer was told: the table may have been renamed since.
  TableWork *work = nullptr;
  for (int t = 0; t < batch->table_count; t++) {
    const SentTable *sent = batch->order[t]->sent;
    if (sent->name != nullptr && refusal.table == sent->name && refusal.schema == sent->schema)
      work = batch->order[t];
  }
  if (work == nullptr)
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
            errmsg("the peer refuses a key of a table that this batch does not have"));
  Datum values[INDEX_MAX_KEYS];
  core::Reader keyrow(refusal.key);
  read_keyrow(&keyrow, work->sent, values);
  core::Buffer key;
  init_buffer(&key, batch->context);
  write_key(&key, work->table, values);
  keep_held(batch, hold_key(NameStr(batch->session->peer), work->root, InvalidOid, 0, key.span(),
                            reason_of(refusal, batch->number)));
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

void acknowledge(Batch *batch, const core::wire::Id &id, core::Reader *refusals, uint64 refusal_count) {
  const MemoryContext old = MemoryContextSwitchTo(batch->context);
  for (int i = 0; i < batch->table_count; i++) {
    const TableWork *work = batch->order[i];
    if (work->marked)
      mark_dirty(work->root, "the change log was full");
    if (!fits(work) && keys_added(work->keys) > 0)
      hold_all(batch, work, work->keys, reason_of(work->sent));
    if (work->waiting != nullptr) {
      HeldReason reason{"waiting_peer"};
      reason.message = "the peer does not accept this cluster from this node yet";
      hold_all(batch, work, work->waiting, reason);
    }
  }
  for (uint64 i = 0; i < refusal_count; i++) {
    core::wire::Refusal refusal;
    core::wire::read(*refusals, refusal);
    if (!refusals->ok())
      ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
              errmsg("the peer's list of refused keys cannot be read"));
    quarantine(batch, refusal);
  }
  release_held(batch->released, batch->released_count);
  insert_history(NameStr(batch->session->peer), 'a', batch->number, id, batch->position, LeftOut{},
                 collected(batch), false);
  count_tables(batch);
  MemoryContextSwitchTo(old);
}

void recover(Session *session, const HistoryEntry &entry, core::Reader *refusals, uint64 refusal_count) {
  const char *peer = NameStr(session->peer);
  const LeftOut left_out = left_out_of(peer, entry.number, entry.id);
  const HistoryEntry before = last_acknowledged(peer);

  // The rows are not read again and tables may have other names by now, so with any refusal each key of
  // the window is tried once more.
  HeldReason reason{"quarantined"};
  reason.message = "refused in a batch whose answer was lost";
  reason.batch = static_cast<int64>(entry.number);
  const bool whole_window = refusal_count > 0;
  for (uint64 i = 0; i < refusal_count; i++) {
    core::wire::Refusal refusal;
    core::wire::read(*refusals, refusal);
    if (!refusals->ok())
      ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
              errmsg("the peer's list of refused keys cannot be read"));
  }
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
      bool held = whole_window;
      for (int i = 0; i < left_out.root_count; i++)
        held = held || left_out.roots[i] == run.root;
      for (int i = 0; i < left_out.cluster_count; i++)
        held = held || left_out.clusters[i] == static_cast<int32>(run.cluster);
      const config::Table *table = held ? config::find_table(run.root) : nullptr;
      if (table == nullptr)
        continue;
      core::Reader keys(run.key_bytes);
      for (int i = 0; i < run.keys; i++) {
        const uint8_t *start = keys.position();
        Datum values[INDEX_MAX_KEYS];
        read_key(&keys, table, values);
        hold_key(peer, run.root, run.leaf, 0,
                 core::ByteSpan(start, static_cast<size_t>(keys.position() - start)), reason);
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

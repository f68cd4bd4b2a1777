// The story of one batch; see batch.hpp. Its beginning is in collect.cpp, its end in settle.cpp.
#include "scan/batch_state.hpp"

#include "pg/boundary.hpp"
#include "pg/latch.hpp"

namespace seal_sync::scan {

void close(Batch *batch) {
  tell_held(batch->session);
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
double encode_ms(const Batch *batch) {
  double us = 0;
  for (int i = 0; i < batch->table_count; i++) {
    const TableWork *work = batch->order[i];
    if (work->timed > 0)
      us += static_cast<double>(work->timed_us) * static_cast<double>(work->encoded) / static_cast<double>(work->timed);
  }
  return us / 1000;
}
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

int64 table_keys(const Batch *batch, int table) { return keys_added(batch->order[table]->keys); }

void commit_to_history(Batch *batch, uint64 number, const core::wire::Id &id) {
  const MemoryContext old = MemoryContextSwitchTo(batch->context);
  for (int i = 0; i < batch->table_count; i++)
    if (!fits(batch->order[i]) && keys_added(batch->order[i]->keys) > 0)
      remember_once(&batch->left_out.roots, &batch->left_out.root_count, batch->order[i]->root);
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

// Looking at the clock for each row would be felt where rows are small; with fewer samples, one that was
// interrupted would count for too many.
constexpr uint64 kTimedEvery = 4;

void encode_timed(TableWork *work, const config::Table *leaf, TupleTableSlot *row, const uint8 *mask, int mask_size) {
  const bool timed = work->encoded++ % kTimedEvery == 0;
  const int64 began = timed ? pg::monotonic_us() : 0;
  encode_row(work->encoder, leaf, row, mask, mask_size);
  if (timed) {
    work->timed++;
    work->timed_us += pg::monotonic_us() - began;
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
        encode_timed(work, leaf, row, whole ? nullptr : group->mask, group->mask_size);
        return;
      }
      // It has moved to a cluster that the peer does not accept yet: over there it is gone until then.
      if (work->waiting == nullptr)
        work->waiting = begin_keys(work->table, kLittleMemoryKb);
      add_key(work->waiting, group->values, leaf->relation, cluster->id, {}, true, 0);
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

} // namespace seal_sync::scan

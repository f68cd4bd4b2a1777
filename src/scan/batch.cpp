// The story of one batch; see batch.hpp. Its beginning is in collect.cpp, its end in settle.cpp.
#include "scan/arrived.hpp"
#include "scan/batch_state.hpp"

#include "pg/boundary.hpp"
#include "pg/latch.hpp"
#include "scan/agreement.hpp"
#include "scan/held.hpp"
#include "scan/keys.hpp"

namespace seal_sync::scan {

void close(Batch *batch) {
  tell_held(batch->session);
  release_arrived(batch->session);
  if (batch->held_index != nullptr)
    close_held_index(batch->held_index);
  note_agreements(batch->session);
  for (int i = 0; i < batch->table_count; i++) {
    TableWork *work = batch->order[i];
    if (work->source != nullptr)
      close_source(work->source);
    if (work->copy != nullptr)
      pause_copy(work->copy);
    if (work->keys != nullptr)
      end_keys(work->keys);
    if (work->waiting != nullptr)
      end_keys(work->waiting);
  }
  PopActiveSnapshot();
  UnregisterSnapshot(batch->snapshot);
  MemoryContextDelete(batch->context);
}

int64 collected(const Batch *batch) {
  return batch->log_keys + batch->held_keys + batch->marks + batch->copies + (batch->left_keys > kManyLeftKeys ? 1 : 0);
}
int64 staged(const Batch *batch) { return batch->staged_keys; }
int64 left_to_copies(const Batch *batch) { return batch->left_keys; }
int64 taken(const Batch *batch) {
  int64 keys = 0;
  for (int i = 0; i < batch->table_count; i++) {
    const TableWork *work = batch->order[i];
    if (work->keys != nullptr)
      keys += i < batch->current ? keys_added(work->keys) : i == batch->current ? keys_read(work->keys) : 0;
  }
  return keys;
}
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
  if (batch->marks > 0 || batch->left_keys > kManyLeftKeys)
    return true;
  for (int i = 0; i < batch->table_count; i++) {
    const TableWork *work = batch->order[i];
    if (fits(work) && (keys_added(work->keys) > 0 || work->copy != nullptr || work->activates != nullptr))
      return true;
    // Keys that the peer does not take are held, but for those of a copy that waits for it.
    if (work->log_keys > 0 && (fits(work) || work->activates == nullptr))
      return true;
    if (work->gives_up)
      return true;
  }
  return batch->backlog != nullptr; // what is staged
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

bool to_be_copied(const Batch *batch, int table) {
  for (int i = 0; i < batch->job_count; i++)
    if (batch->jobs[i].relation == batch->order[table]->root)
      return true;
  return false;
}

int table_count(const Batch *batch) { return batch->table_count; }

void commit_to_history(Batch *batch, uint64 number, const core::wire::Id &id) {
  const MemoryContext old = MemoryContextSwitchTo(batch->context);
  for (int i = 0; i < batch->table_count; i++)
    if (!fits(batch->order[i]) && keys_added(batch->order[i]->keys) > 0)
      remember_once(&batch->left_out.roots, &batch->left_out.root_count, batch->order[i]->root);
  for (int i = 0; i < batch->table_count; i++) {
    const TableWork *work = batch->order[i];
    if (!completes_copy(work))
      continue;
    const Size size = sizeof(LeftOut::Copied) * static_cast<Size>(batch->left_out.copied_count + 1);
    LeftOut::Copied **copied = &batch->left_out.copied;
    *copied = static_cast<LeftOut::Copied *>(*copied == nullptr ? palloc(size) : repalloc(*copied, size));
    (*copied)[batch->left_out.copied_count++] = {work->root, work->job->job, work->job->begun, work->job->pin};
  }
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
  for (int i = 0; i < group->held_count; i++)
    append_id(&batch->released, &batch->released_count, &batch->released_capacity, group->held[i]);
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
        if (work->copy != nullptr) // comes with the copy
          return;
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

void flush(Batch *batch, TableWork *work, core::Buffer *out) {
  const size_t before = out->size;
  const auto rows = static_cast<int64>(flush_sections(work->encoder, out, &batch->delete_rows));
  work->shipped += rows;
  work->bytes += out->size - before;
  batch->rows += rows;
}

void note_reached(Batch *batch, Oid scope, core::ByteSpan key) {
  batch->reached_key.size = 0;
  batch->reached_key.bytes(key.data(), key.size());
  batch->reached = {scope, batch->reached_key.span()};
}

void note_reached(Batch *batch, const TableWork *work, const Datum *values) {
  batch->reached_key.size = 0;
  write_key(&batch->reached_key, work->table, values);
  batch->reached = {work->root, batch->reached_key.span()};
}

/// Rows of a table that is copied, until about `limit` bytes. True: all of them.
bool copy_rows(Batch *batch, TableWork *work, core::Buffer *out, size_t limit) {
  if (work->encoder == nullptr)
    work->encoder = make_encoder(work->sent, batch->context);
  if (batch->rules_version != config::version()) {
    batch->stale = true;
    return false;
  }
  constexpr int kMostLookedAt = 20000;
  int looked = 0;
  config::Table *last = nullptr;
  for (;;) {
    // Rows of other clusters fill no chunk: the caller looks at the clock after so many, and lets go of the table's locks.
    if (out->size + encoded_bytes(work->encoder) >= limit || looked++ == kMostLookedAt)
      break;
    config::Table *leaf = nullptr;
    TupleTableSlot *row = next_copied(work->copy, &leaf, &batch->stale);
    if (batch->stale)
      break;
    if (row == nullptr) {
      work->copy_done = true;
      break;
    }
    if (last != nullptr && leaf != last) // keys of a section ascend
      flush(batch, work, out);
    last = leaf;
    batch->copy_rows_read++;
    const config::Cluster *cluster = config::cluster_of(leaf, row);
    if (cluster != nullptr && config::routed_to(cluster, NameStr(batch->session->peer)) &&
        accepted(batch->session, cluster->id))
      encode_timed(work, leaf, row, nullptr, 0);
  }
  flush(batch, work, out);
  pause_copy(work->copy);
  const CopyPlace place = place_of(work->copy);
  note_reached(batch, place.scope, place.key);
  return work->copy_done;
}

} // namespace

Reached reached(const Batch *batch) { return batch->reached; }

void note_tables(const Batch *batch, BaseMap *map) {
  for (int i = 0; i <= batch->current && i < batch->table_count; i++) {
    const TableWork *work = batch->order[i];
    // Not what the pass has met before: a table that did not fit then comes with the next pass. Nor one that is only looked at:
    // a stage is dropped when one of its tables does not fit any more.
    const bool has_rows = keys_added(work->keys) > 0 || work->copy != nullptr;
    if (fits(work) && has_rows && !work->left_to_copy && work->root > batch->begins_at)
      note_table(map, work->root, work->root_signature);
  }
}

bool stage_fits(const Batch *batch) {
  if (batch->backlog == nullptr)
    return true;
  for (int i = 0; i < batch->table_count; i++) {
    bool noted = false;
    for (int t = 0; t < batch->backlog->table_count; t++)
      noted = noted || batch->backlog->tables[t].relation == batch->order[i]->root;
    if (noted && !fits(batch->order[i]))
      return false;
  }
  return true;
}

bool mid_pass(const Batch *batch) { return OidIsValid(batch->begins_at); }
bool has_copies(const Batch *batch) { return batch->job_count > 0; }

int activated(const Batch *batch, core::wire::Id *ids, int most) {
  int count = 0;
  for (int i = 0; i < batch->table_count; i++)
    if (batch->order[i]->activates != nullptr && fits(batch->order[i]) && count < most)
      ids[count++] = batch->order[i]->activates->stage;
  return count;
}

double inline_bytes(const Batch *batch) {
  double bytes = 0;
  for (int i = 0; i < batch->table_count; i++)
    if (batch->order[i]->copy != nullptr)
      bytes += batch->order[i]->copy_bytes;
  return bytes;
}

int copied_jobs(const Batch *batch, bool staged, int64 *jobs, Oid *relations, int most) {
  int count = 0;
  for (int i = 0; i < batch->table_count && count < most; i++) {
    const TableWork *work = batch->order[i];
    if (work->copy == nullptr && !(staged && work->activates != nullptr))
      continue;
    jobs[count] = work->job->job;
    relations[count++] = work->root;
  }
  return count;
}

bool backlog_useless(const Batch *batch) { return batch->backlog_useless; }

int useless_copies(const Batch *batch, core::wire::Id *ids, int most) {
  int count = 0;
  for (int i = 0; i < batch->job_count && count < most; i++)
    if (batch->jobs[i].useless)
      ids[count++] = batch->jobs[i].stage;
  return count;
}

int waiting_copies(const Batch *batch, CopyWait *waits, int most) {
  int count = 0;
  for (int i = 0; i < batch->job_count && count < most; i++) {
    const auto *work = static_cast<const TableWork *>(hash_search(batch->tables, &batch->jobs[i].relation, HASH_FIND, nullptr));
    if (work == nullptr || work->unregistered || work->sent == nullptr || fits_or_unknown(work->sent))
      continue;
    const SentTable *sent = work->sent;
    const char *message = sent->message != nullptr ? sent->message : "";
    if (batch->jobs[i].wait_message == nullptr || strcmp(batch->jobs[i].wait_message, message) != 0)
      waits[count++] = {batch->jobs[i].job, sent->fit == TableFit::kWaitingPeer ? "waiting_peer" : "parked", message,
                        sent->hint != nullptr ? sent->hint : ""};
  }
  return count;
}

int64 copy_rows_read(const Batch *batch) { return batch->copy_rows_read; }

bool next_chunk(Batch *batch, core::Buffer *out, size_t limit) {
  const MemoryContext old = MemoryContextSwitchTo(batch->context);
  bool more = false;
  while (batch->current < batch->table_count && !batch->stale && !more) {
    TableWork *work = batch->order[batch->current];
    bool finished = true;
    if (fits(work) && keys_added(work->keys) > 0 && begin_table(batch, work)) {
      KeyGroup group;
      bool any = false;
      while (!batch->stale && out->size + encoded_bytes(work->encoder) < limit &&
             (finished = !next_group(work->keys, &group)) == false) {
        encode_group(batch, work, &group);
        any = true;
      }
      flush(batch, work, out);
      close_source(work->source);
      if (finished)
        note_reached(batch, work->root, {});
      else if (any)
        note_reached(batch, work, group.values);
    }
    if (finished && work->copy != nullptr && fits(work) && !work->copy_done)
      finished = copy_rows(batch, work, out, limit);
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
    const bool sent = work != nullptr && (work->source != nullptr || work->copy != nullptr || work->activates != nullptr ||
                                          batch->backlog != nullptr);
    if (!sent)
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

// Decides for each table that is to be copied what is done about it, in the batch at hand or beside it.
//
// Called by collect.cpp's open() (plan_copies) and by worker/route_copy (next_to_stage); both look at the jobs in the same way. Invariants:
// no row comes before the row it refers to; no copy is begun or completed while a cluster that goes to the peer is not accepted there; the log is
// not kept for ever for a table that the peer does not take.
#include "pg/boundary.hpp"
#include "pg/guc.hpp"
#include "scan/batch_state.hpp"

namespace seal_sync::scan {

namespace {

/// How long a copy that the peer does not take keeps the log: as long as acknowledged changes are kept.
int give_up_ms() { return Min(guc::resend_window, PG_INT32_MAX / 1000) * 1000; }

/// What the rows of a table take here, with those of other clusters.
double bytes_of(Oid root, bool *busy) {
  double bytes = 0;
  List *relations = find_all_inheritors(root, NoLock, nullptr);
  ListCell *cell;
  foreach (cell, relations) {
    const Oid relation = lfirst_oid(cell);
    if (get_rel_relkind(relation) != RELKIND_RELATION)
      continue;
    if (!ConditionalLockRelationOid(relation, AccessShareLock)) {
      *busy = true;
      break;
    }
    const Relation rel = try_relation_open(relation, NoLock);
    if (rel != nullptr) {
      bytes += static_cast<double>(RelationGetNumberOfBlocks(rel)) * BLCKSZ;
      const Oid toast = rel->rd_rel->reltoastrelid;
      relation_close(rel, NoLock);
      if (OidIsValid(toast)) {
        const Relation values = table_open(toast, AccessShareLock);
        bytes += static_cast<double>(RelationGetNumberOfBlocks(values)) * BLCKSZ;
        table_close(values, AccessShareLock);
      }
    }
    UnlockRelationOid(relation, AccessShareLock);
  }
  list_free(relations);
  return bytes;
}

/// A copy takes the rows of every cluster that goes to the peer: it does not begin while one is not accepted there.
bool all_clusters_accepted(const Session *session) {
  for (int i = 0; i < config::cluster_count(); i++) {
    const config::Cluster *cluster = config::cluster_at(i);
    if (config::routed_to(cluster, NameStr(session->peer)) && !accepted(session, cluster->id))
      return false;
  }
  return true;
}

BaseMap *map_of(const Stages &stages, const CopyJob &job) {
  for (int i = 0; i < stages.copy_count; i++)
    if (stages.copies[i].stage == job.stage)
      return stages.copies[i].map;
  return nullptr;
}

bool held_back(const Stages &stages, Oid relation) {
  for (int i = 0; i < stages.held_back_count; i++)
    if (stages.held_back[i] == relation)
      return true;
  return false;
}

/// A job, and what hinders it. A row must not come before the row it refers to: a child is activated when its parents are
/// there, or with them. Before, all its rows would be refused.
struct Plan {
  CopyJob *job;
  bool ready;   // this batch can complete it
  bool stuck;   // the peer does not take the table, or did not take the copy; or so it is with a parent
  int *parents; // indexes of jobs
  int parent_count;
};

Plan *make_plans(CopyJob *jobs, int count) {
  auto *plans = static_cast<Plan *>(palloc0(sizeof(Plan) * static_cast<Size>(Max(count, 1))));
  for (int i = 0; i < count; i++) {
    plans[i].job = &jobs[i];
    plans[i].parents = static_cast<int *>(palloc(sizeof(int) * static_cast<Size>(count)));
    if (!ConditionalLockRelationOid(jobs[i].relation, AccessShareLock))
      continue; // DDL has it: nothing is done about it in this batch
    const Relation rel = try_relation_open(jobs[i].relation, NoLock);
    if (rel != nullptr) {
      ListCell *cell;
      List *const keys = static_cast<List *>(copyObjectImpl(RelationGetFKeyList(rel))); // looking up a table may drop the cached one
      foreach (cell, keys) {
        const config::Table *parent = config::find_table(static_cast<ForeignKeyCacheInfo *>(lfirst(cell))->confrelid);
        for (int p = 0; p < count && parent != nullptr; p++)
          if (p != i && jobs[p].relation == parent->root && plans[i].parent_count < count)
            plans[i].parents[plans[i].parent_count++] = p;
      }
      relation_close(rel, NoLock);
    }
    UnlockRelationOid(jobs[i].relation, AccessShareLock);
  }
  return plans;
}

/// What holds of a parent holds of its children: stuck, and not ready.
void settle_plans(Plan *plans, int count) {
  for (bool changed = true; changed;) {
    changed = false;
    for (int i = 0; i < count; i++)
      for (int p = 0; p < plans[i].parent_count; p++) {
        const Plan &parent = plans[plans[i].parents[p]];
        if (plans[i].ready && !parent.ready) {
          plans[i].ready = false;
          changed = true;
        }
        if (!plans[i].stuck && parent.stuck)
          plans[i].stuck = changed = true;
      }
  }
}

} // namespace

bool may_stage(const Batch *batch) { return all_clusters_accepted(batch->session); }

void plan_copies(Batch *batch, const Stages &stages) {
  batch->job_count = load_copies(NameStr(batch->session->peer), &batch->jobs);
  if (batch->job_count == 0)
    return;
  double room = stages.inline_bytes;
  const bool all_accepted = all_clusters_accepted(batch->session);
  Plan *plans = make_plans(batch->jobs, batch->job_count);
  for (int i = 0; i < batch->job_count && !batch->stale; i++) {
    CopyJob *job = plans[i].job;
    TableWork *work = work_for(batch, job->relation);
    if (work->unregistered)
      continue;
    work->job = job;
    plans[i].stuck = !all_accepted || !fits_or_unknown(work->sent) || held_back(stages, job->relation);
    if (plans[i].stuck)
      continue;
    if (job->begun) {
      BaseMap *map = map_of(stages, *job);
      // A backlog that has begun without it goes first: its first pass may not meet rows of a copy.
      plans[i].ready = map != nullptr && map->pass > 1 && (batch->backlog == nullptr || batch->backlog->pass > 1);
      if (plans[i].ready && !prepare(map)) {
        job->useless = true;
        plans[i].ready = false;
      }
      work->copied = map;
    } else if (batch->backlog == nullptr && (!job->staged_only || room >= kNoLimit)) {
      work->copy_bytes = bytes_of(job->relation, &batch->stale);
      plans[i].ready = work->copy_bytes <= room;
      if (plans[i].ready)
        room -= work->copy_bytes;
    }
  }
  settle_plans(plans, batch->job_count);
  for (int i = 0; i < batch->job_count && !batch->stale; i++) {
    CopyJob *job = plans[i].job;
    TableWork *work = work_for(batch, job->relation);
    if (work->unregistered)
      continue;
    const bool idle = job->last_at != 0 && TimestampDifferenceExceeds(job->last_at, batch->taken_at, give_up_ms());
    if (job->begun && plans[i].ready) {
      work->activates = job;
      work->since = &job->pin;
      batch->copies++;
    } else if (job->begun && plans[i].stuck && idle && batch->backlog == nullptr) {
      // The log is not kept from the pin for ever.
      work->gives_up = true;
      work->since = &job->pin;
      batch->copies++;
    } else if (job->begun) {
      work->left_to_copy = true;
    } else if (plans[i].ready) {
      work->copy = begin_copy(work->table, batch->snapshot, InvalidOid, {});
      batch->copies++;
    }
  }
}

bool next_to_stage(Session *session, const Stages &stages, CopyJob *job) {
  config::refresh();
  CopyJob *jobs;
  const int count = load_copies(NameStr(session->peer), &jobs);
  // Rows of every cluster go with a copy; while a backlog is staged its tables are not read twice.
  if (count == 0 || !all_clusters_accepted(session) || stages.backlog != nullptr)
    return false;
  Plan *plans = make_plans(jobs, count);
  auto *wanted = static_cast<bool *>(palloc0(sizeof(bool) * static_cast<Size>(count)));
  double room = stages.inline_bytes; // as plan_copies() counts
  for (int i = 0; i < count; i++) {
    const BaseMap *map = jobs[i].begun ? map_of(stages, jobs[i]) : nullptr;
    plans[i].ready = map != nullptr && map->pass > 1;
    const config::Table *table = config::find_table(jobs[i].relation);
    // One that does not fit is asked for again now and then, as any other.
    plans[i].stuck = table == nullptr || !table->usable || !fits_or_unknown(sent_table(session, table)) || held_back(stages, jobs[i].relation);
    if (plans[i].ready || plans[i].stuck)
      continue;
    bool busy = false;
    const double bytes = jobs[i].begun || jobs[i].staged_only ? 0 : bytes_of(jobs[i].relation, &busy);
    wanted[i] = jobs[i].begun || jobs[i].staged_only || (!busy && bytes > room);
    if (!wanted[i])
      room -= bytes;
  }
  const auto waits = [&](int i) {
    for (int p = 0; p < plans[i].parent_count; p++)
      if (!plans[plans[i].parents[p]].ready)
        return true;
    return false;
  };
  // Parents first, so that no copy stands complete and pins the log while theirs are made; of a cycle any.
  int *order = static_cast<int *>(palloc(sizeof(int) * static_cast<Size>(count * 2)));
  int ordered = 0;
  for (int i = 0; i < count; i++)
    if (wanted[i] && !waits(i))
      order[ordered++] = i;
  settle_plans(plans, count);
  for (int i = 0; i < count; i++)
    if (wanted[i] && !plans[i].stuck)
      order[ordered++] = i;
  for (int o = 0; o < ordered; o++)
    if (jobs[order[o]].relation != stages.stale_copy) {
      *job = jobs[order[o]];
      return true;
    }
  if (ordered > 0)
    *job = jobs[order[0]];
  return ordered > 0;
}

} // namespace seal_sync::scan

// See guard.hpp.
#include "capture/guard.hpp"

#include "config/condition.hpp"
#include "config/event_log.hpp"
#include "pg/guc.hpp"
#include "pg/shared_state.hpp"

namespace seal_sync::capture {

namespace {

const char *qualified_name(Oid relation) {
  return psprintf("%s.%s", get_namespace_name(get_rel_namespace(relation)), get_rel_name(relation));
}

[[noreturn]] void refuse_homeless(const config::Table *table) {
  const char *column = get_attname(table->relation, table->cluster_attno, false);
  ereport(ERROR, errcode(ERRCODE_CHECK_VIOLATION),
          errmsg("row of table \"%s\" belongs to no cluster", qualified_name(table->root)),
          errdetail("Column \"%s\" is null or has no declared value.", column),
          errhint("Correct the row, or declare the value with seal_sync.cluster_alter('…', "
                  "add_values => …)."));
  pg_unreachable();
}

void report_foreign(int level, const config::Table *table, const config::Cluster *cluster,
                    const char *verb) {
  ereport(level, errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
          errmsg("cannot %s table \"%s\": cluster \"%s\" has its primary on node \"%s\"", verb,
                 qualified_name(table->root), NameStr(cluster->name), NameStr(cluster->primary_node)),
          errdetail("Node \"%s\" is a standby of cluster \"%s\" in epoch " INT64_FORMAT ".",
                    config::local_node(), NameStr(cluster->name), cluster->epoch),
          errhint("Connect to node \"%s\".", NameStr(cluster->primary_node)));
}

/// This node is its primary, but has been detached: what changed here now could be lost with the data directory.
[[noreturn]] void refuse_detached(const config::Table *table, const char *verb) {
  ereport(ERROR, errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
          errmsg("cannot %s table \"%s\": node \"%s\" is detached", verb, qualified_name(table->root), config::local_node()),
          errdetail("%s", config::detached()),
          errhint("When the upgrade is done, an operator calls seal_sync.node_attach()."));
  pg_unreachable();
}

bool ours_but_detached(const config::Cluster *cluster) {
  return config::detached() != nullptr && strcmp(NameStr(cluster->primary_node), config::local_node()) == 0;
}

// What the guard let pass, per table, cluster and subtransaction level: told once, before commit. A level that is
// rolled back takes its part along. Grows with tables times clusters, for levels that end are merged.
struct Overridden {
  Oid root;
  NameData cluster; // empty: the row belongs to none
  int nest;
  int64 rows;
};
Overridden *overridden = nullptr; // in TopTransactionContext
int overridden_count = 0;
int overridden_room = 0;
int overridden_last = 0; // where the last row was counted: usually the next one, too
int overriding_guard = guc::kGuardOff;

Overridden *find_overridden(Oid root, const char *cluster, int nest) {
  const auto same = [&](const Overridden &o) {
    return o.root == root && o.nest == nest && strcmp(NameStr(o.cluster), cluster) == 0;
  };
  if (overridden_last < overridden_count && same(overridden[overridden_last]))
    return &overridden[overridden_last];
  for (int i = 0; i < overridden_count; i++)
    if (same(overridden[i]))
      return &overridden[overridden_last = i];
  return nullptr;
}

void count_refused(Oid relation) {
  pg::TableStat delta{};
  delta.guard_refused = 1;
  pg::add_table_stat(relation, "", delta);
}

void count_overridden(Oid root, const char *cluster) {
  const int nest = GetCurrentTransactionNestLevel();
  overriding_guard = guc::guard;
  if (Overridden *entry = find_overridden(root, cluster, nest)) {
    entry->rows++;
    return;
  }
  if (overridden_count == overridden_room) {
    const int room = Max(8, 2 * overridden_room);
    const Size size = sizeof(Overridden) * static_cast<Size>(room);
    overridden = static_cast<Overridden *>(overridden == nullptr ? MemoryContextAlloc(TopTransactionContext, size)
                                                                 : repalloc(overridden, size));
    overridden_room = room;
  }
  Overridden *entry = &overridden[overridden_last = overridden_count++];
  entry->root = root;
  namestrcpy(&entry->cluster, cluster);
  entry->nest = nest;
  entry->rows = 1;
}

/// Whether a change to a foreign cluster's rows may go on.
void check_foreign(const config::Table *table, const config::Cluster *cluster, const char *verb) {
  if (guc::guard == guc::kGuardRefuse) {
    count_refused(table->root);
    report_foreign(ERROR, table, cluster, verb);
  }
  count_overridden(table->root, NameStr(cluster->name));
  if (guc::guard == guc::kGuardWarn)
    report_foreign(WARNING, table, cluster, verb);
}

} // namespace

const config::Cluster *guarded_cluster(config::Table *table, const config::Cluster *cluster, const char *verb) {
  if (likely(cluster != nullptr && cluster->primary_here))
    return cluster;
  if (cluster == nullptr) {
    // With the guard off a homeless row may be cleaned up, but nobody would ever see it shipped.
    if (guc::guard == guc::kGuardRefuse)
      refuse_homeless(table);
    count_overridden(table->root, "");
    return nullptr;
  }
  if (ours_but_detached(cluster))
    refuse_detached(table, verb);
  check_foreign(table, cluster, verb);
  return nullptr;
}

void tell_overridden() {
  for (int i = 0; i < overridden_count; i++) {
    const Overridden &entry = overridden[i];
    pg::TableStat delta{};
    delta.guard_overridden = entry.rows;
    pg::add_table_stat(entry.root, "", delta);
    config::note_event("guard_override", config::table_scope(entry.root), nullptr,
                       {{"cluster", NameStr(entry.cluster)[0] != '\0' ? NameStr(entry.cluster) : nullptr},
                        {"guard", overriding_guard == guc::kGuardWarn ? "warn" : "off"},
                        {"rows", entry.rows}});
  }
  forget_overridden();
}

void forget_overridden() noexcept {
  overridden = nullptr; // goes with the transaction
  overridden_count = overridden_room = overridden_last = 0;
}

void end_overridden_level(int nest, bool committed) {
  int kept = 0;
  for (int i = 0; i < overridden_count; i++) {
    Overridden entry = overridden[i];
    if (entry.nest >= nest && !committed)
      continue;
    if (entry.nest >= nest) {
      entry.nest = nest - 1;
      bool merged = false;
      for (int k = 0; k < kept && !merged; k++)
        if (overridden[k].root == entry.root && overridden[k].nest == entry.nest &&
            strcmp(NameStr(overridden[k].cluster), NameStr(entry.cluster)) == 0) {
          overridden[k].rows += entry.rows;
          merged = true;
        }
      if (merged)
        continue;
    }
    overridden[kept++] = entry;
  }
  overridden_count = kept;
}

void guard_truncate(config::Table *table) {
  if (table->constant_cluster != nullptr && ours_but_detached(table->constant_cluster))
    refuse_detached(table, "truncate");
  for (int i = 0; table->constant_cluster == nullptr && i < config::cluster_count(); i++)
    if (ours_but_detached(config::cluster_at(i)))
      refuse_detached(table, "truncate");
  if (table->constant_cluster != nullptr) {
    if (!table->constant_cluster->primary_here)
      check_foreign(table, table->constant_cluster, "truncate");
    return;
  }
  for (int i = 0; i < config::cluster_count(); i++) {
    const config::Cluster *cluster = config::cluster_at(i);
    if (cluster->primary_here)
      continue;
    if (guc::guard == guc::kGuardRefuse) {
      count_refused(table->root);
      ereport(ERROR, errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
              errmsg("cannot truncate table \"%s\": cluster \"%s\" has its primary on node \"%s\"",
                     qualified_name(table->root), NameStr(cluster->name),
                     NameStr(cluster->primary_node)),
              errdetail("TRUNCATE would remove the rows of every cluster."),
              errhint("DELETE FROM %s WHERE … removes the rows of one cluster.",
                      qualified_name(table->root)));
    }
    check_foreign(table, cluster, "truncate");
  }
}

} // namespace seal_sync::capture

// See guard.hpp.
#include "capture/guard.hpp"

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

// Counted per transaction and table, not per row: the counters stand behind a lock.
Oid overridden_table = InvalidOid;
int64 overridden_rows = 0;

void count_refused(Oid relation) {
  pg::TableStat delta{};
  delta.guard_refused = 1;
  pg::add_table_stat(relation, "", delta);
}

void count_overridden(Oid relation) {
  if (relation != overridden_table)
    flush_guard_counts();
  overridden_table = relation;
  overridden_rows++;
}

/// Whether a change to a foreign cluster's rows may go on.
void check_foreign(const config::Table *table, const config::Cluster *cluster, const char *verb) {
  if (guc::guard == guc::kGuardRefuse) {
    count_refused(table->root);
    report_foreign(ERROR, table, cluster, verb);
  }
  count_overridden(table->root);
  if (guc::guard == guc::kGuardWarn)
    report_foreign(WARNING, table, cluster, verb);
}

} // namespace

const config::Cluster *guarded_cluster(config::Table *table, TupleTableSlot *row, const char *verb) {
  const config::Cluster *cluster = config::cluster_of(table, row);
  if (likely(cluster != nullptr && cluster->primary_here))
    return cluster;
  if (cluster == nullptr) {
    // With the guard off a homeless row may be cleaned up, but nobody would ever see it shipped.
    if (guc::guard == guc::kGuardRefuse)
      refuse_homeless(table);
    return nullptr;
  }
  check_foreign(table, cluster, verb);
  return nullptr;
}

void flush_guard_counts() {
  if (overridden_rows > 0) {
    pg::TableStat delta{};
    delta.guard_overridden = overridden_rows;
    pg::add_table_stat(overridden_table, "", delta);
  }
  overridden_rows = 0;
  overridden_table = InvalidOid;
}

void guard_truncate(config::Table *table) {
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

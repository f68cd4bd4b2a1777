// table_digest(): two sums of a cluster's rows of a table that are equal on two servers if, and only if, the rows are.
#include "config/config.hpp"
#include "pg/boundary.hpp"
#include "pg/varlena.hpp"
#include "reconcile/canonical_value.hpp"
#include "reconcile/table_scan.hpp"
#include "scan/keys.hpp"

extern "C" {
#include "utils/rls.h"
}

namespace seal_sync::sql_api {

namespace {

/// All of it, or nothing: what row security hides would look like a difference.
void check_rights(Oid relation) {
  const AclResult result = pg_class_aclcheck(relation, GetUserId(), ACL_SELECT);
  if (result != ACLCHECK_OK)
    aclcheck_error(result, OBJECT_TABLE, get_rel_name(relation));
  if (check_enable_rls(relation, InvalidOid, true) == RLS_ENABLED)
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("row security hides rows of table %s from role \"%s\"", get_rel_name(relation),
                                                                  GetUserNameFromId(GetUserId(), false)));
}

/// Locked before it is looked at; who waited for DDL would have an older snapshot than the table.
const config::Table *registered(Oid relation) {
  if (!ConditionalLockRelationOid(relation, AccessShareLock))
    ereport(ERROR, errcode(ERRCODE_LOCK_NOT_AVAILABLE), errmsg("table %s is locked by DDL", get_rel_name(relation)), errhint("Compare it afterwards."));
  if (get_rel_name(relation) == nullptr)
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", relation));
  check_rights(relation);
  config::refresh();
  const config::Table *table = config::find_table(relation);
  if (table == nullptr || table->root != relation)
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("table %s is not registered", get_rel_name(relation)),
            errhint("Add it with seal_sync.table_add."));
  return table;
}

const config::Cluster *declared(const char *name) {
  const config::Cluster *cluster = config::find_cluster(name);
  if (cluster == nullptr)
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("cluster \"%s\" does not exist", name));
  return cluster;
}

} // namespace

/// table_digest(relation, cluster, seed, OUT rows, OUT digest, OUT shape): digests of one seed can be compared where shapes are equal.
SEAL_SYNC_PG_FUNCTION(seal_sync_table_digest) {
  TupleDesc desc;
  if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "return type must be a row type");
  const Oid relation = PG_GETARG_OID(0);
  const config::Table *table = registered(relation);
  const config::Cluster *cluster = declared(NameStr(*PG_GETARG_NAME(1)));
  core::RunSeed seed;
  memcpy(seed.bytes, PG_GETARG_UUID_P(2)->data, sizeof seed.bytes);
  core::RunSecret secret;
  core::make_secret(&secret, seed);

  const int level = reconcile::pin_settings();
  const reconcile::ComparedTable *compared = reconcile::compared_table(table);
  core::Buffer shape;
  scan::init_buffer(&shape, CurrentMemoryContext);
  reconcile::describe_compared(&shape, compared);
  core::LookupCell cells[core::kLookupParts] = {};
  core::RowDigest digest;
  digest.table = {cells, 0};
  reconcile::digest_rows(compared, cluster, GetActiveSnapshot(), secret, &digest);
  AtEOXact_GUC(false, level);

  Datum values[3] = {Int64GetDatum(static_cast<int64>(digest.root.rows)), PointerGetDatum(pg::make_bytea({reinterpret_cast<const uint8 *>(&digest.root.sum), sizeof digest.root.sum})),
                     PointerGetDatum(pg::make_bytea(shape.span()))};
  bool nulls[3] = {};
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

} // namespace seal_sync::sql_api

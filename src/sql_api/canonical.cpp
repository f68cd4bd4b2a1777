// canonical_value(): the bytes that a comparison hashes of a value, to see why two rows are told apart.
#include "core/row_hash.hpp"
#include "pg/boundary.hpp"
#include "pg/varlena.hpp"
#include "reconcile/canonical_value.hpp"
#include "scan/keys.hpp"

namespace seal_sync::sql_api {

/// canonical_value(value "any"): the same bytes on every server for the same value, '\x00' for null.
SEAL_SYNC_PG_FUNCTION(seal_sync_canonical_value) {
  const Oid type = get_fn_expr_argtype(fcinfo->flinfo, 0);
  if (!OidIsValid(type))
    ereport(ERROR, errcode(ERRCODE_INDETERMINATE_DATATYPE), errmsg("could not determine the type of the value"));
  auto *plan = static_cast<const reconcile::CanonicalType *>(fcinfo->flinfo->fn_extra);
  const int level = reconcile::pin_settings();
  if (plan == nullptr) {
    const MemoryContext caller = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
    fcinfo->flinfo->fn_extra = const_cast<reconcile::CanonicalType *>(plan = reconcile::make_canonical(type, -1));
    MemoryContextSwitchTo(caller);
  }
  core::Buffer bytes;
  scan::init_buffer(&bytes, CurrentMemoryContext);
  reconcile::collect_canonical(&bytes, plan, PG_GETARG_DATUM(0), PG_ARGISNULL(0));
  AtEOXact_GUC(false, level);
  PG_RETURN_BYTEA_P(pg::make_bytea(bytes.span()));
}

} // namespace seal_sync::sql_api

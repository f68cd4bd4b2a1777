// SQL function seal_sync.wire_identity(): who this node is and what it speaks, for a peer that only looks.
//
// Unlike wire_hello it opens no conversation: no predecessor is ended, no generation issued.
#include "config/config.hpp"
#include "core/wire.hpp"
#include "pg/boundary.hpp"

namespace seal_sync::remote {

SEAL_SYNC_PG_FUNCTION(seal_sync_wire_identity) {
  TupleDesc descriptor;
  if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "return type must be a row type");
  config::refresh();
  const char *node = config::local_node();
  NameData name;
  namestrcpy(&name, node != nullptr ? node : "");
  Datum values[4] = {NameGetDatum(&name), Int32GetDatum(core::wire::kProtocolMin),
                     Int32GetDatum(core::wire::kProtocol), CStringGetTextDatum(SEAL_SYNC_VERSION)};
  bool nulls[4] = {node == nullptr, false, false, false};
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}

} // namespace seal_sync::remote

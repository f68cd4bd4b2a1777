// SQL function seal_sync.wire_standing(): what this node knows of a peer, asked by a copy of that peer before it speaks.
//
// Called by node_attach and node_adopt of the other side (sql_api/peer_standing). Unlike wire_hello it ends no connection and
// issues no generation: a copy that turns out to be one has done nothing. Invariant: only who knows the node's token and logs
// in as its first contact did learns anything. An older peer has no such function; the caller says so.
#include "apply/connected.hpp"
#include "apply/origin.hpp"
#include "apply/progress.hpp"
#include "config/condition.hpp"
#include "config/config.hpp"
#include "pg/boundary.hpp"
#include "pg/shared_state.hpp"
#include "scan/batch.hpp"

namespace seal_sync::sql_api {

namespace {

constexpr int64 kSilentUs = 30 * USECS_PER_SEC; // a connection that has said nothing for so long has lost its other end

enum Column { kState, kIssued, kConfirmed, kConnected, kLastContact, kBatch, kBatchId, kResends, kColumns };

pg_uuid_t *uuid_copy(const core::wire::Id &id) {
  auto *uuid = static_cast<pg_uuid_t *>(palloc(sizeof(pg_uuid_t)));
  memcpy(uuid->data, id.bytes, sizeof uuid->data);
  return uuid;
}

/// 0: unknown.
TimestampTz last_contact(const char *node) {
  TimestampTz contact = 0;
  if (pg::have_shared_state()) {
    LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
    if (const pg::OriginSlot *slot = pg::origin_slot(MyDatabaseId, node, false))
      contact = slot->last_contact_at;
    LWLockRelease(pg::shared_lock());
  }
  return contact;
}

/// Whether what this node has sent since the batch that the asker holds can be sent again.
bool can_resend(const char *node, bool has_batch, int64 batch, const pg_uuid_t *batch_id) {
  if (!has_batch)
    return scan::last_acknowledged(node).number == 0;
  core::wire::Id id;
  memcpy(id.bytes, batch_id->data, sizeof id.bytes);
  const scan::HistoryEntry acknowledged = scan::last_acknowledged(node);
  return (acknowledged.found && acknowledged.number == static_cast<uint64>(batch) && acknowledged.id == id) ||
         scan::find_in_history(node, static_cast<uint64>(batch), id).found;
}

} // namespace

SEAL_SYNC_PG_FUNCTION(seal_sync_wire_standing) {
  TupleDesc descriptor;
  if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE)
    elog(ERROR, "return type must be a row type");
  Datum values[kColumns] = {};
  bool nulls[kColumns];
  memset(nulls, true, sizeof nulls);
  const auto set = [&](Column column, Datum value) {
    values[column] = value;
    nulls[column] = false;
  };

  config::refresh();
  if (!PG_ARGISNULL(0) && !PG_ARGISNULL(1) && config::local_node() != nullptr) {
    const NameData node = *PG_GETARG_NAME(0);
    const apply::OriginRow row = apply::read_origin(node);
    const char *const login = GetUserNameFromId(GetSessionUserId(), false);
    if (!row.found) {
      set(kState, CStringGetTextDatum(config::peer_exists(NameStr(node)) ? "unheard" : "no_peer"));
    } else if (memcmp(&row.token, PG_GETARG_UUID_P(1), sizeof row.token) != 0 || strcmp(login, NameStr(row.login)) != 0) {
      set(kState, CStringGetTextDatum("stranger"));
    } else {
      const apply::Applied last = apply::last_applied(NameStr(node));
      const bool has_batch = !PG_ARGISNULL(2) && !PG_ARGISNULL(3) && PG_GETARG_INT64(2) > 0;
      set(kState, CStringGetTextDatum("known"));
      set(kIssued, Int64GetDatum(static_cast<int64>(row.issued)));
      set(kConfirmed, Int64GetDatum(static_cast<int64>(row.confirmed)));
      const TimestampTz contact = last_contact(NameStr(node));
      const bool silent = contact != 0 && contact < GetCurrentTimestamp() - kSilentUs;
      set(kConnected, BoolGetDatum(apply::is_connected(node) && !silent));
      if (contact != 0)
        set(kLastContact, TimestampTzGetDatum(contact));
      if (last.found) {
        set(kBatch, Int64GetDatum(last.batch));
        set(kBatchId, UUIDPGetDatum(uuid_copy(last.id)));
      }
      set(kResends, BoolGetDatum(can_resend(NameStr(node), has_batch, has_batch ? PG_GETARG_INT64(2) : 0,
                                            has_batch ? PG_GETARG_UUID_P(3) : nullptr)));
    }
  }
  PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}

} // namespace seal_sync::sql_api

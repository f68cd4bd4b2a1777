// See change_log.hpp.
#include "capture/change_log.hpp"

#include "config/config.hpp"
#include "pg/shared_state.hpp"

namespace seal_sync::capture {

namespace {
int chosen_segment = -1; // of this transaction
}

void end_of_transaction() noexcept { chosen_segment = -1; }

void append_to_log(const core::ByteSpan *payloads, int count) {
  if (count == 0)
    return;
  if (chosen_segment < 0) {
    pg::DatabaseSlot *slot = pg::my_database_slot();
    chosen_segment = slot == nullptr ? 0 : static_cast<int>(pg_atomic_read_u32(&slot->segment) % config::kSegments);
  }
  const Oid oid = config::change_log_segment(chosen_segment);
  if (!OidIsValid(oid))
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("the change log of seal_sync does not exist"));

  const Relation log = table_open(oid, RowExclusiveLock);
  List *indexes = RelationGetIndexList(log);
  const Relation index = index_open(linitial_oid(indexes), RowExclusiveLock);
  IndexInfo *info = BuildIndexInfo(index);
  const Datum xid = FullTransactionIdGetDatum(GetTopFullTransactionId());

  for (int i = 0; i < count; i++) {
    const size_t size = payloads[i].size() + VARHDRSZ;
    auto *entries = static_cast<struct varlena *>(palloc(size));
    SET_VARSIZE(entries, size);
    memcpy(VARDATA(entries), payloads[i].data(), payloads[i].size());
    Datum values[2] = {xid, PointerGetDatum(entries)};
    bool nulls[2] = {false, false};
    const HeapTuple tuple = heap_form_tuple(RelationGetDescr(log), values, nulls);
    heap_insert(log, tuple, GetCurrentCommandId(true), 0, nullptr);
    index_insert(index, values, nulls, &tuple->t_self, log, UNIQUE_CHECK_NO, false, info);
    heap_freetuple(tuple);
    pfree(entries);
  }
  pgstat_count_heap_insert(log, count);
  pfree(info);
  list_free(indexes);
  index_close(index, RowExclusiveLock);
  table_close(log, NoLock);
}

} // namespace seal_sync::capture

// See sequence.hpp.
#include "pg/sequence.hpp"

namespace seal_sync::pg {

namespace {

constexpr uint32 kSequenceMagic = 0x1717; // commands/sequence.c

/// The one tuple of a sequence, its page pinned and locked.
struct Tuple {
  Buffer buffer;
  HeapTupleData tuple;
  Form_pg_sequence_data data;
};

Tuple lock_tuple(Relation relation, int mode) {
  Tuple found = {};
  found.buffer = ReadBuffer(relation, 0);
  LockBuffer(found.buffer, mode);
  const Page page = BufferGetPage(found.buffer);
  const uint32 *magic = reinterpret_cast<const uint32 *>(PageGetSpecialPointer(page));
  const ItemId item = PageGetItemId(page, FirstOffsetNumber);
  if (*magic != kSequenceMagic || !ItemIdIsNormal(item))
    ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED),
            errmsg("sequence \"%s\" cannot be read", RelationGetRelationName(relation)));
  found.tuple.t_data = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
  found.tuple.t_len = ItemIdGetLength(item);
  found.data = reinterpret_cast<Form_pg_sequence_data>(GETSTRUCT(&found.tuple));
  return found;
}

bool read_counting(Oid sequence, SequenceState *state) {
  const HeapTuple tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(sequence));
  if (!HeapTupleIsValid(tuple))
    return false;
  const auto *form = reinterpret_cast<Form_pg_sequence>(GETSTRUCT(tuple));
  state->counting.increment = form->seqincrement;
  state->counting.start = form->seqstart;
  state->counting.min = form->seqmin;
  state->counting.max = form->seqmax;
  state->counting.cycle = form->seqcycle;
  state->cache = form->seqcache;
  ReleaseSysCache(tuple);
  return true;
}

/// Runs fn(relation) with the lock of nextval(), when it is to be had at once. A weaker one does not conflict with ALTER SEQUENCE:
/// a moment after its commit, which may just have woken us, it is not in our caches yet, and its old file is on the way out.
template <typename Fn> SequenceAccess with_lock(Oid sequence, SequenceState *state, Fn fn) {
  constexpr LOCKMODE mode = RowExclusiveLock;
  if (!ConditionalLockRelationOid(sequence, mode))
    return SequenceAccess::kBusy;
  const Relation relation = try_relation_open(sequence, NoLock);
  if (relation == nullptr || relation->rd_rel->relkind != RELKIND_SEQUENCE || !read_counting(sequence, state)) {
    if (relation != nullptr)
      relation_close(relation, NoLock);
    UnlockRelationOid(sequence, mode);
    return SequenceAccess::kGone;
  }
  fn(relation);
  relation_close(relation, NoLock);
  UnlockRelationOid(sequence, mode);
  return SequenceAccess::kDone;
}

} // namespace

SequenceAccess read_sequence(Oid sequence, SequenceState *state) {
  return with_lock(sequence, state, [state](Relation relation) {
    const Tuple found = lock_tuple(relation, BUFFER_LOCK_SHARE);
    state->last_value = found.data->last_value;
    state->is_called = found.data->is_called;
    UnlockReleaseBuffer(found.buffer);
  });
}

SequenceAccess advance_sequence(Oid sequence, int64 target, SequenceState *state) {
  return with_lock(sequence, state, [=](Relation relation) {
    const core::Counting &counting = state->counting;
    if (RelationNeedsWAL(relation))
      GetTopTransactionId(); // so that COMMIT flushes what is written below
    Tuple found = lock_tuple(relation, BUFFER_LOCK_EXCLUSIVE);
    const int64 last = found.data->last_value;
    const bool further = found.data->is_called ? core::beyond(target, last, counting.ascending())
                                               : !core::beyond(last, target, counting.ascending());
    if (further && target >= counting.min && target <= counting.max) {
      START_CRIT_SECTION();
      MarkBufferDirty(found.buffer);
      found.data->last_value = target;
      found.data->is_called = true;
      found.data->log_cnt = 0;
      if (RelationNeedsWAL(relation))
        PageSetLSN(BufferGetPage(found.buffer), log_sequence(relation, found.buffer, found.tuple.t_data, found.tuple.t_len));
      END_CRIT_SECTION();
    }
    state->last_value = found.data->last_value;
    state->is_called = found.data->is_called;
    UnlockReleaseBuffer(found.buffer);
  });
}

} // namespace seal_sync::pg

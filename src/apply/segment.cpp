// See segment.hpp.
#include "apply/segment.hpp"

#include "apply/later_inserts.hpp"
#include "apply/row_writer.hpp"
#include "apply/unique_rechecks.hpp"

namespace seal_sync::apply {

namespace {

struct TargetEntry {
  uint64 number; // hash key
  Target *target;
};

/// One segment in a subtransaction. nullptr when it went through, else why it was rolled back.
ErrorData *try_segment(Attempt *attempt, SegmentWork work, void *argument) {
  const MemoryContext caller = CurrentMemoryContext;
  const ResourceOwner owner = CurrentResourceOwner;
  const uint64 rechecks = recheck_mark(attempt);
  const int64 later = later_mark(attempt);
  const uint64 counts[] = {attempt->inserted, attempt->updated, attempt->deleted, attempt->unchanged};
  ErrorData *volatile error = nullptr;

  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(caller);
  PG_TRY();
  {
    begin_segment(attempt);
    work(attempt, argument);
    end_segment(attempt);
    ReleaseCurrentSubTransaction();
    attempt->subtransactions += 1;
  }
  PG_CATCH();
  {
    MemoryContextSwitchTo(attempt->context);
    error = CopyErrorData();
    FlushErrorState();
    RollbackAndReleaseCurrentSubTransaction();
    MemoryContextSwitchTo(attempt->context);
    if (attempt->current.descriptor != nullptr) { // its bytes go with the segment's memory
      MemoryContextSwitchTo(attempt->rows);
      const core::ByteSpan key = current_key(attempt);
      MemoryContextSwitchTo(attempt->context);
      auto *copy = static_cast<uint8 *>(palloc(key.size() + 1));
      memcpy(copy, key.data(), key.size());
      attempt->current.bytes = {copy, key.size()};
      attempt->current.columns = nullptr;
    }
    // Closed with their resource owner; only memory is left of them.
    MemoryContextReset(attempt->segment);
    attempt->targets = nullptr;
    forget_rechecks(attempt, rechecks);
    forget_later(attempt, later);
    attempt->inserted = counts[0];
    attempt->updated = counts[1];
    attempt->deleted = counts[2];
    attempt->unchanged = counts[3];
  }
  PG_END_TRY();
  MemoryContextSwitchTo(caller);
  CurrentResourceOwner = owner;
  if (error != nullptr && (!is_row_error(error) || attempt->current.descriptor == nullptr))
    ReThrowError(error);
  return error;
}

void note_written(Attempt *attempt, const Target *target) {
  if (target->written == 0)
    return;
  const MemoryContext caller = MemoryContextSwitchTo(attempt->context);
  auto *rows = static_cast<WrittenRows *>(palloc(sizeof(WrittenRows)));
  *rows = {RelationGetRelid(target->relation), target->written};
  attempt->written = lappend(attempt->written, rows);
  MemoryContextSwitchTo(caller);
}

} // namespace

void begin_segment(Attempt *attempt) {
  HASHCTL control = {};
  control.keysize = sizeof(uint64);
  control.entrysize = sizeof(TargetEntry);
  control.hcxt = attempt->segment;
  attempt->targets =
      hash_create("seal_sync open tables", 32, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  attempt->current = {};
}

void end_segment(Attempt *attempt) {
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, attempt->targets);
  while (auto *entry = static_cast<TargetEntry *>(hash_seq_search(&status))) {
    note_written(attempt, entry->target);
    close_target(entry->target);
  }
  attempt->targets = nullptr;
  attempt->current = {};
  MemoryContextReset(attempt->segment);
}

Target *segment_target(Attempt *attempt, Descriptor *descriptor) {
  auto *entry = static_cast<TargetEntry *>(
      hash_search(attempt->targets, &descriptor->number, HASH_FIND, nullptr));
  if (entry != nullptr)
    return entry->target;
  const MemoryContext caller = MemoryContextSwitchTo(attempt->segment);
  Target *const target = open_target(attempt, descriptor);
  entry = static_cast<TargetEntry *>(
      hash_search(attempt->targets, &descriptor->number, HASH_ENTER, nullptr));
  entry->target = target;
  MemoryContextSwitchTo(caller);
  check_claims(attempt); // roles are read after the table's lock
  return target;
}

namespace {

/// The row that failed, with the reason; its bytes are a copy (try_segment).
struct Failure {
  ErrorData *error;
  CurrentRow row;
};

void forget_failure(Failure *failure) {
  if (failure->error == nullptr)
    return;
  FreeErrorData(failure->error);
  pfree(const_cast<uint8 *>(failure->row.bytes.data()));
  *failure = {};
}

} // namespace

void run_careful(Attempt *attempt, SegmentWork work, void *argument, SetRange set_range) {
  constexpr uint64 kEnd = PG_UINT64_MAX;
  uint64 from = 0, until = kEnd;
  Failure failure = {}; // of the row at `until`
  for (;;) {
    set_range(argument, from, until);
    ErrorData *const error = try_segment(attempt, work, argument);
    if (error == nullptr && until == kEnd)
      return;
    if (error != nullptr) {
      forget_failure(&failure);
      failure = {error, attempt->current};
      until = attempt->position;
      if (until > from)
        continue; // those before it are good, or will fail themselves when run again
    }
    attempt->current = failure.row;
    refuse_current(attempt, failure.error);
    attempt->current = {};
    forget_failure(&failure);
    from = until + 1;
    until = kEnd;
  }
}

} // namespace seal_sync::apply

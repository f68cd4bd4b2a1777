// See careful.hpp.
#include "apply/careful.hpp"

#include "apply/later_inserts.hpp"
#include "apply/other_keys.hpp"
#include "apply/segment.hpp"
#include "apply/unique_rechecks.hpp"

namespace seal_sync::apply {

namespace {

constexpr uint64 kEnd = PG_UINT64_MAX;

// A level has at most kFanOut - 1 finished parts while it works on another, and a subtransaction around
// them: 5 * 8 ids. The topmost level has no bound of its own; below kMaxRefusals it has up to four parts.
constexpr int kFanOut = 8;
constexpr int kLevels = 5;

struct Work {
  SegmentWork work;
  void *argument;
  SetRange set_range;
};

/// What an attempt has noted outside of the database, to be put back after a rollback.
struct Mark {
  uint64 rechecks;
  int64 later;
  uint64 inserted, updated, deleted, unchanged;
  int written;
  int subtransactions;
};

Mark mark(const Attempt *attempt) {
  return {recheck_mark(attempt),     later_mark(attempt),  attempt->inserted,
          attempt->updated,          attempt->deleted,     attempt->unchanged,
          list_length(attempt->written), attempt->subtransactions};
}

void return_to(Attempt *attempt, const Mark &mark) {
  forget_rechecks(attempt, mark.rechecks);
  forget_later(attempt, mark.later);
  attempt->inserted = mark.inserted;
  attempt->updated = mark.updated;
  attempt->deleted = mark.deleted;
  attempt->unchanged = mark.unchanged;
  attempt->written = list_truncate(attempt->written, mark.written);
  attempt->subtransactions = mark.subtransactions;
}

/// One segment in a subtransaction. nullptr when it went through, else why it was rolled back; the row
/// to blame is attempt->current then.
ErrorData *try_segment(Attempt *attempt, const Work &work, uint64 from, uint64 until) {
  const MemoryContext caller = CurrentMemoryContext;
  const ResourceOwner owner = CurrentResourceOwner;
  const Mark before = mark(attempt);
  ErrorData *volatile error = nullptr;

  work.set_range(work.argument, from, until);
  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(caller);
  PG_TRY();
  {
    begin_segment(attempt);
    work.work(attempt, work.argument);
    end_segment(attempt);
    if (TransactionIdIsValid(GetCurrentTransactionIdIfAny()))
      attempt->subtransactions += 1;
    ReleaseCurrentSubTransaction();
  }
  PG_CATCH();
  {
    MemoryContextSwitchTo(attempt->context);
    error = CopyErrorData();
    FlushErrorState();
    attempt->probe = note_probe(attempt, error);
    attempt->writing = {};
    RollbackAndReleaseCurrentSubTransaction();
    if (attempt->current.descriptor != nullptr) { // the chunk that has its bytes goes with the segment
      attempt->current.bytes = keep_current_key(attempt);
      attempt->current.columns = nullptr;
    }
    // Closed with their resource owner; only memory is left of them.
    MemoryContextReset(attempt->segment);
    attempt->targets = nullptr;
    return_to(attempt, before);
  }
  PG_END_TRY();
  MemoryContextSwitchTo(caller);
  CurrentResourceOwner = owner;
  if (error != nullptr && (!is_row_error(error) || attempt->current.descriptor == nullptr))
    ReThrowError(error);
  return error;
}

/// The row that failed, with the reason.
struct Failure {
  ErrorData *error;
  CurrentRow row;
  UniqueProbe *probe; // nullptr: not of a unique value
};

void forget(Failure *failure) {
  if (failure->error == nullptr)
    return;
  FreeErrorData(failure->error);
  free_probe(failure->probe);
  pfree(const_cast<uint8 *>(failure->row.bytes.data()));
  *failure = {};
}

void refuse_failed(Attempt *attempt, Failure *failure) {
  attempt->current = failure->row;
  OtherKey other;
  if (failure->probe != nullptr && find_conflict(attempt, failure->probe, nullptr, &other))
    attempt->other = &other;
  refuse_current(attempt, failure->error);
  attempt->other = nullptr;
  attempt->current = {};
  MemoryContextReset(attempt->rows);
  forget(failure);
}

/// Writes up to the first row that fails, and refuses that one. Returns where to go on.
uint64 write_to_failure(Attempt *attempt, const Work &work, uint64 from, uint64 until) {
  Failure failure = {}; // of the row at `end`
  uint64 end = until;
  do {
    ErrorData *const error = try_segment(attempt, work, from, end);
    if (error == nullptr)
      break;
    forget(&failure);
    failure = {error, attempt->current, attempt->probe};
    end = attempt->position; // those before it are good, or will fail themselves when run again
  } while (end > from);
  if (failure.error == nullptr)
    return until;
  refuse_failed(attempt, &failure);
  return end + 1;
}

/// Begins a subtransaction that costs no memory of its own until something is written in it.
void begin_around() {
  const MemoryContext caller = CurrentMemoryContext;
  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(caller);
}

void end_around(ResourceOwner owner, bool keep) {
  const MemoryContext caller = CurrentMemoryContext;
  if (keep)
    ReleaseCurrentSubTransaction();
  else
    RollbackAndReleaseCurrentSubTransaction();
  MemoryContextSwitchTo(caller);
  CurrentResourceOwner = owner;
}

/// Writes from `from` on until kFanOut parts of the next lower level have been kept, and makes one of
/// them, or to the end. Returns where to go on. What cannot be a row's error passes through: then the
/// transaction ends, and these subtransactions with it.
uint64 write_part(Attempt *attempt, const Work &work, int level, uint64 from) {
  if (level == 0)
    return write_to_failure(attempt, work, from, kEnd);
  const bool topmost = level > kLevels;
  const ResourceOwner owner = CurrentResourceOwner;
  const Mark before = mark(attempt);
  const auto kept = [&] { return attempt->subtransactions - before.subtransactions; };
  begin_around();
  uint64 next = from;
  do
    next = write_part(attempt, work, level - 1, next);
  while (next != kEnd && (topmost || kept() < kFanOut));
  // Few refused rows, as usual: there is not much to make one of.
  const bool good_as_it_is = topmost ? kept() <= kFanOut : next == kEnd;
  end_around(owner, good_as_it_is);
  if (good_as_it_is)
    return next;
  return_to(attempt, before);
  for (uint64 again = from; again < next;) // once, unless a row fails that did not before
    again = write_to_failure(attempt, work, again, next);
  return next;
}

} // namespace

void run_careful(Attempt *attempt, SegmentWork work, void *argument, SetRange set_range) {
  (void)write_part(attempt, {work, argument, set_range}, kLevels + 1, 0);
}

} // namespace seal_sync::apply

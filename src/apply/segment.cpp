// See segment.hpp.
#include "apply/segment.hpp"

namespace seal_sync::apply {

namespace {

struct TargetEntry {
  uint64 number; // hash key
  Target *target;
};

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

} // namespace seal_sync::apply

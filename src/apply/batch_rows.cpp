// See batch_rows.hpp.
#include "apply/batch_rows.hpp"

#include "apply/reply.hpp"
#include "apply/row_writer.hpp"
#include "apply/section_rows.hpp"
#include "apply/segment.hpp"
#include "apply/staged_batch.hpp"
#include "apply/superseded.hpp"
#include "apply/wire_row.hpp"

namespace seal_sync::apply {

namespace {

constexpr Size kRunBytes = 1024 * 1024;

/// A section while its rows are walked.
struct Open {
  Attempt *attempt;
  BatchRows *rows;
  Target *target;
  uint8 kind;
  const int *columns; // sent columns of each row
  int column_count;
  WireValue *values;
  int run_limit;
  // the run being collected
  int run;
  Size run_bytes;
  Ordinal ordinals[Target::kRun];
  core::ByteSpan bytes[Target::kRun];
};

void count(Attempt *attempt, Outcome outcome) {
  switch (outcome) {
  case Outcome::kInserted:
    attempt->inserted += 1;
    break;
  case Outcome::kUpdated:
    attempt->updated += 1;
    break;
  case Outcome::kDeleted:
    attempt->deleted += 1;
    break;
  case Outcome::kUnchanged:
    attempt->unchanged += 1;
    break;
  case Outcome::kRefused:
  case Outcome::kWanted:
  case Outcome::kLater:
    break;
  }
}

// ---- one section --------------------------------------------------------------------------------

/// Tells the executor and merge() what is sent.
void announce_columns(Open *open) {
  Target *const target = open->target;
  memset(target->sent, 0, sizeof(bool) * RelationGetDescr(target->relation)->natts);
  Bitmapset *updated = nullptr;
  for (int i = 0; i < open->column_count; ++i) {
    const AttrNumber attno = target->descriptor->columns[open->columns[i]].attno;
    if (attno == 0)
      continue;
    target->sent[attno - 1] = true;
    updated = bms_add_member(updated, attno - FirstLowInvalidHeapAttributeNumber);
  }
  *target->updated_columns = updated;
}

void decode_row(Open *open, TupleTableSlot *slot) {
  Target *const target = open->target;
  const int natts = slot->tts_tupleDescriptor->natts;
  memset(slot->tts_values, 0, sizeof(Datum) * natts);
  memset(slot->tts_isnull, true, sizeof(bool) * natts);
  for (int i = 0; i < open->column_count; ++i) {
    const int column = open->columns[i];
    const AttrNumber attno = target->descriptor->columns[column].attno;
    if (attno == 0)
      continue;
    ValueDecoder *const decoder = &target->decoders[column];
    if (!open->values[i].null) {
      slot->tts_values[attno - 1] = decode_value(decoder, open->values[i].bytes);
      slot->tts_isnull[attno - 1] = false;
    } else {
      check_null(decoder);
    }
  }
  ExecStoreVirtualTuple(slot);
}

void set_current(Open *open, int i) {
  CurrentRow &current = open->attempt->current;
  current.ordinal = open->ordinals[i];
  current.descriptor = open->target->descriptor;
  current.kind = open->kind;
  current.bytes = open->bytes[i];
  current.columns = open->columns;
  current.column_count = open->column_count;
  open->attempt->position = open->ordinals[i];
}

void write_one(Open *open, int i) {
  Attempt *const attempt = open->attempt;
  set_current(open, i);
  TupleTableSlot *const row = open->target->incoming[i];
  const Outcome outcome = open->kind == 'D' ? delete_row(attempt, open->target, row)
                                            : put_row(attempt, open->target, row, open->kind == 'W');
  if (outcome == Outcome::kWanted)
    want(&attempt->session->notes, attempt->current.ordinal, wire_number(attempt, open->target->descriptor),
         current_key(attempt));
  count(attempt, outcome);
  if (attempt->careful)
    end_after_query(open->target); // an error there is this row's
}

void flush_run(Open *open) {
  Attempt *const attempt = open->attempt;
  open->target->written += open->run;
  if (open->run > 1 && insert_run(attempt, open->target, open->run, open->ordinals))
    attempt->inserted += static_cast<uint64>(open->run);
  else
    for (int i = 0; i < open->run; ++i)
      write_one(open, i);
  for (int i = 0; i < open->run; ++i)
    ExecClearTuple(open->target->incoming[i]);
  open->run = 0;
  open->run_bytes = 0;
  MemoryContextReset(attempt->rows);
  CHECK_FOR_INTERRUPTS();
}

/// Whether the row takes part in this attempt.
bool takes_part(Open *open, Ordinal ordinal) {
  BatchNotes *const notes = &open->attempt->session->notes;
  if (ordinal < open->rows->from || is_refused(notes, ordinal) || is_superseded(open->attempt->superseded, ordinal))
    return false;
  // Its whole row, or its delete, has been put since.
  return open->kind != 'P' || !is_wanted(notes, ordinal);
}

/// Answers are put for the batch: a staged row is older than the question.
void note_answer(Open *open, Ordinal ordinal) {
  BatchNotes *const notes = &open->attempt->session->notes;
  if (notes->unanswered == 0 || open->kind == 'P' || ordinal < ordinal_of(staged_chunks(open->attempt), 0))
    return;
  core::Buffer key = make_buffer(open->attempt->rows);
  if (!write_key(&key, open->target->descriptor, open->columns, open->column_count, open->values))
    damaged_message("data");
  answer_wanted(notes, open->target->number, key.span());
}

void check_key(const Open *open) {
  for (int i = 0; i < open->column_count; ++i)
    if (open->values[i].null && open->target->descriptor->columns[open->columns[i]].key_position != 0)
      damaged_message("data");
}

/// False: the end of the range was reached.
bool walk_section(Attempt *attempt, BatchRows *rows, int64 dialect, const core::wire::Section &section, Ordinal first) {
  attempt->current = {};
  if (section.rows == 0)
    return true;
  if (first >= rows->until)
    return false;
  Open *const open = static_cast<Open *>(palloc0(sizeof(Open)));
  open->attempt = attempt;
  open->rows = rows;
  open->kind = section.kind;
  open->target = segment_target(attempt, batch_descriptor(attempt, dialect, section.table));
  const SectionRows shape = section_rows(open->target->descriptor, section);
  open->columns = shape.columns;
  open->column_count = shape.column_count;
  core::Reader body = shape.body;
  open->values = static_cast<WireValue *>(palloc(sizeof(WireValue) * open->column_count));
  open->run_limit = open->kind == 'W' && !attempt->careful && open->target->only != nullptr ? Target::kRun : 1;
  announce_columns(open);

  const OwnerScope scope = become_owner(open->target->owner);
  const MemoryContext caller = MemoryContextSwitchTo(attempt->rows);
  bool more = true;
  for (uint64 i = 0; i < section.rows; ++i) {
    const uint8 *const start = body.position();
    if (!parse_row(body, open->target->descriptor, open->columns, open->column_count, open->values))
      damaged_message("data");
    const Ordinal ordinal = first + i;
    if (ordinal >= rows->until) {
      more = false;
      break;
    }
    if (!takes_part(open, ordinal))
      continue;
    check_key(open);
    note_answer(open, ordinal);
    open->ordinals[open->run] = ordinal;
    open->bytes[open->run] = {start, static_cast<std::size_t>(body.position() - start)};
    set_current(open, open->run);
    decode_row(open, incoming_slot(open->target, open->run));
    open->run_bytes += open->bytes[open->run].size();
    open->run += 1;
    if (open->run == open->run_limit || open->run_bytes >= kRunBytes)
      flush_run(open);
  }
  if (open->run > 0)
    flush_run(open);
  if (more && !body.at_end())
    damaged_message("data");
  end_after_query(open->target);
  MemoryContextSwitchTo(caller);
  leave_owner(scope);
  attempt->current = {};
  CommandCounterIncrement();
  pfree(open);
  return more;
}

/// False: the end of the range was reached, or more whole rows are wanted than one attempt notes.
bool walk_chunk(Attempt *attempt, BatchRows *rows, const BatchChunk &chunk, Ordinal first) {
  core::wire::SectionReader sections(chunk.bytes);
  core::wire::Section section;
  while (sections.next(section)) {
    if (section.rows > 0 && first + section.rows > rows->from && !walk_section(attempt, rows, chunk.dialect, section, first))
      return false;
    first += section.rows;
    if (attempt->session->notes.wanted_count - attempt->wanted_before >= kMaxWanted)
      return false;
  }
  if (sections.damaged())
    damaged_message("data");
  return true;
}

} // namespace

void walk_rows(Attempt *attempt, void *argument) {
  auto *rows = static_cast<BatchRows *>(argument);
  const uint32 chunks = batch_chunks(attempt);
  const MemoryContext chunk_context =
      AllocSetContextCreate(attempt->segment, "seal_sync chunk", ALLOCSET_DEFAULT_SIZES);
  const MemoryContext caller = MemoryContextSwitchTo(chunk_context);
  bool more = true;
  seek_superseded(attempt->superseded, rows->from);
  for (uint32 i = static_cast<uint32>(Min(rows->from >> 32, chunks)); i < chunks && more; ++i) {
    more = walk_chunk(attempt, rows, read_batch_chunk(attempt, i), ordinal_of(i, 0));
    MemoryContextReset(chunk_context);
  }
  if (more)
    (void)walk_chunk(attempt, rows, {rows->last_chunk, 0, 0}, ordinal_of(kLastChunk, 0));
  MemoryContextSwitchTo(caller);
}

void walk_one_chunk(Attempt *attempt, core::ByteSpan chunk, Ordinal first) {
  BatchRows rows = {attempt, {}, 0, PG_UINT64_MAX};
  const MemoryContext caller = MemoryContextSwitchTo(attempt->segment);
  (void)walk_chunk(attempt, &rows, {chunk, 0, 0}, first); // when too many rows are wanted, the batch fails after it
  MemoryContextSwitchTo(caller);
}

void set_rows_range(void *argument, uint64 from, uint64 until) {
  auto *rows = static_cast<BatchRows *>(argument);
  rows->from = from;
  rows->until = until;
}

} // namespace seal_sync::apply

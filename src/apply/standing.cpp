// See standing.hpp.
#include "apply/standing.hpp"

#include "apply/partitions.hpp"
#include "apply/reply.hpp"
#include "apply/segment.hpp"
#include "apply/staged_batch.hpp"
#include "apply/wire_row.hpp"

namespace seal_sync::apply {

namespace {

constexpr int kMostOfValue = 256;         // bytes; longer ones are cut to
constexpr int kShownOfLong = 64;          // so many
constexpr std::size_t kMostOfRow = 16384; // bytes; further columns are only counted

using core::wire::StandingColumn;

/// The beginning of a long value, and how long it is.
char *shortened(Oid type, Datum value, const char *shown) {
  const auto size = static_cast<int>(strlen(shown));
  if (type == BYTEAOID)
    return psprintf("... (%d bytes)", static_cast<int>(toast_raw_datum_size(value)) - VARHDRSZ);
  return psprintf("%.*s... (%d bytes)", pg_mbcliplen(shown, size, kShownOfLong), shown, size);
}

void write_column(core::Buffer *out, const char *name, Oid type, Datum value, bool is_null) {
  StandingColumn column;
  column.name = view_of(name);
  if (!is_null) {
    const bool varlena = get_typlen(type) == -1;
    column.state = StandingColumn::kCut;
    if (varlena && toast_raw_datum_size(value) > 64 * 1024) { // not worth fetching
      column.text = view_of(psprintf("... (%d bytes)", static_cast<int>(toast_raw_datum_size(value)) - VARHDRSZ));
    } else {
      Oid function;
      bool unused;
      getTypeOutputInfo(type, &function, &unused);
      const char *const shown = OidOutputFunctionCall(function, value);
      if (strlen(shown) > kMostOfValue) {
        column.text = view_of(shortened(type, value, shown));
      } else {
        column.state = StandingColumn::kWhole;
        column.text = view_of(shown);
      }
    }
  }
  write(*out, column);
}

AttrNumber in_leaf(const Leaf *leaf, AttrNumber attno) {
  if (leaf->root_attnos == nullptr)
    return attno;
  for (int i = 0; i < RelationGetDescr(leaf->relation)->natts; ++i)
    if (leaf->root_attnos[i] == attno)
      return static_cast<AttrNumber>(i + 1);
  return 0;
}

/// Number of columns, then these, in the current memory context.
core::ByteSpan image_of(const Target *target, const Leaf *leaf) {
  const Descriptor *const descriptor = target->descriptor;
  core::Buffer columns = make_buffer(CurrentMemoryContext);
  uint64 count = 0;
  for (int i = 0; i < descriptor->column_count; ++i) {
    const AttrNumber attno = descriptor->columns[i].attno == 0 ? 0 : in_leaf(leaf, descriptor->columns[i].attno);
    if (attno == 0)
      continue;
    if (columns.size > kMostOfRow) {
      StandingColumn rest;
      rest.name = "...";
      rest.state = StandingColumn::kCut;
      rest.text = view_of(psprintf("(%d more columns)", descriptor->column_count - i));
      write(columns, rest);
      ++count;
      break;
    }
    bool is_null;
    const Datum value = slot_getattr(leaf->existing, attno, &is_null);
    write_column(&columns, NameStr(descriptor->columns[i].name),
                 TupleDescAttr(RelationGetDescr(leaf->relation), attno - 1)->atttypid, value, is_null);
    ++count;
  }
  core::Buffer image = make_buffer(CurrentMemoryContext);
  image.varint(count);
  image.bytes(columns.data, columns.size);
  return image.span();
}

/// The refused key as a row of the target. False: it cannot be read.
bool decode_key(Target *target, const Refused *refused, TupleTableSlot *row) {
  const Descriptor *const descriptor = target->descriptor;
  core::Reader in({refused->key, refused->key_size});
  auto *values = static_cast<WireValue *>(palloc(sizeof(WireValue) * static_cast<std::size_t>(descriptor->key_count)));
  if (!parse_row(in, descriptor, descriptor->key_columns, descriptor->key_count, values))
    return false;
  const int natts = row->tts_tupleDescriptor->natts;
  memset(row->tts_values, 0, sizeof(Datum) * static_cast<std::size_t>(natts));
  memset(row->tts_isnull, true, sizeof(bool) * static_cast<std::size_t>(natts));
  for (int k = 0; k < descriptor->key_count; ++k) {
    const int column = descriptor->key_columns[k];
    const AttrNumber attno = descriptor->columns[column].attno;
    if (values[k].null || attno == 0)
      return false;
    row->tts_values[attno - 1] = decode_value(&target->decoders[column], values[k].bytes);
    row->tts_isnull[attno - 1] = false;
  }
  ExecStoreVirtualTuple(row);
  return true;
}

void note_image(Attempt *attempt, Refused *refused) {
  Descriptor *const descriptor = find_descriptor(attempt->session, refused->number);
  if (strcmp(NameStr(descriptor->schema), refused->schema) != 0 || strcmp(NameStr(descriptor->table), refused->table) != 0)
    return; // described as another one between two attempts
  Target *const target = segment_target(attempt, descriptor);
  const OwnerScope scope = become_owner(target->owner);
  const MemoryContext caller = MemoryContextSwitchTo(attempt->rows);
  TupleTableSlot *const row = incoming_slot(target, 0);
  if (decode_key(target, refused, row) && (target->only != nullptr || has_partition(target->relation, row))) {
    Leaf *const leaf = route(target, row);
    config::Table *const rule = rule_of(leaf);
    if (rule != nullptr && find_standing(leaf, row) &&
        may_be_told(attempt, config::cluster_of(rule, leaf->existing))) {
      const core::ByteSpan image = image_of(target, leaf);
      BatchNotes *const notes = &attempt->session->notes;
      auto *copy = static_cast<uint8 *>(MemoryContextAlloc(notes->context, image.size()));
      memcpy(copy, image.data(), image.size());
      refused->image = {copy, image.size()};
      notes->standing += image.size();
    }
    ExecClearTuple(leaf->existing);
  }
  ExecClearTuple(row);
  MemoryContextSwitchTo(caller);
  MemoryContextReset(attempt->rows);
  leave_owner(scope);
}

void note_all(Attempt *attempt) {
  BatchNotes *const notes = &attempt->session->notes;
  begin_segment(attempt);
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, notes->refused);
  while (auto *refused = static_cast<Refused *>(hash_seq_search(&status))) {
    refused->image = {}; // of an earlier attempt that was not committed
    if (notes->standing >= kMaxStanding)
      continue;
    note_image(attempt, refused);
    CHECK_FOR_INTERRUPTS();
  }
  end_segment(attempt);
}

} // namespace

bool may_be_told(const Attempt *attempt, const config::Cluster *cluster) {
  const char *const origin = NameStr(attempt->session->origin);
  if (cluster == nullptr)
    return false;
  if (strcmp(NameStr(cluster->primary_node), origin) == 0 || cluster->standby_count < 0)
    return true;
  for (int i = 0; i < cluster->standby_count; ++i)
    if (strcmp(NameStr(cluster->standby_nodes[i]), origin) == 0)
      return true;
  return false;
}

void note_images(Attempt *attempt) {
  const MemoryContext caller = CurrentMemoryContext;
  const ResourceOwner owner = CurrentResourceOwner;
  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(caller);
  PG_TRY();
  {
    note_all(attempt);
    ReleaseCurrentSubTransaction();
  }
  PG_CATCH();
  {
    // A type's output function may fail: then the operator has to look for himself.
    MemoryContextSwitchTo(attempt->context);
    ErrorData *const error = CopyErrorData();
    FlushErrorState();
    RollbackAndReleaseCurrentSubTransaction();
    CurrentResourceOwner = owner;
    MemoryContextReset(attempt->segment);
    attempt->targets = nullptr;
    attempt->current = {};
    if (!is_row_error(error))
      ReThrowError(error);
    FreeErrorData(error);
  }
  PG_END_TRY();
  MemoryContextSwitchTo(caller);
  CurrentResourceOwner = owner;
}

} // namespace seal_sync::apply

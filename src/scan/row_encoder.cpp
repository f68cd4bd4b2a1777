// See row_encoder.hpp.
#include "scan/row_encoder.hpp"

#include "scan/keys.hpp"

namespace seal_sync::scan {

namespace {
constexpr int kMaxPartials = 32;
constexpr size_t kWorthOmitting = 512; // bytes of untouched values that make a partial row worth it
} // namespace

struct Section {
  core::Buffer body;
  uint64 rows;
};

struct RowEncoder {
  const SentTable *sent;
  MemoryContext row_context;
  Section deletes;
  Section whole;
  Section partial[kMaxPartials];
  uint8 partial_mask[kMaxPartials][256]; // bits of sent columns
  int partials;
  int mask_bytes; // of sent columns
  // attribute numbers in the leaf last met
  uint64 leaf_signature;
  AttrNumber *attnos;
  bool *wanted;
};

RowEncoder *make_encoder(const SentTable *sent, MemoryContext context) {
  const MemoryContext old = MemoryContextSwitchTo(context);
  auto *encoder = static_cast<RowEncoder *>(palloc0(sizeof(RowEncoder)));
  encoder->sent = sent;
  encoder->row_context = AllocSetContextCreate(context, "seal_sync row", ALLOCSET_DEFAULT_SIZES);
  init_buffer(&encoder->deletes.body, context);
  init_buffer(&encoder->whole.body, context);
  for (Section &section : encoder->partial)
    init_buffer(&section.body, context);
  encoder->mask_bytes = (sent->column_count + 7) / 8;
  encoder->attnos = static_cast<AttrNumber *>(palloc0(sizeof(AttrNumber) * Max(sent->column_count, 1)));
  encoder->wanted = static_cast<bool *>(palloc0(sizeof(bool) * Max(sent->column_count, 1)));
  MemoryContextSwitchTo(old);
  return encoder;
}

void encode_delete(RowEncoder *encoder, const Datum *key_values) {
  core::Buffer *out = &encoder->deletes.body;
  const SentTable *sent = encoder->sent;
  const MemoryContext old = MemoryContextSwitchTo(encoder->row_context);
  for (int i = 0; i < (sent->key_count + 7) / 8; i++)
    out->u8(0);
  for (int k = 0; k < sent->key_count; k++)
    write_value(out, &sent->columns[sent->key_columns[k]], key_values[k]);
  encoder->deletes.rows++;
  MemoryContextSwitchTo(old);
  MemoryContextReset(encoder->row_context);
}

namespace {

void map_leaf(RowEncoder *encoder, const config::Table *leaf, TupleDesc desc) {
  if (encoder->leaf_signature == leaf->signature)
    return;
  for (int i = 0; i < encoder->sent->column_count; i++) {
    const AttrNumber root_attno = encoder->sent->columns[i].root_attno;
    encoder->attnos[i] = root_attno;
    if (leaf->root_attnos == nullptr)
      continue;
    encoder->attnos[i] = InvalidAttrNumber;
    for (int a = 0; a < desc->natts; a++)
      if (leaf->root_attnos[a] == root_attno)
        encoder->attnos[i] = static_cast<AttrNumber>(a + 1);
    if (encoder->attnos[i] == InvalidAttrNumber)
      elog(ERROR, "partition %u lacks a column of its parent", leaf->relation);
  }
  encoder->leaf_signature = leaf->signature;
}

size_t stored_size(Datum value, const SentColumn &column) {
  if (column.typlen != -1)
    return column.typlen > 0 ? static_cast<size_t>(column.typlen) : 0;
  const auto *stored = reinterpret_cast<struct varlena *>(DatumGetPointer(value));
  return VARATT_IS_EXTERNAL(stored) ? toast_raw_datum_size(value) : VARSIZE_ANY(stored);
}

void put_columns(RowEncoder *encoder, core::Buffer *out, TupleTableSlot *row, bool all, int count) {
  const SentTable *sent = encoder->sent;
  const size_t bitmap = out->size;
  for (int i = 0; i < (count + 7) / 8; i++)
    out->u8(0);
  int position = 0;
  for (int i = 0; i < sent->column_count; i++) {
    if (!all && !encoder->wanted[i])
      continue;
    const int attno = encoder->attnos[i];
    if (row->tts_isnull[attno - 1]) {
      uint8 *byte = &out->data[bitmap + static_cast<size_t>(position / 8)];
      *byte = static_cast<uint8>(*byte | (1u << (position % 8)));
    } else {
      write_value(out, &sent->columns[i], row->tts_values[attno - 1]);
    }
    position++;
  }
}

Section *partial_section(RowEncoder *encoder) {
  uint8 mask[256] = {};
  for (int i = 0; i < encoder->sent->column_count; i++)
    if (encoder->wanted[i])
      mask[i / 8] = static_cast<uint8>(mask[i / 8] | (1u << (i % 8)));
  for (int p = 0; p < encoder->partials; p++)
    if (memcmp(encoder->partial_mask[p], mask, static_cast<size_t>(encoder->mask_bytes)) == 0)
      return &encoder->partial[p];
  if (encoder->partials == kMaxPartials)
    return nullptr; // too many shapes at once: this row goes whole
  Section *section = &encoder->partial[encoder->partials];
  memcpy(encoder->partial_mask[encoder->partials], mask, sizeof mask);
  encoder->partials++;
  return section;
}

} // namespace

void encode_row(RowEncoder *encoder, const config::Table *leaf, TupleTableSlot *row, const uint8 *mask,
                int mask_size) {
  const SentTable *sent = encoder->sent;
  const MemoryContext old = MemoryContextSwitchTo(encoder->row_context);
  slot_getallattrs(row);
  map_leaf(encoder, leaf, row->tts_tupleDescriptor);

  Section *section = nullptr;
  int count = 0;
  if (mask != nullptr) {
    size_t omitted = 0;
    for (int i = 0; i < sent->column_count; i++) {
      const SentColumn &column = sent->columns[i];
      const int bit = column.root_attno - 1;
      encoder->wanted[i] =
          column.key_position > 0 || (bit / 8 < mask_size && (mask[bit / 8] & (1u << (bit % 8))) != 0);
      const int attno = encoder->attnos[i];
      if (encoder->wanted[i])
        count++;
      else if (!row->tts_isnull[attno - 1])
        omitted += stored_size(row->tts_values[attno - 1], column);
    }
    if (omitted >= kWorthOmitting)
      section = partial_section(encoder);
  }
  if (section != nullptr)
    put_columns(encoder, &section->body, row, false, count);
  else {
    section = &encoder->whole;
    put_columns(encoder, &section->body, row, true, sent->column_count);
  }
  section->rows++;
  MemoryContextSwitchTo(old);
  MemoryContextReset(encoder->row_context);
}

size_t encoded_bytes(const RowEncoder *encoder) {
  size_t bytes = encoder->deletes.body.size + encoder->whole.body.size;
  for (int p = 0; p < encoder->partials; p++)
    bytes += encoder->partial[p].body.size;
  return bytes;
}

namespace {

void put_section(const RowEncoder *encoder, core::Buffer *chunk, char kind, Section *section,
                 const uint8 *mask) {
  if (section->rows == 0)
    return;
  chunk->u8(static_cast<uint8>(kind));
  chunk->varint(encoder->sent->number);
  chunk->varint(section->rows);
  const size_t size_at = chunk->size;
  chunk->u32(0);
  if (mask != nullptr)
    chunk->sized({mask, static_cast<size_t>(encoder->mask_bytes)});
  chunk->bytes(section->body.data, section->body.size);
  chunk->patch<uint32>(size_at, static_cast<uint32>(chunk->size - size_at - 4));
  section->rows = 0;
  section->body.size = 0;
}

} // namespace

uint64 flush_sections(RowEncoder *encoder, core::Buffer *chunk, int64 *deletes) {
  uint64 rows = encoder->deletes.rows + encoder->whole.rows;
  *deletes += static_cast<int64>(encoder->deletes.rows);
  put_section(encoder, chunk, 'D', &encoder->deletes, nullptr);
  put_section(encoder, chunk, 'W', &encoder->whole, nullptr);
  for (int p = 0; p < encoder->partials; p++) {
    rows += encoder->partial[p].rows;
    put_section(encoder, chunk, 'P', &encoder->partial[p], encoder->partial_mask[p]);
  }
  encoder->partials = 0;
  return rows;
}

} // namespace seal_sync::scan

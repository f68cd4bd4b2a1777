// See keys.hpp.
#include "scan/keys.hpp"

#include "pg/varlena.hpp"

namespace seal_sync::scan {

Datum fixed_datum(const uint8_t *bytes, int width) {
  int16 two;
  int32 four;
  int64 eight;
  switch (width) {
  case 1:
    return CharGetDatum(static_cast<char>(*bytes));
  case 2:
    memcpy(&two, bytes, sizeof two);
    return Int16GetDatum(two);
  case 4:
    memcpy(&four, bytes, sizeof four);
    return Int32GetDatum(four);
  case 8:
    memcpy(&eight, bytes, sizeof eight);
    return Int64GetDatum(eight);
  default:
    elog(ERROR, "unsupported width of a by-value type: %d", width);
  }
}

void read_key(core::Reader *in, const config::Table *table, Datum *values) {
  for (int i = 0; i < table->key_count; i++) {
    const config::KeyColumn &column = table->keys[i];
    if (column.by_value) {
      const core::ByteSpan raw = in->bytes(static_cast<uint64>(column.width));
      Datum value = 0;
      if (raw.size() == static_cast<size_t>(column.width))
        value = fixed_datum(raw.data(), column.width);
      values[i] = value;
      continue;
    }
    const core::ByteSpan raw =
        column.width > 0 ? in->bytes(static_cast<uint64>(column.width)) : in->sized();
    if (!in->ok())
      break;
    if (column.width == -1) {
      values[i] = PointerGetDatum(pg::make_bytea(raw));
    } else {
      auto *value = static_cast<char *>(palloc(raw.size() + 1)); // cstring keys want their zero
      memcpy(value, raw.data(), raw.size());
      value[raw.size()] = '\0';
      values[i] = PointerGetDatum(value);
    }
  }
  if (!in->ok())
    ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED),
            errmsg("a recorded key of table \"%s\" cannot be read", get_rel_name(table->root)));
}

void write_key(core::Buffer *out, const config::Table *table, const Datum *values) {
  for (int i = 0; i < table->key_count; i++) {
    const config::KeyColumn &column = table->keys[i];
    if (column.by_value) {
      uint8_t raw[sizeof(Datum)];
      memcpy(raw, &values[i], sizeof raw);
      out->bytes(raw, static_cast<size_t>(column.width));
    } else if (column.width > 0) {
      out->bytes(DatumGetPointer(values[i]), static_cast<size_t>(column.width));
    } else if (column.width == -1) {
      const struct varlena *plain =
          pg_detoast_datum_packed(reinterpret_cast<struct varlena *>(DatumGetPointer(values[i])));
      out->sized({reinterpret_cast<const uint8_t *>(VARDATA_ANY(plain)), VARSIZE_ANY_EXHDR(plain)});
    } else {
      out->text(DatumGetCString(values[i]));
    }
  }
}

namespace {
uint8_t *grow(uint8_t *old, size_t, size_t wanted, void *owner) {
  if (old == nullptr)
    return static_cast<uint8_t *>(
        MemoryContextAllocHuge(static_cast<MemoryContext>(owner), wanted));
  return static_cast<uint8_t *>(repalloc_huge(old, wanted));
}
} // namespace

void init_buffer(core::Buffer *buffer, MemoryContext context) {
  *buffer = core::Buffer{};
  buffer->grow = grow;
  buffer->owner = context;
}

} // namespace seal_sync::scan

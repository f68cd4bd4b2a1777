#pragma once
// Taking a row apart into the bytes of its columns, and building a key from them.
//
// Pure; called for every row of a batch. Nothing is interpreted here. Invariant: spans lie inside the
// section, a row that does not fit makes the reader "not ok".

#include "apply/relation_map.hpp"
#include "core/wire.hpp"

namespace seal_sync::apply {

struct WireValue {
  core::ByteSpan bytes;
  bool null;
};

/// values[i] is column columns[i].
inline bool parse_row(core::Reader &in, const Descriptor *descriptor, const int *columns, int count,
                      WireValue *values) {
  const core::ByteSpan nulls = in.bytes(static_cast<std::uint64_t>((count + 7) / 8));
  if (!in.ok())
    return false;
  for (int i = 0; i < count; ++i) {
    values[i].null = (nulls[static_cast<std::size_t>(i) / 8] >> (i % 8) & 1) != 0;
    if (values[i].null)
      continue;
    const SentColumn &column = descriptor->columns[columns[i]];
    values[i].bytes = column.cls == core::wire::ColumnClass::kFixed ? in.bytes(column.width) : in.sized();
  }
  return in.ok();
}

/// The keyrow of a parsed row; false when a key column is null or not among its columns.
inline bool write_key(core::Buffer *out, const Descriptor *descriptor, const int *columns, int count,
                      const WireValue *values) {
  for (int i = 0; i < (descriptor->key_count + 7) / 8; ++i)
    out->u8(0);
  for (int k = 0; k < descriptor->key_count; ++k) {
    const WireValue *value = nullptr;
    for (int i = 0; i < count && value == nullptr; ++i)
      if (columns[i] == descriptor->key_columns[k])
        value = &values[i];
    if (value == nullptr || value->null)
      return false;
    if (descriptor->columns[descriptor->key_columns[k]].cls == core::wire::ColumnClass::kFixed)
      out->bytes(value->bytes.data(), value->bytes.size());
    else
      out->sized(value->bytes);
  }
  return true;
}

} // namespace seal_sync::apply

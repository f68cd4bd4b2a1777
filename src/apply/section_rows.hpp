#pragma once
// Which columns the rows of a section carry, and where its rows begin.
//
// Called by batch_rows for every section that is applied and by superseded for those it looks through. PostgreSQL
// regime. Invariant: key columns are always among them; a mask that names columns the table was not described with
// is damage.

#include "apply/relation_map.hpp"
#include "apply/reply.hpp"
#include "core/wire.hpp"

namespace seal_sync::apply {

struct SectionRows {
  const int *columns; // sent columns of each row, palloc'd unless they are the descriptor's
  int column_count;
  core::Reader body; // at the first row
};

inline SectionRows section_rows(const Descriptor *descriptor, const core::wire::Section &section) {
  SectionRows rows;
  rows.body = core::Reader(section.body);
  rows.column_count = 0;
  if (section.kind == 'D') {
    rows.columns = descriptor->key_columns;
    rows.column_count = descriptor->key_count;
    return rows;
  }
  auto *columns = static_cast<int *>(palloc(sizeof(int) * static_cast<Size>(descriptor->column_count)));
  core::ByteSpan mask;
  if (section.kind == 'P') {
    mask = rows.body.sized();
    if (!rows.body.ok() || mask.size() > static_cast<std::size_t>(descriptor->column_count + 7) / 8)
      damaged_message("data");
  }
  for (int i = 0; i < descriptor->column_count; ++i) {
    const std::size_t byte = static_cast<std::size_t>(i) / 8;
    const bool there = section.kind == 'W' || (byte < mask.size() && (mask[byte] >> (i % 8) & 1) != 0);
    if (there)
      columns[rows.column_count++] = i;
    else if (descriptor->columns[i].key_position != 0)
      damaged_message("data");
  }
  for (std::size_t bit = static_cast<std::size_t>(descriptor->column_count); bit < mask.size() * 8; ++bit)
    if ((mask[bit / 8] >> (bit % 8) & 1) != 0)
      damaged_message("data");
  rows.columns = columns;
  return rows;
}

} // namespace seal_sync::apply

// See row_digest.hpp.
#include "core/row_digest.hpp"

#include <algorithm>

namespace seal_sync::core {

namespace {

// On the wire the lower half: of tables that can be decoded the difference of counts is small.
using WireCount = std::uint16_t;

void toggle(LookupCell &cell, const KeyId &key, std::uint64_t hash, std::uint32_t check, std::int32_t count) noexcept {
  cell.key[0] ^= key.words[0];
  cell.key[1] ^= key.words[1];
  cell.hash ^= hash;
  cell.check ^= check;
  cell.count = static_cast<std::int32_t>(static_cast<std::uint32_t>(cell.count) + static_cast<std::uint32_t>(count));
}

void join(LookupCell &cell, const LookupCell &other, bool minus) noexcept {
  const auto count = static_cast<std::uint32_t>(other.count);
  toggle(cell, {{other.key[0], other.key[1]}}, other.hash, other.check, static_cast<std::int32_t>(minus ? 0U - count : count));
}

std::uint32_t mask_of(const LookupTable &table) noexcept { return (1U << table.bits) - 1; }

LookupCell &cell_of(const LookupTable &table, int part, std::uint16_t at) noexcept {
  return table.cells[(static_cast<std::size_t>(part) << table.bits) + (at & mask_of(table))];
}

/// Whether a cell holds one row, and stands where that row belongs.
bool holds_one(const LookupTable &table, const RunSecret &secret, std::uint32_t number, LookupPlace *place) noexcept {
  const LookupCell &cell = table.cells[number];
  if (cell.count != 1 && cell.count != -1)
    return false;
  *place = place_of(secret, {{cell.key[0], cell.key[1]}}, cell.hash);
  const std::uint32_t part = number >> table.bits;
  return place->check == cell.check && (place->at[part] & mask_of(table)) == (number & mask_of(table));
}

} // namespace

KeyId key_id(const RunSecret &secret, ByteSpan key, bool fits) noexcept {
  KeyId id;
  if (fits && key.size() <= kKeyIdBytes) {
    if (!key.empty())
      std::memcpy(id.words, key.data(), key.size());
  } else {
    const Hash128 hash = hash_bytes(secret, key);
    id.words[0] = hash.low;
    id.words[1] = hash.high;
  }
  return id;
}

LookupPlace place_of(const RunSecret &secret, const KeyId &key, std::uint64_t hash) noexcept {
  std::uint64_t bytes[3] = {key.words[0], key.words[1], hash};
  const Hash128 mixed = hash_bytes(secret, {reinterpret_cast<const std::uint8_t *>(bytes), sizeof bytes});
  LookupPlace place;
  for (int part = 0; part < kLookupParts; part++)
    place.at[part] = static_cast<std::uint16_t>(mixed.low >> (16 * part));
  place.check = static_cast<std::uint32_t>(mixed.high);
  return place;
}

void add(LookupTable &table, const RunSecret &secret, const DigestedRow &row) noexcept {
  const LookupPlace place = place_of(secret, row.key, row.hash.low);
  for (int part = 0; part < kLookupParts; part++)
    toggle(cell_of(table, part, place.at[part]), row.key, row.hash.low, place.check, 1);
}

void add(LookupTable &table, const LookupTable &other) noexcept {
  for (std::size_t i = 0; i < table.size(); i++)
    join(table.cells[i], other.cells[i], false);
}

void subtract(LookupTable &table, const LookupTable &other) noexcept {
  for (std::size_t i = 0; i < table.size(); i++) {
    join(table.cells[i], other.cells[i], true);
    table.cells[i].count = static_cast<std::int16_t>(static_cast<std::uint32_t>(table.cells[i].count)); // one may come from the wire
  }
}

void fold(LookupTable &table) noexcept {
  if (table.bits == 0)
    return;
  const std::size_t half = std::size_t{1} << (table.bits - 1);
  for (std::size_t part = 0; part < kLookupParts; part++)
    for (std::size_t i = 0; i < half; i++) { // the new cell lies before both old ones that are still needed
      LookupCell cell = table.cells[part * half * 2 + i];
      join(cell, table.cells[part * half * 2 + half + i], false);
      table.cells[part * half + i] = cell;
    }
  table.bits--;
}

std::optional<std::size_t> decode(LookupTable &difference, const RunSecret &secret, const DigestRoot &ours, const DigestRoot &theirs,
                                  std::span<DecodedRow> out, std::span<std::uint32_t> queue) noexcept {
  const std::size_t size = difference.size();
  if (out.size() < size || queue.size() < size)
    return std::nullopt;
  LookupPlace place;
  std::size_t waiting = 0; // cells to look at, as a stack; a cell that is there twice is looked at twice, in vain
  for (std::size_t i = 0; i < size; i++)
    if (holds_one(difference, secret, static_cast<std::uint32_t>(i), &place))
      queue[waiting++] = static_cast<std::uint32_t>(i);

  DigestRoot left = ours;
  left.sum -= theirs.sum;
  left.rows -= theirs.rows;
  std::uint64_t low = left.sum.low;
  std::size_t found = 0;
  while (waiting > 0) {
    const std::uint32_t number = queue[--waiting];
    if (!holds_one(difference, secret, number, &place))
      continue; // its row has gone with another cell
    if (found == size)
      return std::nullopt; // goes round: made up
    const LookupCell cell = difference.cells[number];
    const KeyId key{{cell.key[0], cell.key[1]}};
    const bool is_ours = cell.count == 1;
    out[found++] = {key, cell.hash, is_ours};
    low -= is_ours ? cell.hash : 0 - cell.hash;
    left.rows -= is_ours ? 1 : ~std::uint64_t{0};
    for (int part = 0; part < kLookupParts; part++) {
      LookupCell &other = cell_of(difference, part, place.at[part]);
      toggle(other, key, cell.hash, cell.check, is_ours ? -1 : 1);
      LookupPlace ignored;
      const auto at = static_cast<std::uint32_t>(&other - difference.cells);
      if (!holds_one(difference, secret, at, &ignored))
        continue;
      if (waiting == queue.size()) // of a real difference a cell waits once at most
        return std::nullopt;
      queue[waiting++] = at;
    }
  }
  const bool empty = std::all_of(difference.cells, difference.cells + size, [](const LookupCell &cell) { return cell.empty(); });
  if (!empty || low != 0 || left.rows != 0 || (found == 0 && !(ours == theirs)))
    return std::nullopt;
  return found;
}

void add(RowDigest &digest, const RowDigest &other) noexcept {
  digest.root.sum += other.root.sum;
  digest.root.rows += other.root.rows;
  if (digest.buckets != nullptr && other.buckets != nullptr)
    for (std::uint32_t i = 0; i < kBuckets; i++)
      digest.buckets[i] += other.buckets[i];
  add(digest.table, other.table);
}

void write(Buffer &out, const LookupTable &table, std::size_t key_bytes) {
  for (std::size_t i = 0; i < table.size(); i++) {
    const LookupCell &cell = table.cells[i];
    out.bytes(cell.key, std::min(key_bytes, kKeyIdBytes));
    out.u64(cell.hash);
    out.u32(cell.check);
    out.fixed(static_cast<WireCount>(cell.count));
  }
}

bool read(Reader &in, LookupTable &table, std::size_t key_bytes) noexcept {
  const std::size_t wide = std::min(key_bytes, kKeyIdBytes);
  for (std::size_t i = 0; i < table.size() && in.ok(); i++) {
    LookupCell &cell = table.cells[i];
    cell = {};
    const ByteSpan key = in.bytes(wide);
    if (!key.empty())
      std::memcpy(cell.key, key.data(), key.size());
    cell.hash = in.u64();
    cell.check = in.u32();
    cell.count = in.u16();
  }
  return in.ok();
}

} // namespace seal_sync::core

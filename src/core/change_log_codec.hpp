#pragma once
// What one row of the change log holds: the keys of one flush, packed.
//
// Written by capture (capture/key_buffer), read by the scan (scan/window) and by the views. Local to
// a server: object identifiers and raw key values may stand in it, it never travels.
//
//   row  := version(u8 = 1) run*
//   run  := kind(u8) root(u32) leaf(u32) cluster(u32) mask_size(u8) mask keys(u16) bytes(u16) key*
//   key  := for each primary-key column, in index order: fixed width: the value's bytes;
//           variable: varint size, bytes (for varlena types the payload without header)
//
// kind is one of ChangeKind. mask (update only) has bit (attno - 1) set for each changed column of
// the ROOT relation; empty means "not known, take the whole row". `bytes` is the size of all keys of
// the run, so that a reader that only counts can skip them.
// Invariant: a run never has more than kMaxRunBytes of keys, a row never more than its page.

#include "core/bytes.hpp"

namespace seal_sync::core {

enum class ChangeKind : std::uint8_t {
  kInsert = 'I',
  kUpdate = 'U',
  kDelete = 'D',
  kWhole = 'W', // not a change of the application: ship the row as it is now (copy, retry)
  kMark = 'M',  // no keys: inserts and updates of this table were not recorded, the log was full
};

inline constexpr std::uint8_t kChangeLogVersion = 1;
inline constexpr std::size_t kMaxMaskBytes = 200; // 1600 columns
inline constexpr std::size_t kMaxRunBytes = 60000;

struct ChangeRun {
  ChangeKind kind = ChangeKind::kWhole;
  std::uint32_t root = 0;
  std::uint32_t leaf = 0;
  std::uint32_t cluster = 0;
  ByteSpan mask;
  std::uint16_t keys = 0;
  ByteSpan key_bytes;
};

[[nodiscard]] constexpr bool valid_kind(std::uint8_t kind) noexcept {
  return kind == 'I' || kind == 'U' || kind == 'D' || kind == 'W' || kind == 'M';
}

/// Walks the runs of one log row. next() is false at the end and on damage; tell them by damaged().
class ChangeRunReader {
public:
  explicit ChangeRunReader(ByteSpan row) noexcept : reader_(row) {
    if (reader_.u8() != kChangeLogVersion)
      reader_.fail();
  }

  bool next(ChangeRun &run) noexcept {
    if (!reader_.ok() || reader_.at_end())
      return false;
    const std::uint8_t kind = reader_.u8();
    if (!valid_kind(kind)) {
      reader_.fail();
      return false;
    }
    run.kind = static_cast<ChangeKind>(kind);
    run.root = reader_.u32();
    run.leaf = reader_.u32();
    run.cluster = reader_.u32();
    run.mask = reader_.bytes(reader_.u8());
    run.keys = reader_.u16();
    run.key_bytes = reader_.bytes(reader_.u16());
    return reader_.ok();
  }

  [[nodiscard]] bool damaged() const noexcept { return !reader_.ok(); }

private:
  Reader reader_;
};

/// Appends keys to a row under construction, opening a new run whenever what they share changes.
/// Plain data: the owner places it wherever its buffer lives.
struct ChangeRunWriter {
  std::size_t run_start = 0; // offset of the open run, 0: none (offset 0 is the version byte)
  std::size_t counts_at = 0; // offset of the open run's keys/bytes fields

  static void begin_row(Buffer &row) {
    row.size = 0;
    row.u8(kChangeLogVersion);
  }

  /// Makes the open run the one for (kind, root, leaf, cluster, mask).
  void select(Buffer &row, ChangeKind kind, std::uint32_t root, std::uint32_t leaf,
              std::uint32_t cluster, ByteSpan mask) {
    if (run_start != 0 && matches(row, kind, root, leaf, cluster, mask))
      return;
    run_start = row.size;
    row.u8(static_cast<std::uint8_t>(kind));
    row.u32(root);
    row.u32(leaf);
    row.u32(cluster);
    row.u8(static_cast<std::uint8_t>(mask.size()));
    row.bytes(mask.data(), mask.size());
    counts_at = row.size;
    row.u16(0);
    row.u16(0);
  }

  /// Call after the bytes of one key have been appended to the row.
  void key_done(Buffer &row) noexcept {
    std::uint16_t keys;
    std::memcpy(&keys, row.data + counts_at, sizeof keys);
    row.patch<std::uint16_t>(counts_at, static_cast<std::uint16_t>(keys + 1));
    row.patch<std::uint16_t>(counts_at + 2, static_cast<std::uint16_t>(row.size - counts_at - 4));
  }

  void reset() noexcept { run_start = counts_at = 0; }

private:
  [[nodiscard]] bool matches(const Buffer &row, ChangeKind kind, std::uint32_t root,
                             std::uint32_t leaf, std::uint32_t cluster, ByteSpan mask) const noexcept {
    if (row.size - counts_at > kMaxRunBytes - 4096)
      return false;
    Reader reader(ByteSpan(row.data + run_start, counts_at - run_start));
    if (reader.u8() != static_cast<std::uint8_t>(kind) || reader.u32() != root ||
        reader.u32() != leaf || reader.u32() != cluster)
      return false;
    const ByteSpan have = reader.bytes(reader.u8());
    return have.size() == mask.size() &&
           (mask.empty() || std::memcmp(have.data(), mask.data(), mask.size()) == 0);
  }
};

} // namespace seal_sync::core

#pragma once
// What a sender writes down about a stage on its peer, so that it can go on after any break: how far it has come
// through the keys, and under which snapshot each stretch of them was read.
//
// Written and read by scan/base_map; to the peer it is opaque bytes that commit together with the chunks they speak
// of. So it comes back from the wire and is read as hostile: Reader is total, and scan/base_map checks the rest. A
// peer that changes its note harms nobody but itself.
//
//   note     := head positions(varint) position* tables(varint) table* cuts(varint) cut* rest(varint)
//   head     := version(u8 = 2) kind(u8) pass(u32) relation(u32) pass_cuts(u32) fingerprint(u64) stage(16) number(u64) chunks(u64) rows(u64)
//   position := xmin(varint) xmax - xmin(varint) running(varint) step(varint)*   each xid as the distance to the one before, from xmin
//   table    := relation(u32) pass(u32) signature(u64)     pass: the first one that has met the table
//   cut      := scope(u32) at_end(u8) base(varint) key(sized)
//
// Cuts ascend by (scope, key). Keys up to a cut, and after the one before, were read under position `base`, keys after the last
// one under `rest`; both count positions from 1, and 0 is "never". The current pass has come to the last of the first
// `pass_cuts` cuts; the others are of the pass before.

#include "core/bytes.hpp"

#include <algorithm>

namespace seal_sync::core {

inline constexpr std::uint8_t kStageNoteVersion = 2;

enum class StageKind : std::uint8_t {
  kBacklog = 'B', // a batch that takes long; scope is the registered table
  kCopy = 'C',    // the rows of one table; scope is the relation that holds them
};

struct StageNoteHead {
  StageKind kind = StageKind::kBacklog;
  std::uint32_t pass = 1;
  std::uint32_t relation = 0; // kCopy: the registered table
  std::uint32_t pass_cuts = 0; // of the current pass; 0: it is at its start
  std::uint64_t fingerprint = 0; // of the clusters that go to the peer
  std::uint8_t stage[16] = {};   // which stage it speaks of: a peer may hand out another one's
  std::uint64_t number = 0;      // of the newest batch or part that the sender had noted durably: one that does not know it has lost
                                 // transactions that the bases name, and their xids mean something else by now (trap T1)
  std::uint64_t chunks = 0, rows = 0; // in the stage, as the sender has counted
};

inline void write(Buffer &out, const StageNoteHead &head) {
  out.u8(kStageNoteVersion);
  out.u8(static_cast<std::uint8_t>(head.kind));
  out.u32(head.pass);
  out.u32(head.relation);
  out.u32(head.pass_cuts);
  out.u64(head.fingerprint);
  out.bytes(head.stage, sizeof head.stage);
  out.u64(head.number);
  out.u64(head.chunks);
  out.u64(head.rows);
}

inline void read(Reader &in, StageNoteHead &head) {
  if (in.u8() != kStageNoteVersion)
    in.fail();
  const std::uint8_t kind = in.u8();
  if (kind != 'B' && kind != 'C')
    in.fail();
  head.kind = static_cast<StageKind>(kind);
  head.pass = in.u32();
  head.relation = in.u32();
  head.pass_cuts = in.u32();
  head.fingerprint = in.u64();
  const ByteSpan stage = in.bytes(sizeof head.stage);
  if (stage.size() == sizeof head.stage)
    std::copy(stage.begin(), stage.end(), head.stage);
  head.number = in.u64();
  head.chunks = in.u64();
  head.rows = in.u64();
}

/// The xids of a snapshot, ascending, as distances.
inline void write_xids(Buffer &out, std::uint64_t from, const std::uint64_t *xids, std::size_t count) {
  out.varint(count);
  for (std::size_t i = 0; i < count; i++) {
    out.varint(xids[i] - from);
    from = xids[i];
  }
}

/// Into `xids`, which has room for as many as read_count() said.
inline void read_xids(Reader &in, std::uint64_t from, std::uint64_t *xids, std::size_t count) {
  for (std::size_t i = 0; i < count; i++) {
    const std::uint64_t step = in.varint();
    if (from + step < from)
      in.fail();
    xids[i] = from += step;
  }
}

/// A number of things that follow, each of at least `least` bytes.
inline std::size_t read_count(Reader &in, std::size_t least) {
  const std::uint64_t count = in.varint();
  if (count > in.remaining() / least) {
    in.fail();
    return 0;
  }
  return static_cast<std::size_t>(count);
}

} // namespace seal_sync::core

#pragma once
// What is remembered about one batch from attempt to attempt: which rows this node refuses, and which
// partial updates found no row.
//
// Owned by the session, tied to a batch id, gone when the batch is done or another one comes. Rows are
// known by their place in the batch (ordinal), which stays the same when a batch is applied again.
// Bounded: a batch with more refusals than kMaxRefusals fails as a whole.

#include "core/wire.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

/// Chunk number (the last chunk counts as kLastChunk) and row in the chunk.
using Ordinal = uint64;
inline constexpr uint32 kLastChunk = 0xffffffff;
inline constexpr Ordinal ordinal_of(uint32 chunk, uint32 row) {
  return (static_cast<Ordinal>(chunk) << 32) | row;
}

inline constexpr int64 kMaxRefusals = 500000;
inline constexpr int64 kMaxWanted = 50000;
inline constexpr std::size_t kMaxText = 1024; // of a message or detail
// Once the texts of a batch take this much, further ones are cut to kShortText.
inline constexpr std::size_t kMaxTexts = 16 * 1024 * 1024;
inline constexpr std::size_t kShortText = 128;
// What is told of one batch about other keys and about rows that stand here.
inline constexpr std::size_t kMaxStanding = 16 * 1024 * 1024;

/// Another key that a refusal has to do with. In the encoding and the form in which they travel.
struct OtherKey {
  const char *schema, *table;
  const char *cluster; // of its row; empty: not known
  core::ByteSpan key;
  bool stands; // its row is here and in the way; else it is missing here
};

struct Refused {
  Ordinal ordinal; // hash key
  uint64 number; // of the table on this connection
  char *schema, *table; // of many refusals the texts are the same, and kept once
  uint8 kind;
  uint32 key_size;
  uint8 *key;
  char sqlstate[6];
  char *message, *detail, *constraint;
  OtherKey *other;      // nullptr: none is known
  core::ByteSpan image; // of the row that stands here: columns of wire::Standing and their number; empty: none
};

struct Wanted {
  Ordinal ordinal; // hash key
  uint64 table;
  uint32 key_size;
  uint8 *key;
  bool answered;
};

struct BatchNotes {
  MemoryContext context; // nullptr: nothing noted
  core::wire::Id id;
  HTAB *refused;
  HTAB *wanted;
  HTAB *wanted_keys; // hash of (table, key) -> Wanted
  int64 refused_count;
  std::size_t texts; // bytes of messages and details of refusals
  std::size_t standing; // bytes of what is told beyond that
  Refused *last;     // entry of `refused`
  int64 wanted_count;
  int64 unanswered;
  uint64 stages; // which ones the batch has: other ones give its rows other places
  int attempts;  // that ended with kRepeat
  bool careful;  // a plain attempt failed for a row of it
};

/// Forgets what belongs to another batch.
void begin_notes(BatchNotes *notes, MemoryContext parent, const core::wire::Id &id, uint64 stages);
void drop_notes(BatchNotes *notes);

/// Cuts a text of the server's encoding in place, between characters. Texts of errors may quote a value
/// of any size.
void cut_text(char *text, std::size_t limit = kMaxText);

bool is_refused(const BatchNotes *notes, Ordinal ordinal);
/// key and texts are copied, long texts cut. Refusing twice keeps the first reason. other: nullptr when there is
/// none, or nothing is to be told of it.
void refuse(BatchNotes *notes, Ordinal ordinal, uint64 table, const core::wire::Refusal &refusal, const OtherKey *other);
/// The row is not looked at any more.
void forget_refusal(BatchNotes *notes, Ordinal ordinal);
/// All refusals, each as wire::Refusal; returns their number.
uint64 write_refusals(const BatchNotes *notes, core::Buffer *out);
/// What stands behind them, each as wire::Standing, in the same order.
void write_standing(const BatchNotes *notes, core::Buffer *out);

bool is_wanted(const BatchNotes *notes, Ordinal ordinal);
void want(BatchNotes *notes, Ordinal ordinal, uint64 table, core::ByteSpan key);
/// A whole row or a delete for a wanted key has come.
void answer_wanted(BatchNotes *notes, uint64 table, core::ByteSpan key);
uint64 write_wanted(const BatchNotes *notes, core::Buffer *out);

} // namespace seal_sync::apply

// See refusals.hpp.
#include <algorithm>

#include "apply/refusals.hpp"

extern "C" {
#include "common/hashfn.h"
}

namespace seal_sync::apply {

namespace {

HTAB *make_hash(const char *name, Size key, Size entry, MemoryContext context) {
  HASHCTL control = {};
  control.keysize = key;
  control.entrysize = entry;
  control.hcxt = context;
  return hash_create(name, 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

struct WantedKey {
  uint64 hash; // of table and key bytes
  Wanted *first;
};

uint64 key_hash(uint64 table, core::ByteSpan key) {
  return hash_bytes_extended(key.data(), static_cast<int>(key.size()), table);
}

char *copy_text(MemoryContext context, std::string_view text) {
  char *copy = static_cast<char *>(MemoryContextAlloc(context, text.size() + 1));
  memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  return copy;
}

std::string_view cut(std::string_view text, std::size_t limit) {
  if (text.size() <= limit)
    return text;
  // Only the beginning is walked, however long the text is; the whole length may not fit into an int.
  const auto looked_at = static_cast<int>(Min(text.size(), limit + MAX_MULTIBYTE_CHAR_LEN));
  return text.substr(0, static_cast<std::size_t>(pg_mbcliplen(text.data(), looked_at, static_cast<int>(limit))));
}

/// `before` when it says the same: thousands of rows violate one constraint. What is shared is kept once, and sent with each.
char *share(BatchNotes *notes, char *before, std::string_view text) {
  if (before != nullptr && text == std::string_view(before, strlen(before)))
    return before;
  return copy_text(notes->context, text);
}

char *copy_cut(BatchNotes *notes, char *before, std::string_view text) {
  text = cut(text, notes->texts < kMaxTexts ? kMaxText : kShortText);
  notes->texts += text.size();
  return share(notes, before, text);
}

uint8 *copy_bytes(MemoryContext context, core::ByteSpan bytes) {
  auto *copy = static_cast<uint8 *>(MemoryContextAlloc(context, bytes.size() + 1));
  memcpy(copy, bytes.data(), bytes.size());
  return copy;
}

std::string_view view(const char *text) { return {text, strlen(text)}; }

} // namespace

void drop_notes(BatchNotes *notes) {
  const MemoryContext context = notes->context;
  *notes = BatchNotes{};
  if (context != nullptr)
    MemoryContextDelete(context);
}

void begin_notes(BatchNotes *notes, MemoryContext parent, const core::wire::Id &id, uint64 stages) {
  if (notes->context != nullptr && notes->id == id && notes->stages == stages)
    return;
  drop_notes(notes);
  const MemoryContext context =
      AllocSetContextCreate(parent, "seal_sync batch notes", ALLOCSET_DEFAULT_SIZES);
  notes->refused = make_hash("seal_sync refused rows", sizeof(Ordinal), sizeof(Refused), context);
  notes->wanted = make_hash("seal_sync wanted rows", sizeof(Ordinal), sizeof(Wanted), context);
  notes->wanted_keys = make_hash("seal_sync wanted keys", sizeof(uint64), sizeof(WantedKey), context);
  notes->id = id;
  notes->stages = stages;
  notes->context = context;
}

void cut_text(char *text, std::size_t limit) { text[cut({text, strlen(text)}, limit).size()] = '\0'; }

bool is_refused(const BatchNotes *notes, Ordinal ordinal) {
  return notes->refused_count > 0 && hash_search(notes->refused, &ordinal, HASH_FIND, nullptr) != nullptr;
}

namespace {

OtherKey *copy_other(BatchNotes *notes, const OtherKey &other) {
  auto *copy = static_cast<OtherKey *>(MemoryContextAlloc(notes->context, sizeof(OtherKey)));
  const OtherKey *const before = notes->last != nullptr ? notes->last->other : nullptr;
  *copy = other;
  copy->schema = share(notes, const_cast<char *>(before != nullptr ? before->schema : nullptr), other.schema);
  copy->table = share(notes, const_cast<char *>(before != nullptr ? before->table : nullptr), other.table);
  copy->cluster = share(notes, const_cast<char *>(before != nullptr ? before->cluster : nullptr), other.cluster);
  copy->key = {copy_bytes(notes->context, other.key), other.key.size()};
  notes->standing += sizeof(OtherKey) + other.key.size();
  return copy;
}

} // namespace

void refuse(BatchNotes *notes, Ordinal ordinal, uint64 table, const core::wire::Refusal &refusal,
            const OtherKey *other) {
  if (is_refused(notes, ordinal))
    return;
  if (notes->refused_count >= kMaxRefusals)
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
            errmsg("more than " INT64_FORMAT " rows of one batch are refused", kMaxRefusals),
            errdetail("The last one: %s.", copy_text(CurrentMemoryContext, cut(refusal.message, kMaxText))));
  // Copies before the entry: an error in between must not leave a half-filled one.
  Refused copy = {};
  copy.ordinal = ordinal;
  const Refused before = notes->last != nullptr ? *notes->last : Refused{};
  copy.number = table;
  copy.schema = share(notes, before.schema, refusal.schema);
  copy.table = share(notes, before.table, refusal.table);
  copy.kind = refusal.kind;
  copy.key = copy_bytes(notes->context, refusal.key);
  copy.key_size = static_cast<uint32>(refusal.key.size());
  memcpy(copy.sqlstate, refusal.sqlstate.data(), std::min<std::size_t>(refusal.sqlstate.size(), 5));
  copy.message = copy_cut(notes, before.message, refusal.message);
  copy.detail = copy_cut(notes, before.detail, refusal.detail);
  copy.constraint = share(notes, before.constraint, refusal.constraint);
  if (other != nullptr && notes->standing + other->key.size() < kMaxStanding)
    copy.other = copy_other(notes, *other);
  auto *entry = static_cast<Refused *>(hash_search(notes->refused, &ordinal, HASH_ENTER, nullptr));
  *entry = copy;
  notes->last = entry;
  notes->refused_count += 1;
}

void forget_refusal(BatchNotes *notes, Ordinal ordinal) {
  if (notes->refused_count == 0 || hash_search(notes->refused, &ordinal, HASH_REMOVE, nullptr) == nullptr)
    return;
  notes->refused_count -= 1;
  notes->last = nullptr; // it may have been that one
}

uint64 write_refusals(const BatchNotes *notes, core::Buffer *out) {
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, notes->refused);
  while (auto *entry = static_cast<Refused *>(hash_seq_search(&status))) {
    core::wire::Refusal refusal;
    refusal.schema = view(entry->schema);
    refusal.table = view(entry->table);
    refusal.kind = entry->kind;
    refusal.key = {entry->key, entry->key_size};
    refusal.sqlstate = view(entry->sqlstate);
    refusal.message = view(entry->message);
    refusal.detail = view(entry->detail);
    refusal.constraint = view(entry->constraint);
    write(*out, refusal);
  }
  return static_cast<uint64>(notes->refused_count);
}

void write_standing(const BatchNotes *notes, core::Buffer *out) {
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, notes->refused);
  while (const auto *entry = static_cast<const Refused *>(hash_seq_search(&status))) {
    core::wire::Standing standing;
    if (entry->other != nullptr) {
      standing.flags = core::wire::Standing::kOther;
      if (entry->other->stands)
        standing.flags |= core::wire::Standing::kOtherStands;
      standing.schema = view(entry->other->schema);
      standing.table = view(entry->other->table);
      standing.cluster = view(entry->other->cluster);
      standing.key = entry->other->key;
    }
    if (entry->image.empty()) {
      write(*out, standing);
      continue;
    }
    core::Reader image(entry->image);
    standing.flags |= core::wire::Standing::kImage;
    standing.columns = image.varint();
    write(*out, standing);
    out->bytes(image.position(), image.remaining());
  }
}

bool is_wanted(const BatchNotes *notes, Ordinal ordinal) {
  return notes->wanted_count > 0 && hash_search(notes->wanted, &ordinal, HASH_FIND, nullptr) != nullptr;
}

void want(BatchNotes *notes, Ordinal ordinal, uint64 table, core::ByteSpan key) {
  if (is_wanted(notes, ordinal))
    return; // seen before a segment was rolled back
  uint8 *const copy = copy_bytes(notes->context, key);
  auto *entry = static_cast<Wanted *>(hash_search(notes->wanted, &ordinal, HASH_ENTER, nullptr));
  entry->table = table;
  entry->key = copy;
  entry->key_size = static_cast<uint32>(key.size());
  entry->answered = false;
  const uint64 hash = key_hash(table, key);
  bool found;
  auto *by_key = static_cast<WantedKey *>(hash_search(notes->wanted_keys, &hash, HASH_ENTER, &found));
  if (!found)
    by_key->first = entry;
  else // the same key twice in a batch, or two keys with one 64-bit hash: neither is in the contract
    entry->answered = true;
  notes->wanted_count += 1;
  if (!entry->answered)
    notes->unanswered += 1;
}

void answer_wanted(BatchNotes *notes, uint64 table, core::ByteSpan key) {
  const uint64 hash = key_hash(table, key);
  auto *by_key = static_cast<WantedKey *>(hash_search(notes->wanted_keys, &hash, HASH_FIND, nullptr));
  if (by_key != nullptr && !by_key->first->answered) {
    by_key->first->answered = true;
    notes->unanswered -= 1;
  }
}

uint64 write_wanted(const BatchNotes *notes, core::Buffer *out) {
  if (notes->context == nullptr)
    return 0;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, notes->wanted);
  uint64 count = 0;
  while (auto *entry = static_cast<Wanted *>(hash_seq_search(&status))) {
    if (entry->answered)
      continue;
    out->varint(entry->table);
    out->sized({entry->key, entry->key_size});
    ++count;
  }
  return count;
}

} // namespace seal_sync::apply

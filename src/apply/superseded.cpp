// See superseded.hpp.
#include "apply/superseded.hpp"

#include "apply/reply.hpp"
#include "apply/section_rows.hpp"
#include "apply/staged_batch.hpp"
#include "apply/wire_row.hpp"

extern "C" {
#include "commands/tablespace.h"
}

namespace seal_sync::apply {

struct Superseded {
  BufFile *file; // of Ordinal, ascending
  uint64 count;
  uint64 read;  // of them
  Ordinal next; // the one that was read last
};

namespace {

constexpr Ordinal kNone = PG_UINT64_MAX;

constexpr uint64 kMostMemory = 64 * 1024; // kB, for the keys of a walk; maintenance_work_mem when that is less

struct KeyHash {
  uint64 first, second;
};

/// The last row of each key among those that supersede others; open addressing.
struct LaterKeys {
  struct Slot {
    KeyHash key;
    Ordinal ordinal; // kNone: free
  } *slots;
  uint64 mask;
  uint64 used, most; // beyond, looking up takes too long
};

struct Search {
  Attempt *attempt;
  core::ByteSpan last_chunk;
  uint64 seeds[2];
  uint64 walks, walk; // a walk looks at the keys of one part of the hash
  LaterKeys keys;
  core::Buffer key;         // of the row at hand
  MemoryContext chunks;     // reset with each chunk
  Tuplesortstate *ordinals; // of several walks
  Superseded *found;
};

// ---- the keys -----------------------------------------------------------------------------------------

/// How many slots the keys of a walk may have, a power of two.
uint64 most_slots() {
  const uint64 memory = Min(static_cast<uint64>(maintenance_work_mem), kMostMemory) * 1024;
  uint64 size = 1024;
  while (size * 2 * sizeof(LaterKeys::Slot) <= memory)
    size *= 2;
  return size;
}

/// Of keys that are spread by their hash.
uint64 keys_per_walk() { return most_slots() / 4 * 3; }

void make_keys(LaterKeys *keys, uint64 expected) {
  uint64 size = 1024;
  while (size < most_slots() && size / 2 < expected)
    size *= 2;
  keys->most = size - size / 16;
  keys->slots = static_cast<LaterKeys::Slot *>(
      MemoryContextAllocHuge(CurrentMemoryContext, sizeof(LaterKeys::Slot) * size));
  keys->mask = size - 1;
}

void clear_keys(LaterKeys *keys) {
  for (uint64 i = 0; i <= keys->mask; ++i)
    keys->slots[i].ordinal = kNone;
  keys->used = 0;
}

LaterKeys::Slot *find_slot(const LaterKeys *keys, const KeyHash &key) {
  uint64 at = key.first & keys->mask;
  while (keys->slots[at].ordinal != kNone &&
         (keys->slots[at].key.first != key.first || keys->slots[at].key.second != key.second))
    at = (at + 1) & keys->mask;
  return &keys->slots[at];
}

void note_later(LaterKeys *keys, const KeyHash &key, Ordinal ordinal) {
  LaterKeys::Slot *const slot = find_slot(keys, key);
  if (slot->ordinal != kNone) {
    slot->ordinal = Max(slot->ordinal, ordinal);
    return;
  }
  if (keys->used >= keys->most) // cannot happen: hashes are spread
    elog(ERROR, "too many keys for one walk through the stages");
  *slot = {key, ordinal};
  keys->used += 1;
}

// ---- walking ------------------------------------------------------------------------------------------

/// fn(ordinal, key) for each row of a section whose key is looked at in this walk.
template <typename Fn>
void walk_keys(Search *search, const Descriptor *descriptor, const core::wire::Section &section, Ordinal first, Fn fn) {
  SectionRows rows = section_rows(descriptor, section);
  auto *values = static_cast<WireValue *>(palloc(sizeof(WireValue) * static_cast<Size>(rows.column_count)));
  const NameData names[2] = {descriptor->schema, descriptor->table};
  uint64 seeds[2];
  for (int i = 0; i < 2; ++i)
    seeds[i] = hash_bytes_extended(reinterpret_cast<const unsigned char *>(names), sizeof names, search->seeds[i]);
  for (uint64 i = 0; i < section.rows; ++i) {
    search->key.size = 0;
    if (!parse_row(rows.body, descriptor, rows.columns, rows.column_count, values) ||
        !write_key(&search->key, descriptor, rows.columns, rows.column_count, values))
      damaged_message("data");
    const auto size = static_cast<int>(search->key.size);
    const KeyHash key = {hash_bytes_extended(search->key.data, size, seeds[0]),
                         hash_bytes_extended(search->key.data, size, seeds[1])};
    if (key.second % search->walks == search->walk)
      fn(first + i, key);
  }
}

/// fn(section, descriptor, name of the table, place of its first row) for each section with rows of a staged table.
template <typename Fn> void walk_sections(Search *search, const BatchChunk &chunk, Ordinal first, Fn fn) {
  core::wire::SectionReader sections(chunk.bytes);
  core::wire::Section section;
  while (sections.next(section)) {
    if (section.rows > 0) {
      const Descriptor *const descriptor = batch_descriptor(search->attempt, chunk.dialect, section.table);
      if (StagedName *const name = staged_name(search->attempt, descriptor); name != nullptr)
        fn(section, descriptor, name, first);
    }
    first += section.rows;
  }
  if (sections.damaged())
    damaged_message("data");
}

template <typename Fn> void walk_chunk(Search *search, uint32 number, Fn fn) {
  const MemoryContext caller = MemoryContextSwitchTo(search->chunks);
  const BatchChunk chunk = number == kLastChunk ? BatchChunk{search->last_chunk, 0, 0}
                                                : read_batch_chunk(search->attempt, number);
  walk_sections(search, chunk, ordinal_of(number, 0), [&](const auto &section, auto *descriptor, auto *name, Ordinal first) {
    fn(chunk, section, descriptor, name, first);
  });
  MemoryContextSwitchTo(caller);
  MemoryContextReset(search->chunks);
  CHECK_FOR_INTERRUPTS();
}

/// Whole rows and deletes of a chunk that have others before them. `part`: of a stage, PG_UINT32_MAX: of none.
void gather_of(Search *search, uint32 number, uint32 part) {
  walk_chunk(search, number, [&](const BatchChunk &chunk, const core::wire::Section &section,
                                 const Descriptor *descriptor, StagedName *name, Ordinal first) {
    if (section.kind == 'P' || (part == name->part && chunk.pass <= name->pass))
      return;
    name->later = true;
    walk_keys(search, descriptor, section, first,
              [&](Ordinal ordinal, const KeyHash &key) { note_later(&search->keys, key, ordinal); });
  });
}

/// The first chunk of a stage that may have such rows.
uint32 first_later(const StagedPart &part) {
  return part.shares ? 0 : static_cast<uint32>(part.header.first_pass_chunks);
}

void gather(Search *search) {
  const StagedBatch *const staged = search->attempt->staged;
  for (uint32 i = 0; i < staged->count; ++i) {
    const StagedPart &part = staged->parts[i];
    for (uint32 chunk = first_later(part); chunk < static_cast<uint32>(part.header.chunks); ++chunk)
      gather_of(search, part.first + chunk, i);
  }
  for (uint32 chunk = staged->chunks; chunk < batch_chunks(search->attempt); ++chunk)
    gather_of(search, chunk, PG_UINT32_MAX);
  gather_of(search, kLastChunk, PG_UINT32_MAX);
}

// ---- what they supersede ------------------------------------------------------------------------------

void keep(Superseded *found, Ordinal ordinal) {
  BufFileWrite(found->file, &ordinal, sizeof ordinal);
  found->count += 1;
}

void supersede(Search *search, Ordinal ordinal) {
  forget_refusal(&search->attempt->session->notes, ordinal);
  if (search->ordinals == nullptr)
    keep(search->found, ordinal);
  else
    tuplesort_putdatum(search->ordinals, Int64GetDatum(static_cast<int64>(ordinal)), false);
}

void look_through_stages(Search *search) {
  for (uint32 number = 0; number < search->attempt->staged->chunks; ++number)
    walk_chunk(search, number, [&](const BatchChunk &, const core::wire::Section &section,
                                   const Descriptor *descriptor, const StagedName *name, Ordinal first) {
      if (!name->later)
        return;
      walk_keys(search, descriptor, section, first, [&](Ordinal ordinal, const KeyHash &key) {
        const LaterKeys::Slot *const slot = find_slot(&search->keys, key);
        if (slot->ordinal != kNone && slot->ordinal > ordinal)
          supersede(search, ordinal);
      });
    });
}

void walk_all(Search *search) {
  for (search->walk = 0; search->walk < search->walks; ++search->walk) {
    clear_keys(&search->keys);
    gather(search);
    if (search->keys.used > 0)
      look_through_stages(search);
  }
  if (search->ordinals == nullptr)
    return;
  tuplesort_performsort(search->ordinals);
  Datum ordinal;
  while (pg::tuplesort_getdatum(search->ordinals, &ordinal))
    keep(search->found, static_cast<Ordinal>(DatumGetInt64(ordinal)));
  tuplesort_end(search->ordinals);
}

/// At most so many keys can have come before.
uint64 most_later(const Attempt *attempt, core::ByteSpan last_chunk) {
  uint64 rows = attempt->session->buffer.rows + check_chunk(last_chunk);
  for (uint32 i = 0; i < attempt->staged->count; ++i) {
    const StagedPart &part = attempt->staged->parts[i];
    rows += static_cast<uint64>(part.header.rows - (part.shares ? 0 : part.header.first_pass_rows));
  }
  return rows;
}

/// It must outlive the subtransactions of careful mode.
BufFile *create_file(Attempt *attempt) {
  const ResourceOwner owner = CurrentResourceOwner;
  CurrentResourceOwner = attempt->owner;
  PrepareTempTablespaces();
  BufFile *const file = BufFileCreateTemp(false);
  CurrentResourceOwner = owner;
  return file;
}

} // namespace

void find_superseded(Attempt *attempt, core::ByteSpan last_chunk) {
  attempt->superseded = nullptr;
  if (attempt->staged == nullptr)
    return;
  const uint64 rows = most_later(attempt, last_chunk);
  if (rows == 0 || attempt->staged->chunks == 0)
    return;
  const MemoryContext caller = MemoryContextSwitchTo(attempt->context);
  auto *found = static_cast<Superseded *>(palloc0(sizeof(Superseded)));
  found->file = create_file(attempt);
  const MemoryContext context =
      AllocSetContextCreate(attempt->context, "seal_sync superseded rows", ALLOCSET_DEFAULT_SIZES);
  MemoryContextSwitchTo(context);
  Search search = {};
  search.attempt = attempt;
  search.last_chunk = last_chunk;
  search.walks = (rows + keys_per_walk() - 1) / keys_per_walk();
  search.key = make_buffer(context);
  search.chunks = AllocSetContextCreate(context, "seal_sync chunk", ALLOCSET_DEFAULT_SIZES);
  search.found = found;
  if (!pg_strong_random(search.seeds, sizeof search.seeds))
    ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate random numbers"));
  make_keys(&search.keys, Min(rows, keys_per_walk()));
  if (search.walks > 1)
    search.ordinals = tuplesort_begin_datum(INT8OID, Int8LessOperator, InvalidOid, false, work_mem, nullptr, 0);
  walk_all(&search);
  MemoryContextSwitchTo(caller);
  MemoryContextDelete(context);
  // Refusals of rows that are superseded now are forgotten; what this attempt finds out is counted from here.
  attempt->refused_before = attempt->session->notes.refused_count;
  if (found->count > 0)
    attempt->superseded = found;
  else
    BufFileClose(found->file);
}

// ---- asking -------------------------------------------------------------------------------------------

namespace {

Ordinal read_at(Superseded *superseded, uint64 index) {
  if (index >= superseded->count)
    return kNone;
  Ordinal ordinal;
  if (BufFileRead(superseded->file, &ordinal, sizeof ordinal) != sizeof ordinal)
    ereport(ERROR, errcode_for_file_access(), errmsg("could not read a temporary file: %m"));
  return ordinal;
}

void go_to(Superseded *superseded, uint64 index) {
  if (BufFileSeek(superseded->file, 0, static_cast<off_t>(index * sizeof(Ordinal)), SEEK_SET) != 0)
    ereport(ERROR, errcode_for_file_access(), errmsg("could not seek in a temporary file: %m"));
}

} // namespace

void seek_superseded(Superseded *superseded, Ordinal from) {
  if (superseded == nullptr)
    return;
  uint64 low = 0, high = superseded->count; // the first that is not before `from`
  while (low < high && from > 0) {
    const uint64 middle = low + (high - low) / 2;
    go_to(superseded, middle);
    if (read_at(superseded, middle) < from)
      low = middle + 1;
    else
      high = middle;
  }
  superseded->read = from > 0 ? low : 0;
  go_to(superseded, superseded->read);
  superseded->next = read_at(superseded, superseded->read);
}

void close_superseded(Attempt *attempt) {
  if (attempt->superseded != nullptr)
    BufFileClose(attempt->superseded->file);
  attempt->superseded = nullptr;
}

bool is_superseded(Superseded *superseded, Ordinal ordinal) {
  if (superseded == nullptr)
    return false;
  while (superseded->next < ordinal)
    superseded->next = read_at(superseded, ++superseded->read);
  return superseded->next == ordinal;
}

} // namespace seal_sync::apply

#pragma once
// Building the bytea answers of the wire functions, and taking names out of requests.
//
// Used by every wire function. PostgreSQL regime. Invariant: nothing that came from the wire is used
// as text before its encoding was verified.

#include "core/wire.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

inline std::uint8_t *grow_in_context(std::uint8_t *old, std::size_t, std::size_t capacity, void *owner) {
  void *memory = old == nullptr
                     ? MemoryContextAllocHuge(static_cast<MemoryContext>(owner), capacity)
                     : repalloc_huge(old, capacity);
  return static_cast<std::uint8_t *>(memory);
}

inline core::Buffer make_buffer(MemoryContext owner) {
  core::Buffer buffer;
  buffer.grow = grow_in_context;
  buffer.owner = owner;
  return buffer;
}

/// A buffer whose first bytes will become the header of a bytea.
inline core::Buffer begin_reply() {
  core::Buffer reply = make_buffer(CurrentMemoryContext);
  reply.u32(0);
  return reply;
}
inline Datum finish_reply(core::Buffer &reply) {
  if (!AllocSizeIsValid(reply.size))
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
            errmsg("an answer to a peer is too long: %zu bytes", static_cast<std::size_t>(reply.size)));
  SET_VARSIZE(reply.data, reply.size);
  return PointerGetDatum(reply.data);
}

inline core::ByteSpan bytes_of(const bytea *value) {
  return {reinterpret_cast<const std::uint8_t *>(VARDATA_ANY(value)),
          static_cast<std::size_t>(VARSIZE_ANY_EXHDR(value))};
}

inline std::string_view view_of(const char *text) {
  return text == nullptr ? std::string_view() : std::string_view(text, strlen(text));
}

/// For the codes of core/wire.hpp.
inline int sqlstate_of(const char *s) { return MAKE_SQLSTATE(s[0], s[1], s[2], s[3], s[4]); }

[[noreturn]] inline void damaged_message(const char *which) {
  ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("damaged %s message from a peer", which));
  pg_unreachable();
}

/// Verified, converted, zero-terminated.
inline char *text_from_wire(std::string_view text, int encoding) {
  char *const copy = pnstrdup(text.data() == nullptr ? "" : text.data(), text.size());
  if (strlen(copy) != text.size())
    damaged_message("text in a"); // a zero byte inside
  return pg_any_to_server(copy, static_cast<int>(text.size()), encoding);
}

inline void name_from_wire(std::string_view text, int encoding, NameData *name) {
  const char *const converted = text_from_wire(text, encoding);
  if (strlen(converted) >= NAMEDATALEN)
    ereport(ERROR, errcode(ERRCODE_NAME_TOO_LONG), errmsg("name in a message from a peer is too long"));
  namestrcpy(name, converted);
}

inline pg_uuid_t uuid_of(const core::wire::Id &id) {
  pg_uuid_t uuid;
  static_assert(sizeof uuid.data == sizeof id.bytes);
  memcpy(uuid.data, id.bytes, sizeof uuid.data);
  return uuid;
}
inline core::wire::Id id_of(const pg_uuid_t &uuid) {
  core::wire::Id id;
  memcpy(id.bytes, uuid.data, sizeof id.bytes);
  return id;
}

} // namespace seal_sync::apply

#pragma once
// The canonical bytes of values: equal for equal values on any two servers, different for different ones.
//
// Written by reconcile/canonical_value, which walks Datums, and hashed by core/row_hash. "Equal" is bit for bit what an
// application can see, not SQL's =: 1.0 is not 1.00, -0 not 0, 'ABC' not 'abc' under any collation, '1 day' not '24:00:00'.
// No OID, no collation, no setting, no server encoding: text comes as UTF-8, enums as their labels, types of columns by name,
// in the digest of the table's description. Invariant: prefix-free, each value says where it ends; so no two lists of values
// give the same bytes. Version 1; any change is a new version, which peers tell each other before they compare.
//
//   value    := 0                                          NULL
//             | 1 size(u8) bytes                           of a fixed width, little-endian
//             | 2 length(varint) bytes                     text and whatever is bytes
//             | 3 kind(u8) negative(u8) weight(zigzag) scale(varint) count(varint) digits(u16 each)      numeric, base 10000
//             | 4 dimensions(varint) { length(varint) lower(zigzag) } value...                            array
//             | 5 fields(varint) { name(sized) value }                                                    composite
//             | 6 flags(u8) [lower value] [upper value]                                                   range
//             | 7 count(varint) range...                                                                  multirange
//             | 8 json                                                                                    jsonb
//             | 9 length(varint) bytes                     the type's own text, under pinned settings
//   json     := 'n' | 't' | 'f' | '#' numeric | '"' text(sized) | '[' count(varint) json... | '{' count(varint) { key(sized) json }

#include "core/bytes.hpp"

#include <bit>
#include <cstdint>

namespace seal_sync::core::canonical {

inline constexpr std::uint32_t kVersion = 1;

enum class Tag : std::uint8_t { kNull, kFixed, kBytes, kNumeric, kArray, kComposite, kRange, kMultirange, kJson, kText };

enum class NumericKind : std::uint8_t { kFinite, kNan, kInfinity, kMinusInfinity };

/// As the server keeps it: digits[0] is worth 10000^weight. Leading and trailing zero digits may be there or not.
struct Numeric {
  NumericKind kind = NumericKind::kFinite;
  bool negative = false;
  std::int32_t weight = 0;
  std::uint32_t scale = 0; // digits behind the point that are shown
  const std::int16_t *digits = nullptr;
  std::uint32_t count = 0;
};

// Flags of a range
inline constexpr std::uint8_t kEmpty = 1, kLowerInclusive = 2, kUpperInclusive = 4, kLowerInfinite = 8, kUpperInfinite = 16;

inline void tag(Buffer &out, Tag value) { out.u8(static_cast<std::uint8_t>(value)); }

constexpr std::uint64_t zigzag(std::int64_t value) noexcept {
  return (static_cast<std::uint64_t>(value) << 1) ^ static_cast<std::uint64_t>(value >> 63);
}

inline void null(Buffer &out) { tag(out, Tag::kNull); }

template <typename T> void fixed(Buffer &out, T value) {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_floating_point_v<T>);
  tag(out, Tag::kFixed);
  out.u8(sizeof(T));
  out.fixed(value);
}
inline void fixed(Buffer &out, ByteSpan bytes) { // up to 255
  tag(out, Tag::kFixed);
  out.u8(static_cast<std::uint8_t>(bytes.size()));
  out.bytes(bytes.data(), bytes.size());
}

/// There is one NaN, as for SQL; -0 stays what it is.
constexpr std::uint64_t real_bits(double value) noexcept {
  return value != value ? std::uint64_t{0x7ff8000000000000} : std::bit_cast<std::uint64_t>(value);
}
inline void real(Buffer &out, double value) { fixed(out, real_bits(value)); }
inline void real(Buffer &out, float value) {
  fixed(out, value != value ? std::uint32_t{0x7fc00000} : std::bit_cast<std::uint32_t>(value));
}

/// What follows are exactly so many bytes, in any number of pieces.
inline void begin_bytes(Buffer &out, std::uint64_t length) {
  tag(out, Tag::kBytes);
  out.varint(length);
}
inline void bytes(Buffer &out, ByteSpan value) {
  begin_bytes(out, value.size());
  out.bytes(value.data(), value.size());
}

/// The type's own text, where nothing here knows the type.
inline void text(Buffer &out, ByteSpan value) {
  tag(out, Tag::kText);
  out.sized(value);
}

/// Without a tag: what stands in a jsonb and what a column has.
inline void numeric_body(Buffer &out, const Numeric &value) {
  const std::int16_t *digits = value.digits;
  std::uint32_t count = value.kind == NumericKind::kFinite ? value.count : 0;
  std::int32_t weight = value.weight;
  for (; count > 0 && digits[0] == 0; digits++, count--)
    weight--;
  while (count > 0 && digits[count - 1] == 0)
    count--;
  out.u8(static_cast<std::uint8_t>(value.kind));
  out.u8(count > 0 && value.negative ? 1 : 0); // no -0
  out.varint(zigzag(count > 0 ? weight : 0));
  out.varint(value.kind == NumericKind::kFinite ? value.scale : 0);
  out.varint(count);
  for (std::uint32_t i = 0; i < count; i++)
    out.u16(static_cast<std::uint16_t>(digits[i]));
}
inline void numeric(Buffer &out, const Numeric &value) {
  tag(out, Tag::kNumeric);
  numeric_body(out, value);
}

/// Elements follow, as values, in the order of storage. No dimensions: an empty array.
inline void begin_array(Buffer &out, std::uint32_t dimensions, const int *lengths, const int *lower) {
  tag(out, Tag::kArray);
  out.varint(dimensions);
  for (std::uint32_t i = 0; i < dimensions; i++) {
    out.varint(static_cast<std::uint32_t>(lengths[i]));
    out.varint(zigzag(lower[i]));
  }
}

/// Fields follow, each a name and a value, by name in the order of bytes: the order of columns is not what a value is.
inline void begin_composite(Buffer &out, std::uint32_t fields) {
  tag(out, Tag::kComposite);
  out.varint(fields);
}
inline void field(Buffer &out, std::string_view name) { out.text(name); }

/// Bounds that are neither infinite nor of an empty range follow, as values.
inline void begin_range(Buffer &out, std::uint8_t flags) {
  tag(out, Tag::kRange);
  out.u8((flags & kEmpty) != 0 ? kEmpty : flags);
}
inline void begin_multirange(Buffer &out, std::uint32_t count) {
  tag(out, Tag::kMultirange);
  out.varint(count);
}

inline void begin_json(Buffer &out) { tag(out, Tag::kJson); }
inline void json_null(Buffer &out) { out.u8('n'); }
inline void json_bool(Buffer &out, bool value) { out.u8(value ? 't' : 'f'); }
inline void json_numeric(Buffer &out, const Numeric &value) {
  out.u8('#');
  numeric_body(out, value);
}
inline void json_string(Buffer &out, std::string_view value) {
  out.u8('"');
  out.text(value);
}
inline void json_array(Buffer &out, std::uint32_t count) {
  out.u8('[');
  out.varint(count);
}
/// Pairs follow, by key in the order of bytes: the server orders by length first, in its own encoding.
inline void json_object(Buffer &out, std::uint32_t count) {
  out.u8('{');
  out.varint(count);
}
inline void json_key(Buffer &out, std::string_view key) { out.text(key); }

} // namespace seal_sync::core::canonical

#pragma once
// Byte-level reading and writing, shared by the change log's codec and the wire protocol.
//
// Everything here is trivially destructible and never throws, so the same code serves both regimes
// (C++ frames and frames that PostgreSQL's longjmp may skip). Reader is total: on bad input it turns
// "not ok", yields zeros and empty spans from then on, and never reads outside its bounds.
// Integers are little-endian; "varint" is LEB128 of an unsigned 64-bit number (at most 10 bytes).

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace seal_sync::core {

using ByteSpan = std::span<const std::uint8_t>;

class Reader {
public:
  Reader() noexcept = default;
  explicit Reader(ByteSpan bytes) noexcept : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  [[nodiscard]] bool ok() const noexcept { return ok_; }
  [[nodiscard]] bool at_end() const noexcept { return at_ == end_; }
  [[nodiscard]] std::size_t remaining() const noexcept { return static_cast<std::size_t>(end_ - at_); }
  [[nodiscard]] const std::uint8_t *position() const noexcept { return at_; }

  std::uint8_t u8() noexcept { return fixed<std::uint8_t>(); }
  std::uint16_t u16() noexcept { return fixed<std::uint16_t>(); }
  std::uint32_t u32() noexcept { return fixed<std::uint32_t>(); }
  std::uint64_t u64() noexcept { return fixed<std::uint64_t>(); }
  std::int64_t i64() noexcept { return static_cast<std::int64_t>(fixed<std::uint64_t>()); }

  std::uint64_t varint() noexcept {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const std::uint8_t byte = u8();
      if (shift == 63 && byte > 1)
        break; // would not fit 64 bits
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0)
        return ok_ ? value : 0;
    }
    fail();
    return 0;
  }

  ByteSpan bytes(std::uint64_t count) noexcept {
    if (count > remaining()) {
      fail();
      return {};
    }
    const ByteSpan span(at_, static_cast<std::size_t>(count));
    at_ += count;
    return span;
  }

  /// varint length, then that many bytes.
  ByteSpan sized() noexcept { return bytes(varint()); }

  std::string_view text() noexcept {
    const ByteSpan span = sized();
    return {reinterpret_cast<const char *>(span.data()), span.size()};
  }

  void fail() noexcept {
    ok_ = false;
    at_ = end_;
  }

private:
  template <typename T> T fixed() noexcept {
    if (remaining() < sizeof(T)) {
      fail();
      return 0;
    }
    T value;
    std::memcpy(&value, at_, sizeof(T)); // little-endian hosts only, see static_assert below
    at_ += sizeof(T);
    return value;
  }

  const std::uint8_t *at_ = nullptr;
  const std::uint8_t *end_ = nullptr;
  bool ok_ = true;
};

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "seal_sync keeps and ships integers as the host has them; a big-endian port needs swaps here"
#endif

/// A growing byte buffer without a destructor: its memory belongs to whoever provides `grow`
/// (a memory context in the server, a vector in the tests). grow() must return at least `needed`
/// bytes with the old content in front, or not return at all.
struct Buffer {
  using Grow = std::uint8_t *(*)(std::uint8_t *old, std::size_t old_capacity, std::size_t new_capacity,
                                 void *owner);

  std::uint8_t *data = nullptr;
  std::size_t size = 0;
  std::size_t capacity = 0;
  Grow grow = nullptr;
  void *owner = nullptr;

  [[nodiscard]] ByteSpan span() const noexcept { return {data, size}; }

  std::uint8_t *reserve(std::size_t count) {
    if (capacity - size < count) {
      std::size_t wanted = capacity < 512 ? 1024 : capacity * 2;
      if (wanted - size < count)
        wanted = size + count;
      data = grow(data, capacity, wanted, owner);
      capacity = wanted;
    }
    return data + size;
  }

  template <typename T> void fixed(T value) {
    std::memcpy(reserve(sizeof(T)), &value, sizeof(T));
    size += sizeof(T);
  }
  void u8(std::uint8_t value) { fixed(value); }
  void u16(std::uint16_t value) { fixed(value); }
  void u32(std::uint32_t value) { fixed(value); }
  void u64(std::uint64_t value) { fixed(value); }
  void i64(std::int64_t value) { fixed(value); }

  void varint(std::uint64_t value) {
    std::uint8_t *out = reserve(10);
    std::size_t used = 0;
    while (value >= 0x80) {
      out[used++] = static_cast<std::uint8_t>(value | 0x80);
      value >>= 7;
    }
    out[used++] = static_cast<std::uint8_t>(value);
    size += used;
  }

  void bytes(const void *source, std::size_t count) {
    if (count == 0)
      return;
    std::memcpy(reserve(count), source, count);
    size += count;
  }
  void sized(ByteSpan source) {
    varint(source.size());
    bytes(source.data(), source.size());
  }
  void text(std::string_view source) {
    varint(source.size());
    bytes(source.data(), source.size());
  }

  template <typename T> void patch(std::size_t offset, T value) noexcept {
    std::memcpy(data + offset, &value, sizeof(T));
  }
};

} // namespace seal_sync::core

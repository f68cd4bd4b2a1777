#pragma once
// Chunks that travel compressed: which are, how they look, and what the receiver asks of them.
//
// Packed by worker/route_link when the peer has wire::kFeatureZstd, unpacked by apply/unpack. A packed chunk is
// kPackedChunk, which is no kind of a section, then one zstd frame that tells its content's size and ends with
// the chunk. Each is packed on its own, so that one can be put again, or alone.
// Invariants: pack() never returns more bytes than it got; the size is known and bounded before a receiver
// allocates anything; unpack() writes exactly that many bytes or reports damage, whatever it is given.
// The frame carries a checksum. unpack() keeps a context per process and throws nothing: it serves both regimes.

#include "core/bytes.hpp"

#include <memory>
#include <vector>

struct ZSTD_CCtx_s;

namespace seal_sync::core {

inline constexpr std::uint8_t kPackedChunk = 'Z';

/// A larger chunk, which is one huge row, travels as it is: a few bytes must not make a receiver allocate more.
inline constexpr std::size_t kMaxUnpacked = std::size_t{64} << 20;

/// C++ regime: owns memory, throws std::bad_alloc.
class ChunkPacker {
public:
  /// The packed chunk, valid until the next call, or `chunk` itself when packing would not save a sixteenth.
  [[nodiscard]] ByteSpan pack(ByteSpan chunk);

private:
  struct Free {
    void operator()(ZSTD_CCtx_s *context) const noexcept;
  };
  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
  std::vector<std::uint8_t> out_;
};

[[nodiscard]] inline bool is_packed(ByteSpan chunk) noexcept { return !chunk.empty() && chunk[0] == kPackedChunk; }

/// From 1 to kMaxUnpacked; 0: damaged, or too large. Reads headers only.
[[nodiscard]] std::size_t unpacked_size(ByteSpan packed) noexcept;

enum class Unpacked { kFine, kDamaged, kNoMemory };

/// `size` must be what unpacked_size() has said.
[[nodiscard]] Unpacked unpack(ByteSpan packed, std::uint8_t *out, std::size_t size) noexcept;

} // namespace seal_sync::core

// See compression.hpp.
#include "core/compression.hpp"

#include <new>

#include <zstd.h>

namespace seal_sync::core {

namespace {

// The fastest level: the worker must not become the bottleneck of a link that is not so slow (bench/README.md).
constexpr int kLevel = 1;
constexpr std::size_t kMinChunk = 128; // below, the frame's own bytes eat what it saves
constexpr std::size_t kKeep = std::size_t{1} << 20;

ByteSpan frame_of(ByteSpan packed) noexcept { return packed.subspan(1); }

} // namespace

void ChunkPacker::Free::operator()(ZSTD_CCtx_s *context) const noexcept { ZSTD_freeCCtx(context); }

ByteSpan ChunkPacker::pack(ByteSpan chunk) {
  if (chunk.size() < kMinChunk || chunk.size() > kMaxUnpacked)
    return chunk;
  if (!context_) {
    context_.reset(ZSTD_createCCtx());
    if (!context_)
      throw std::bad_alloc();
    (void)ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, kLevel);
    (void)ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 1);
  }
  // No room for more than is worth sending: zstd gives up by itself where a chunk does not shrink.
  const std::size_t room = chunk.size() - chunk.size() / 16;
  if (out_.size() < room || (out_.size() > kKeep && room <= kKeep)) {
    out_.clear();
    out_.shrink_to_fit(); // one huge row must not hold its memory for ever
    out_.resize(room);
  }
  const std::size_t size = ZSTD_compress2(context_.get(), out_.data() + 1, room - 1, chunk.data(), chunk.size());
  if (ZSTD_isError(size) != 0)
    return chunk;
  out_[0] = kPackedChunk;
  return {out_.data(), size + 1};
}

std::size_t unpacked_size(ByteSpan packed) noexcept {
  constexpr std::uint8_t kMagic[] = {0x28, 0xb5, 0x2f, 0xfd}; // no skippable frame, no older format
  if (!is_packed(packed) || packed.size() < 1 + sizeof kMagic)
    return 0;
  const ByteSpan frame = frame_of(packed);
  if (std::memcmp(frame.data(), kMagic, sizeof kMagic) != 0)
    return 0;
  const unsigned long long size = ZSTD_getFrameContentSize(frame.data(), frame.size());
  // "Unknown" and "error" are numbers beyond every limit.
  if (size > kMaxUnpacked || ZSTD_findFrameCompressedSize(frame.data(), frame.size()) != frame.size())
    return 0;
  return static_cast<std::size_t>(size);
}

Unpacked unpack(ByteSpan packed, std::uint8_t *out, std::size_t size) noexcept {
  static ZSTD_DCtx *context = nullptr;
  if (context == nullptr)
    context = ZSTD_createDCtx();
  if (context == nullptr)
    return Unpacked::kNoMemory;
  const ByteSpan frame = frame_of(packed);
  // With all of the output in one piece zstd needs no window of its own: a frame cannot ask for memory.
  const std::size_t got = ZSTD_decompressDCtx(context, out, size, frame.data(), frame.size());
  return got == size ? Unpacked::kFine : Unpacked::kDamaged;
}

} // namespace seal_sync::core

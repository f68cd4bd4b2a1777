#include "core/compression.hpp"

#include <doctest/doctest.h>

#include <random>
#include <string>

using namespace seal_sync::core;

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes rows(std::size_t size) {
  std::string text;
  for (int i = 0; text.size() < size; ++i)
    text += "row number " + std::to_string(i);
  return {text.begin(), text.begin() + static_cast<std::ptrdiff_t>(size)};
}

Bytes noise(std::size_t size) {
  std::minstd_rand random(7);
  Bytes out(size);
  for (auto &byte : out)
    byte = static_cast<std::uint8_t>(random() >> 8);
  return out;
}

Bytes copy(ByteSpan bytes) { return {bytes.begin(), bytes.end()}; }

/// Nothing: damaged.
Bytes unpacked(ByteSpan packed) {
  Bytes out(unpacked_size(packed));
  if (out.empty() || unpack(packed, out.data(), out.size()) != Unpacked::kFine)
    return {};
  return out;
}

} // namespace

TEST_CASE("what is packed comes out again") {
  ChunkPacker packer;
  for (const std::size_t size : {128, 129, 1000, 256 * 1024, 3 << 20, 200}) {
    const Bytes chunk = rows(size);
    const Bytes packed = copy(packer.pack(chunk));
    CHECK(is_packed(packed));
    CHECK(packed.size() < chunk.size());
    CHECK(unpacked(packed) == chunk);
  }
}

TEST_CASE("what does not shrink, is tiny or huge stays as it is") {
  ChunkPacker packer;
  for (const Bytes &chunk : {noise(100'000), noise(128), rows(100), Bytes{}, Bytes(kMaxUnpacked + 1, 'D')}) {
    const ByteSpan same = packer.pack(chunk);
    CHECK(same.data() == chunk.data());
    CHECK(same.size() == chunk.size());
  }
  const Bytes largest(kMaxUnpacked, 'D');
  CHECK(unpacked(packer.pack(largest)) == largest);
}

TEST_CASE("every kind of a section is told from a packed chunk") {
  for (const char kind : {'D', 'W', 'P'})
    CHECK(kind != kPackedChunk);
  CHECK_FALSE(is_packed({}));
}

TEST_CASE("a damaged frame is noticed") {
  ChunkPacker packer;
  const Bytes chunk = rows(5000);
  const Bytes packed = copy(packer.pack(chunk));
  for (std::size_t size = 0; size < packed.size(); ++size)
    CHECK(unpacked(ByteSpan(packed).first(size)).empty());
  for (std::size_t i = 1; i < packed.size(); ++i) {
    Bytes changed = packed;
    changed[i] ^= 0x10;
    // Some bits mean nothing; content that is not what was packed never gets through.
    const Bytes out = unpacked(changed);
    CHECK((out.empty() || out == chunk));
  }
  Bytes longer = packed;
  longer.push_back(0);
  CHECK(unpacked(longer).empty());
  longer.insert(longer.end() - 1, packed.begin() + 1, packed.end()); // a second frame
  longer.pop_back();
  CHECK(unpacked(longer).empty());
}

TEST_CASE("a frame that announces too much, nothing or nothing at all") {
  // magic, descriptor (one segment, eight bytes of size), size, one last block of 10 times the byte 'x'
  const auto frame = [](std::uint64_t size) {
    Bytes out = {'Z', 0x28, 0xb5, 0x2f, 0xfd, 0xe0};
    for (int i = 0; i < 8; ++i)
      out.push_back(static_cast<std::uint8_t>(size >> 8 * i));
    out.insert(out.end(), {0x53, 0, 0, 'x'});
    return out;
  };
  CHECK(unpacked(frame(10)) == Bytes(10, 'x'));
  CHECK(unpacked_size(frame(kMaxUnpacked)) == kMaxUnpacked);
  CHECK(unpacked(frame(kMaxUnpacked)).empty());
  for (const std::uint64_t size : {std::uint64_t{kMaxUnpacked} + 1, ~std::uint64_t{0}, ~std::uint64_t{1}, std::uint64_t{0}})
    CHECK(unpacked_size(frame(size)) == 0);
  CHECK(unpacked(frame(9)).empty());
  CHECK(unpacked(frame(11)).empty());
  CHECK(unpacked_size(Bytes{'Z', 0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58, 0x53, 0, 0, 'x'}) == 0); // no size
  CHECK(unpacked_size(Bytes{'Z', 0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 'x'}) == 0);             // skippable
}

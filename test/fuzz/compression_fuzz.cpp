// A packed chunk from the wire is hostile: it may not unpack to more than was announced, nor beyond the bound, and what
// this side packs comes out as it went in.
#include "core/compression.hpp"

#include <algorithm>
#include <cstdlib>

using namespace seal_sync::core;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  static ChunkPacker packer;
  const ByteSpan bytes(data, size);

  const std::size_t announced = unpacked_size(bytes);
  if (announced > kMaxUnpacked)
    std::abort();
  if (announced > 0 && announced <= (1 << 20)) { // larger ones only cost the fuzzer time
    std::vector<std::uint8_t> out(announced);
    (void)unpack(bytes, out.data(), announced);
  }

  const ByteSpan packed = packer.pack(bytes);
  if (packed.size() > size)
    std::abort();
  if (packed.data() != data) {
    std::vector<std::uint8_t> out(unpacked_size(packed));
    if (out.size() != size || unpack(packed, out.data(), size) != Unpacked::kFine || !std::equal(out.begin(), out.end(), data))
      std::abort();
  }
  return 0;
}

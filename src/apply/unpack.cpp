// See unpack.hpp.
#include "apply/unpack.hpp"

#include "core/compression.hpp"

namespace seal_sync::apply {

core::ByteSpan unpack_chunk(core::ByteSpan chunk) {
  if (!core::is_packed(chunk))
    return chunk;
  const Size size = core::unpacked_size(chunk);
  core::Unpacked result = core::Unpacked::kDamaged;
  uint8 *out = nullptr;
  if (size > 0) {
    out = static_cast<uint8 *>(palloc(size));
    result = core::unpack(chunk, out, size);
  }
  if (result == core::Unpacked::kNoMemory)
    ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"),
            errdetail("A compressed chunk from a peer could not be unpacked."));
  if (result == core::Unpacked::kDamaged)
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("damaged compressed chunk from a peer"),
            errdetail("Of %zu bytes, for at most %zu bytes of content.", chunk.size(), core::kMaxUnpacked));
  return {out, size};
}

} // namespace seal_sync::apply

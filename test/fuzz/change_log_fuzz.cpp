// A damaged row of the change log is reported, never walked past its end.
#include "core/change_log_codec.hpp"

using namespace seal_sync::core;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  ChangeRunReader reader(ByteSpan(data, size));
  ChangeRun run;
  std::size_t total = 0;
  while (reader.next(run)) {
    for (const std::uint8_t byte : run.key_bytes)
      total += byte;
    for (const std::uint8_t byte : run.mask)
      total += byte;
  }
  return total == static_cast<std::size_t>(-1) ? 1 : 0;
}

// What a peer says of itself is hostile: no input may make the reader of core/configuration misbehave, and what it
// accepts it can write and read again.
#include "core/configuration.hpp"

#include <cstdlib>

using namespace seal_sync::core;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  ConfigurationRequest request;
  Reader in(ByteSpan(data, size));
  read(in, request);

  wire::Problem problem;
  Configuration configuration;
  if (!read_reply(ByteSpan(data, size), problem, configuration) || !problem.sqlstate.empty())
    return 0;
  std::size_t texts = 0;
  for_each_text(configuration, [&](std::string &, bool) { texts++; });
  Buffer out;
  out.grow = [](std::uint8_t *old, std::size_t, std::size_t wanted, void *) {
    return static_cast<std::uint8_t *>(std::realloc(old, wanted));
  };
  write_reply(out, kConfigurationVersion, configuration);
  Configuration back;
  if (!read_reply(out.span(), problem, back))
    std::abort();
  std::free(out.data);
  return texts == 0 ? 1 : 0;
}

// Runs a fuzz target over given files, for compilers without libFuzzer.
//
//   NAME_fuzz FILE...
//
// Besides each file as it is, every prefix of it and every single changed byte is tried: cheap, repeatable, and enough
// to notice a decoder that trusts a length.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size);

namespace {

constexpr std::size_t kMaxMutatedSize = 4096;

// A copy of exactly the right size, so that AddressSanitizer sees a read beyond the end
void run(const std::vector<std::uint8_t> &input, std::size_t size) {
  const std::vector<std::uint8_t> exact(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(size));
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

void replay(std::vector<std::uint8_t> input) {
  run(input, input.size());
  if (input.size() > kMaxMutatedSize)
    return;
  for (std::size_t size = 0; size < input.size(); ++size)
    run(input, size);
  for (auto &byte : input) {
    const auto original = byte;
    for (const int changed : {0x00, 0x01, 0x7f, 0x80, 0xff, original ^ 0x01}) {
      byte = static_cast<std::uint8_t>(changed);
      run(input, input.size());
    }
    byte = original;
  }
}

} // namespace

int main(int argc, char **argv) {
  replay({});
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "could not open %s\n", argv[i]);
      return 1;
    }
    replay(std::vector<std::uint8_t>(std::istreambuf_iterator<char>(file), {}));
  }
  std::printf("replayed %d files\n", argc - 1);
}

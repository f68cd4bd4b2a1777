#pragma once
// A core::Buffer that owns its memory, for the microbenchmarks.
#include "core/bytes.hpp"

#include <vector>

namespace seal_sync::bench {

class OwnBuffer : public core::Buffer {
public:
  OwnBuffer() {
    owner = &memory_;
    grow = [](std::uint8_t *, std::size_t, std::size_t wanted, void *memory) {
      auto *bytes = static_cast<std::vector<std::uint8_t> *>(memory);
      bytes->resize(wanted);
      return bytes->data();
    };
  }
  OwnBuffer(const OwnBuffer &) = delete;
  OwnBuffer &operator=(const OwnBuffer &) = delete;

private:
  std::vector<std::uint8_t> memory_;
};

} // namespace seal_sync::bench

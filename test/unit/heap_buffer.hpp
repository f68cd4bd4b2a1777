#pragma once
// A core::Buffer that owns its memory, for tests.

#include "core/bytes.hpp"

#include <cstdlib>

namespace seal_sync::test {

struct HeapBuffer : core::Buffer {
  HeapBuffer() {
    grow = [](std::uint8_t *old, std::size_t, std::size_t wanted, void *) {
      return static_cast<std::uint8_t *>(std::realloc(old, wanted));
    };
  }
  ~HeapBuffer() { std::free(data); }
  HeapBuffer(const HeapBuffer &) = delete;
  HeapBuffer &operator=(const HeapBuffer &) = delete;
};

} // namespace seal_sync::test

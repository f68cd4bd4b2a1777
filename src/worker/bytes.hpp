#pragma once
// A core::Buffer of the C++ regime: on the heap, freed with the scope.

#include "core/bytes.hpp"

#include <cstdlib>
#include <new>

namespace seal_sync::worker {

class ByteBuffer {
public:
  ByteBuffer() noexcept {
    buffer_.grow = [](std::uint8_t *old, std::size_t, std::size_t wanted, void *) {
      void *memory = std::realloc(old, wanted);
      if (memory == nullptr)
        throw std::bad_alloc();
      return static_cast<std::uint8_t *>(memory);
    };
  }
  ~ByteBuffer() { std::free(buffer_.data); }
  ByteBuffer(const ByteBuffer &) = delete;
  ByteBuffer &operator=(const ByteBuffer &) = delete;

  core::Buffer &operator*() noexcept { return buffer_; }
  core::Buffer *operator->() noexcept { return &buffer_; }

private:
  core::Buffer buffer_;
};

} // namespace seal_sync::worker

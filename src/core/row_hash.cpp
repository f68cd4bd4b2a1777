// See row_hash.hpp.
#include "core/row_hash.hpp"

#include <new>
#include <type_traits>

#define XXH_INLINE_ALL // no symbol of ours may clash with another library's xxHash in the server
#include <xxhash.h>

namespace seal_sync::core {

namespace {

static_assert(sizeof(RunSecret) >= XXH3_SECRET_SIZE_MIN);
static_assert(std::is_trivially_destructible_v<RowHasher>);

Hash128 of(XXH128_hash_t hash) noexcept { return {hash.low64, hash.high64}; }

} // namespace

void make_secret(RunSecret *secret, const RunSeed &seed) noexcept {
  // Not XXH3_generateSecret: that is not promised to stay. Counter mode over the seed, with XXH3 as the mixer, is.
  std::uint8_t block[sizeof seed.bytes + 1];
  std::memcpy(block, seed.bytes, sizeof seed.bytes);
  for (std::size_t at = 0; at < sizeof secret->bytes; at += 16) {
    block[sizeof seed.bytes] = static_cast<std::uint8_t>(at / 16);
    const Hash128 part = of(XXH3_128bits(block, sizeof block));
    std::memcpy(secret->bytes + at, &part.low, 8);
    std::memcpy(secret->bytes + at + 8, &part.high, 8);
  }
}

Hash128 hash_bytes(const RunSecret &secret, ByteSpan bytes) noexcept {
  return of(XXH3_128bits_withSecret(bytes.data(), bytes.size(), secret.bytes, sizeof secret.bytes));
}

void RowHasher::open(const RunSecret *secret, Buffer *row) noexcept {
  static_assert(sizeof(XXH3_state_t) <= sizeof state_ && alignof(XXH3_state_t) <= 64);
  secret_ = secret;
  row_ = row;
  begin();
}

void RowHasher::begin() noexcept {
  row_->size = 0;
  streaming_ = false;
}

void RowHasher::absorb() noexcept {
  auto *state = reinterpret_cast<XXH3_state_t *>(state_);
  if (!streaming_) {
    (void)XXH3_128bits_reset_withSecret(state, secret_->bytes, sizeof secret_->bytes);
    streaming_ = true;
  }
  (void)XXH3_128bits_update(state, row_->data, row_->size);
  row_->size = 0;
}

Hash128 RowHasher::end() noexcept {
  Hash128 hash;
  if (streaming_) {
    absorb();
    hash = of(XXH3_128bits_digest(reinterpret_cast<XXH3_state_t *>(state_)));
  } else {
    hash = hash_bytes(*secret_, row_->span());
  }
  begin();
  return hash;
}

} // namespace seal_sync::core

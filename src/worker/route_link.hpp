#pragma once
// The connection of a route and what both ends have agreed on: hello, identity, generation, which
// clusters go, and where the next batch starts.
//
// Used by worker/route_worker. Invariants (design section 4, traps T2, T4): the generation that the
// peer has issued is on disk before the first batch; a batch is only built on one that the peer holds
// by number AND id; a peer that is ahead of us or unknown to us halts the route, it never deletes.
// Throws core::Error; of SQLSTATE kContradiction (SSW04) when only a person can decide. C++ regime.

#include "core/compression.hpp"
#include "core/wire.hpp"
#include "remote/connection.hpp"
#include "scan/batch.hpp"

namespace seal_sync::worker {

/// The rows of this route in the configuration, as last read.
struct RouteRules {
  bool exists = false;
  std::string server;
  bool paused = false;
  std::string pause_reason;
  bool halted = false;
  std::string halt_message;
  bool token_known = false;
  core::wire::Id token;
  std::uint64_t generation = 0;
};
/// Inside a transaction.
RouteRules read_rules(const std::string &peer);

/// A cluster that this node is primary of and ships to the peer.
struct Claim {
  std::string cluster;
  std::uint64_t epoch = 0;
  [[nodiscard]] bool operator==(const Claim &) const = default;
};

class RouteLink {
public:
  explicit RouteLink(std::string peer) : peer_(std::move(peer)) {}
  ~RouteLink() { close(); }
  RouteLink(const RouteLink &) = delete;
  RouteLink &operator=(const RouteLink &) = delete;

  void connect(const remote::Target &target);
  /// When the peer last heard of this node over a connection that is still open, as text; empty: there is none, or the peer is
  /// too old to be asked. Before agree(), which would end that connection.
  std::string last_contact_of_another();
  /// Hello, then finds out what the peer holds. May be repeated on the same connection: the peer then
  /// forgets chunks and descriptions of before.
  void agree();
  void close() noexcept;

  [[nodiscard]] bool open() const noexcept { return session_ != nullptr; }
  [[nodiscard]] bool connected() const noexcept { return connection_ != nullptr; }
  [[nodiscard]] const remote::Target &target() const noexcept { return target_; }
  [[nodiscard]] remote::Connection &connection() noexcept { return *connection_; }
  [[nodiscard]] scan::Session *session() noexcept { return session_; }
  [[nodiscard]] std::uint64_t generation() const noexcept { return generation_; }
  [[nodiscard]] std::uint64_t hellos() const noexcept { return hellos_; } // so far, on any connection

  /// Whether what we would claim now differs from what we claimed. Inside a transaction.
  [[nodiscard]] bool claims_changed() const;
  /// Clusters that the peer does not take (yet), as text for a person; empty: all are taken.
  [[nodiscard]] const std::string &not_taken() const noexcept { return not_taken_; }

  /// A chunk as it travels on this connection: packed when that was agreed on and saves something. Valid until
  /// the next call.
  [[nodiscard]] core::ByteSpan packed(core::ByteSpan chunk) { return packs_ ? packer_.pack(chunk) : chunk; }

  // What the peer holds, and the number that the next batch gets.
  [[nodiscard]] const scan::HistoryEntry &held() const noexcept { return held_; }
  [[nodiscard]] std::uint64_t next_number() const noexcept { return last_number_ + 1; }
  void note_sent(std::uint64_t number) noexcept { last_number_ = number; }
  void note_held(std::uint64_t number, const core::wire::Id &id, const scan::Position &position);

  // Whether a large batch may be applied while it is sent (apply/stream.hpp). After one that failed some are
  // collected first; that outlives the connection, for a stall ends it.
  [[nodiscard]] bool may_stream() noexcept {
    if (collect_first_ == 0)
      return true;
    collect_first_--;
    return false;
  }
  void note_stream_begins() noexcept { collect_first_ = kCollectedAfterFailure; }
  void note_stream_done() noexcept { collect_first_ = 0; }

  struct PeerFacts {
    std::string version;
    std::uint32_t protocol = 0;
    std::int64_t clock_offset_us = 0;
    std::uint64_t config = 0; // of the peer's rules when it answered
    std::string tls;
    bool streams = false; // knows wire_begin
    bool sequences = false; // knows wire_sequences
    bool stages = false;  // knows wire_stage
    bool tells_standing = false; // knows kApplyTellStanding
    const char *compression = ""; // zstd, off, or unavailable: wanted, and the peer is too old for it
  };
  [[nodiscard]] const PeerFacts &facts() const noexcept { return facts_; }

private:
  struct Told; // the reply to a hello
  Told say_hello();
  void agree_on_compression(std::uint64_t features);
  void check_identity(const Told &told);
  void store_identity(const Told &told);
  void make_session(const Told &told);
  void find_position(const Told &told);
  remote::Bytes ask_for_refusals(const scan::HistoryEntry &entry, const scan::HistoryEntry &before);
  void keep_held(const scan::HistoryEntry &entry);

  static constexpr int kCollectedAfterFailure = 10;

  std::string peer_;
  int collect_first_ = 0;
  remote::Target target_;
  std::unique_ptr<remote::Connection> connection_;
  scan::Session *session_ = nullptr;
  MemoryContext held_context_ = nullptr;
  scan::HistoryEntry held_;
  std::uint64_t last_number_ = 0;
  std::uint64_t generation_ = 0;
  std::uint64_t hellos_ = 0;
  std::vector<Claim> claims_;
  std::uint64_t claims_version_ = 0; // of the rules that they were read from
  std::string not_taken_;
  bool packs_ = false;
  core::ChunkPacker packer_;
  PeerFacts facts_;
};

} // namespace seal_sync::worker

#pragma once
// What a batch has learnt of tables whose copy waits for the peer, until it can be written down.
//
// Used by worker/route_batch and worker/route_copy. A batch's own transaction must not write it: its row would be locked while the
// network is waited for, and with it table_remove(), which holds the user's table by then (trap T12). C++ regime.

#include "pg/boundary.hpp"
#include "scan/copies.hpp"

#include <string>
#include <vector>

namespace seal_sync::worker {

class CopyWaits {
public:
  [[nodiscard]] bool empty() const noexcept { return waits_.empty(); }

  /// Of the tables that the peer does not take. After all of them were described.
  void remember(const scan::Batch *batch) {
    if (!pg::call([batch] { return scan::has_copies(batch); })) // the usual case, once a batch
      return;
    std::vector<scan::CopyWait> found(kMost);
    const int count = pg::call([&] { return scan::waiting_copies(batch, found.data(), kMost); });
    for (int i = 0; i < count; i++)
      add(found[static_cast<std::size_t>(i)].job, found[static_cast<std::size_t>(i)].state, found[static_cast<std::size_t>(i)].message,
          found[static_cast<std::size_t>(i)].hint);
  }

  void add(std::int64_t job, std::string state, std::string message, std::string hint) {
    waits_.push_back({job, std::move(state), std::move(message), std::move(hint)});
  }

  /// In a transaction of its own.
  void note() {
    for (const Wait &wait : waits_)
      pg::call([&] { scan::note_copy_waits(wait.job, wait.state.c_str(), wait.message.c_str(), wait.hint.c_str()); });
    waits_.clear();
  }

private:
  static constexpr int kMost = 256; // the others in a later batch
  struct Wait {
    std::int64_t job;
    std::string state, message, hint;
  };
  std::vector<Wait> waits_;
};

} // namespace seal_sync::worker

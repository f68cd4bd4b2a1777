#pragma once
// Transactions and memory contexts as objects of the C++ regime: left by an exception, they clean up.

#include "pg/boundary.hpp"

namespace seal_sync::pg {

/// A transaction of a worker process, with or without a snapshot for queries. Rolled back unless
/// committed. The memory context of the caller is current again afterwards.
class Transaction {
public:
  enum class Snapshot { kNone, kActive };

  explicit Transaction(Snapshot snapshot = Snapshot::kNone) : context_(CurrentMemoryContext) {
    call([] {
      SetCurrentStatementStartTimestamp();
      StartTransactionCommand();
    });
    open_ = true; // before the snapshot: taking it may fail
    if (snapshot == Snapshot::kActive) {
      call([] { PushActiveSnapshot(GetTransactionSnapshot()); });
      pushed_ = true;
    }
  }
  ~Transaction() {
    if (open_)
      roll_back();
  }
  void commit() {
    call([this] {
      if (pushed_)
        PopActiveSnapshot();
      CommitTransactionCommand();
    });
    open_ = false;
    MemoryContextSwitchTo(context_);
  }
  void roll_back() noexcept {
    open_ = false;
    call_or_exit([] { AbortCurrentTransaction(); });
    MemoryContextSwitchTo(context_);
  }
  Transaction(const Transaction &) = delete;
  Transaction &operator=(const Transaction &) = delete;

private:
  MemoryContext context_;
  bool open_ = false;
  bool pushed_ = false;
};

/// A memory context that is current and goes away with the scope.
class ScratchContext {
public:
  explicit ScratchContext(const char *name) : before_(CurrentMemoryContext) {
    // The macro wants a literal only so that the name outlives the context; ours do.
    context_ = call([&] {
      return AllocSetContextCreateInternal(before_, name, ALLOCSET_DEFAULT_SIZES);
    });
    MemoryContextSwitchTo(context_);
  }
  ~ScratchContext() {
    MemoryContextSwitchTo(before_);
    MemoryContextDelete(context_);
  }
  void reset() noexcept { MemoryContextReset(context_); }
  [[nodiscard]] MemoryContext context() const noexcept { return context_; }
  ScratchContext(const ScratchContext &) = delete;
  ScratchContext &operator=(const ScratchContext &) = delete;

private:
  MemoryContext before_;
  MemoryContext context_;
};

} // namespace seal_sync::pg

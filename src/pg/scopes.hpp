#pragma once
// Transactions and memory contexts as objects of the C++ regime: left by an exception, they clean up.

#include "pg/boundary.hpp"

namespace seal_sync::pg {

/// A transaction of a worker process, with or without a snapshot for queries. Rolled back unless
/// committed. The memory context of the caller stays current: an error record made inside must outlive
/// the roll-back that it causes.
class Transaction {
public:
  enum class Snapshot { kNone, kActive };

  explicit Transaction(Snapshot snapshot = Snapshot::kNone) : context_(CurrentMemoryContext) {
    call([] {
      SetCurrentStatementStartTimestamp();
      StartTransactionCommand();
    });
    open_ = true;
    MemoryContextSwitchTo(context_);
    if (snapshot == Snapshot::kActive) {
      try { // the destructor does not run for what its constructor throws
        call([] { PushActiveSnapshot(GetTransactionSnapshot()); });
      } catch (...) {
        roll_back();
        throw;
      }
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

/// A memory context that is current and goes away with the scope; but not while an exception is on its
/// way, because the error record may lie in it. Then it goes with its parent.
class ScratchContext {
public:
  explicit ScratchContext(const char *name)
      : before_(CurrentMemoryContext), exceptions_(std::uncaught_exceptions()) {
    // The macro insists on a literal so that the name outlives the context; ours are literals.
    context_ = call([&] {
      return AllocSetContextCreateInternal(before_, name, ALLOCSET_DEFAULT_SIZES);
    });
    MemoryContextSwitchTo(context_);
  }
  ~ScratchContext() {
    MemoryContextSwitchTo(before_);
    if (std::uncaught_exceptions() == exceptions_)
      MemoryContextDelete(context_);
  }
  ScratchContext(const ScratchContext &) = delete;
  ScratchContext &operator=(const ScratchContext &) = delete;

private:
  MemoryContext before_;
  MemoryContext context_;
  int exceptions_;
};

} // namespace seal_sync::pg

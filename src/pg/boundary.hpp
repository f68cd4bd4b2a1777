#pragma once
// The boundary between PostgreSQL's longjmp and C++ destructors.
//
// Two regimes (see CONTRIBUTING.md). In the C++ regime objects with destructors live on the stack,
// and every call into the server goes through pg::call(), which turns ereport(ERROR) into pg::Error.
// In the PostgreSQL regime ereport flies freely and nothing on the stack has a destructor. A function
// that PostgreSQL calls and that wants the C++ regime starts with pg::entry().
// Invariant: no longjmp ever skips a destructor, and no exception ever reaches a C frame.

#include "pg/postgres.hpp"

namespace seal_sync::pg {

/// A PostgreSQL error travelling through C++ frames. The record lives in the memory context that was
/// current at call(); nothing here owns it.
class Error : public std::exception {
public:
  explicit Error(ErrorData *edata) noexcept : edata_(edata) {}
  const char *what() const noexcept override { return edata_->message ? edata_->message : ""; }
  [[nodiscard]] int sqlstate() const noexcept { return edata_->sqlerrcode; }
  [[nodiscard]] ErrorData *data() const noexcept { return edata_; }

private:
  ErrorData *edata_;
};

namespace detail {
/// Points elog.c at our landing place and puts the old one back, whichever way the scope is left.
class ExceptionStackScope {
public:
  explicit ExceptionStackScope(sigjmp_buf *landing) noexcept
      : stack_(PG_exception_stack), context_(error_context_stack) {
    PG_exception_stack = landing;
  }
  ~ExceptionStackScope() {
    PG_exception_stack = stack_;
    error_context_stack = context_;
  }
  ExceptionStackScope(const ExceptionStackScope &) = delete;
  ExceptionStackScope &operator=(const ExceptionStackScope &) = delete;

private:
  sigjmp_buf *stack_;
  ErrorContextCallback *context_;
};

[[noreturn]] void throw_pending_error(MemoryContext caller);
} // namespace detail

/// Calls into the server. fn may ereport(ERROR); it becomes pg::Error here.
/// fn must hold nothing with a destructor: the jump skips its frame.
template <typename Fn> auto call(Fn &&fn) -> std::invoke_result_t<Fn &> {
  using Result = std::invoke_result_t<Fn &>;
  static_assert(std::is_void_v<Result> || std::is_trivially_destructible_v<Result>,
                "the jump would skip the destructor of the result");
  const MemoryContext caller = CurrentMemoryContext;
  {
    sigjmp_buf landing;
    const detail::ExceptionStackScope scope(&landing);
    if (sigsetjmp(landing, 0) == 0) // 0: like PG_TRY, no signal-mask system call
      return fn();
  }
  detail::throw_pending_error(caller);
}

/// What is left of an exception once its object is gone. Fixed size, so that recording cannot fail.
struct PendingReport {
  int sqlstate = 0;
  ErrorData *edata = nullptr;
  std::array<char, 1024> message{};
  std::array<char, 1024> detail{};
  std::array<char, 1024> hint{};
};
static_assert(std::is_trivially_destructible_v<PendingReport>);

void record_current_exception(PendingReport &report) noexcept;
[[noreturn]] void raise(const PendingReport &report); // the only ereport(ERROR) of the C++ regime

/// Server -> C++. Wraps SQL functions, worker mains and callbacks that want the C++ regime.
template <typename Fn> auto entry(Fn &&fn) -> std::invoke_result_t<Fn &> {
  PendingReport report;
  sigjmp_buf *const stack = PG_exception_stack;
  ErrorContextCallback *const context = error_context_stack;
  try {
    return fn();
  } catch (...) {
    record_current_exception(report);
  }
  // Raised after the handler: the exception object is destroyed, no C++ frame below us is skipped.
  PG_exception_stack = stack;
  error_context_stack = context;
  raise(report);
}

/// For destructors: cleanup that may ereport. If even that fails, this process leaves;
/// std::terminate would take the whole server down.
template <typename Fn> void call_or_exit(Fn &&fn) noexcept {
  PendingReport report;
  try {
    call(std::forward<Fn>(fn));
    return;
  } catch (...) {
    record_current_exception(report);
  }
  ereport(FATAL, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not clean up after an error"));
}

} // namespace seal_sync::pg

/// A SQL-callable function whose body is in the PostgreSQL regime.
#define SEAL_SYNC_PG_FUNCTION(name)                                                                \
  extern "C" {                                                                                     \
  PGDLLEXPORT Datum name(PG_FUNCTION_ARGS);                                                        \
  PG_FUNCTION_INFO_V1(name);                                                                       \
  }                                                                                                \
  extern "C" Datum name([[maybe_unused]] PG_FUNCTION_ARGS)

/// A SQL-callable function whose body is in the C++ regime.
#define SEAL_SYNC_FUNCTION(name)                                                                   \
  extern "C" {                                                                                     \
  PGDLLEXPORT Datum name(PG_FUNCTION_ARGS);                                                        \
  PG_FUNCTION_INFO_V1(name);                                                                       \
  }                                                                                                \
  static Datum name##_impl(FunctionCallInfo fcinfo);                                               \
  extern "C" Datum name(PG_FUNCTION_ARGS) {                                                        \
    return seal_sync::pg::entry([&] { return name##_impl(fcinfo); });                              \
  }                                                                                                \
  static Datum name##_impl([[maybe_unused]] FunctionCallInfo fcinfo)

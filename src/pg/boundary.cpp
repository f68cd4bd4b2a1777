// See boundary.hpp.
#include "pg/boundary.hpp"

#include "core/error.hpp"

namespace seal_sync::pg {

[[noreturn]] void detail::throw_pending_error(MemoryContext caller) {
  // elog.c left us in ErrorContext; the copy must outlive FlushErrorState().
  MemoryContextSwitchTo(caller);
  ErrorData *volatile edata = nullptr; // written between setjmp and longjmp
  {
    // Copying can run out of memory itself: land here instead of recursing.
    sigjmp_buf landing;
    const ExceptionStackScope scope(&landing);
    if (sigsetjmp(landing, 0) == 0) {
      edata = CopyErrorData();
      FlushErrorState();
    }
  }
  if (edata == nullptr) {
    MemoryContextSwitchTo(caller);
    FlushErrorState();
    throw std::bad_alloc();
  }
  throw Error(edata);
}

void record_current_exception(PendingReport &report) noexcept {
  const auto keep = [&](int sqlstate, const char *text) {
    report.sqlstate = sqlstate;
    strlcpy(report.message.data(), text, report.message.size());
  };
  try {
    throw;
  } catch (const Error &e) {
    report.edata = e.data();
  } catch (const core::Error &e) {
    const char *s = e.sqlstate();
    keep(MAKE_SQLSTATE(s[0], s[1], s[2], s[3], s[4]), e.what());
    strlcpy(report.detail.data(), e.detail().c_str(), report.detail.size());
    strlcpy(report.hint.data(), e.hint().c_str(), report.hint.size());
  } catch (const std::bad_alloc &) {
    keep(ERRCODE_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception &e) {
    keep(ERRCODE_INTERNAL_ERROR, e.what());
  } catch (...) {
    keep(ERRCODE_INTERNAL_ERROR, "unrecognized C++ exception");
  }
}

[[noreturn]] void raise(const PendingReport &report) {
  if (report.edata != nullptr)
    ReThrowError(report.edata); // SQLSTATE, detail, hint, context, location intact
  ereport(ERROR, errcode(report.sqlstate), errmsg("%s", report.message.data()),
          report.detail[0] != '\0' ? errdetail("%s", report.detail.data()) : 0,
          report.hint[0] != '\0' ? errhint("%s", report.hint.data()) : 0);
  pg_unreachable();
}

} // namespace seal_sync::pg

#pragma once
// A connection to a peer: libpq, never blocking, every wait on the process latch and with a deadline.
//
// Used by worker/route_worker and by remote/probe. C++ regime; opaque, because libpq-fe.h must be seen
// in one folder only. Errors are core::Error: SQLSTATE, message, detail and hint of the peer when it
// sent them, 08006 when the connection is gone or the time is over, never a password. After a
// core::Error of class 08 the connection is of no use; in doubt is resolved at the next hello.

#include "core/bytes.hpp"
#include "core/error.hpp"
#include "pg/latch.hpp"
#include "remote/target.hpp"

#include <optional>
#include <string>
#include <vector>

struct pg_conn; // PGconn

namespace seal_sync::remote {

using Bytes = std::vector<std::uint8_t>;

/// How far connecting has come.
enum class Step { kDns, kTcp, kTls, kAuth, kConnected };
const char *to_text(Step step);

class Connection {
public:
  /// `route` names the peer in messages and in application_name on its side. When it fails, *step is
  /// the one that did.
  Connection(const Target &target, const std::string &route, const pg::Deadline &deadline,
             Step *step = nullptr);
  ~Connection();
  Connection(const Connection &) = delete;
  Connection &operator=(const Connection &) = delete;

  [[nodiscard]] bool alive() const noexcept;
  [[nodiscard]] bool local() const; // a socket file or the loopback
  [[nodiscard]] std::string tls() const;                       // "TLSv1.3 ..." or empty
  [[nodiscard]] std::string parameter(const char *name) const; // server_encoding and the like

  /// Bytes of messages sent so far, as libpq got them: statements and arguments, before TLS.
  [[nodiscard]] std::uint64_t bytes_sent() const noexcept { return bytes_sent_; }
  /// Of these, in puts that the peer has not answered yet.
  [[nodiscard]] std::size_t bytes_out() const noexcept { return out_bytes_; }

  /// SELECT seal_sync.<function>(argument), bytea to bytea.
  Bytes call(const char *function, core::ByteSpan argument, const pg::Deadline &deadline);
  Bytes call(const char *function, const pg::Deadline &deadline);
  /// The first column of the first row, as text; empty when there is none or it is null.
  std::string value(const char *sql, const pg::Deadline &deadline);

  /// SELECT seal_sync.wire_put(chunk), pipelined: returns while answers are still out, a bounded number.
  void put(core::ByteSpan chunk, const pg::Deadline &deadline);
  /// Takes the answers that are still out.
  void finish_puts(const pg::Deadline &deadline);

  /// BEGIN; ...; SELECT seal_sync.wire_begin(request): what is put from now on is applied at once. Until apply()
  /// or roll_back() the peer holds locks for us.
  void begin(core::ByteSpan request, const pg::Deadline &deadline);
  /// Ends what begin() began, whatever has become of the puts since.
  void roll_back(const pg::Deadline &deadline);

  /// BEGIN; ...; SELECT seal_sync.wire_apply(request); COMMIT as one message: the peer starts only when
  /// it has all of it (trap T12). After begin() without the BEGIN. Returns when the peer has answered COMMIT, and only then. On an error
  /// of the peer its transaction is rolled back and the connection can be used further.
  Bytes apply(core::ByteSpan request, const pg::Deadline &deadline);

private:
  [[noreturn]] void lost();
  void await_result(const pg::Deadline &deadline);
  template <typename Look> std::optional<core::Error> take_results(const pg::Deadline &deadline, Look look);
  void take_put_answers(std::size_t leave, bool forgiving, const pg::Deadline &deadline);
  void leave_pipeline();

  pg_conn *conn_ = nullptr;
  std::string route_;
  std::vector<std::size_t> out_; // sizes of the puts not answered yet, oldest first
  std::size_t out_bytes_ = 0;
  std::uint64_t bytes_sent_ = 0;
  bool pipeline_ = false;
};

} // namespace seal_sync::remote

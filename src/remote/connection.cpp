// See connection.hpp.
#include "remote/connection.hpp"

#include "pg/boundary.hpp"
#include "pg/guc.hpp"

extern "C" {
#include "storage/fd.h"

#include "libpq-fe.h"
}

namespace seal_sync::remote {

namespace {

constexpr std::size_t kBytesOut = 4 << 20; // puts on their way: enough for any round trip we serve
constexpr std::size_t kPutsOut = 64;

struct ResultDeleter {
  void operator()(PGresult *result) const noexcept { PQclear(result); }
};
using Result = std::unique_ptr<PGresult, ResultDeleter>;

// Connections of this process, so that leaving by FATAL, which unwinds nothing, still says goodbye to
// the peer.
constexpr int kMaxOpen = 4;
PGconn *open_connections[kMaxOpen];

void finish(PGconn *conn) noexcept {
  for (PGconn *&slot : open_connections)
    if (slot == conn)
      slot = nullptr;
  PQfinish(conn); // non-blocking mode: what does not go at once is not sent
  ReleaseExternalFD();
}

extern "C" void close_at_exit(int, Datum) {
  for (PGconn *conn : open_connections)
    if (conn != nullptr)
      finish(conn);
}

// What the peer says beside its answers (NOTICE of a user's trigger and the like) is not for our log.
// Called from C frames: must neither throw nor raise.
extern "C" void ignore_notice(void *, const PGresult *) {}

std::string trimmed(const char *text) {
  std::string out(text != nullptr ? text : "");
  while (!out.empty() && (out.back() == '\n' || out.back() == ' '))
    out.pop_back();
  return out;
}

std::string field(const PGresult *result, int code) {
  const char *text = PQresultErrorField(result, code);
  return text != nullptr ? text : "";
}

core::Error error_of(const PGresult *result, const PGconn *conn) {
  const std::string state = field(result, PG_DIAG_SQLSTATE);
  if (state.size() != 5) // made by libpq itself
    return {"08006", "lost the connection to the peer", trimmed(PQerrorMessage(conn))};
  return {state.c_str(), field(result, PG_DIAG_MESSAGE_PRIMARY), field(result, PG_DIAG_MESSAGE_DETAIL),
          field(result, PG_DIAG_MESSAGE_HINT)};
}

bool is_state_character(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z'); }

/// libpq tells the SQLSTATE of a refused login only inside its text, in verbose form:
/// `... FATAL:  28P01: password authentication failed for user "x"\nLOCATION:  ...`.
std::string take_sqlstate(std::string &message) {
  if (const auto location = message.find("\nLOCATION:"); location != std::string::npos)
    message.resize(location);
  for (std::size_t at = message.find(":  "); at != std::string::npos; at = message.find(":  ", at + 1)) {
    const std::size_t start = at + 3;
    if (start + 7 > message.size() || message.compare(start + 5, 2, ": ") != 0)
      continue;
    const std::string state = message.substr(start, 5);
    bool fine = true;
    for (const char c : state)
      fine = fine && is_state_character(c);
    if (!fine)
      continue;
    message.erase(start, 7);
    return state;
  }
  return "08001";
}

void append_hex(std::string &out, core::ByteSpan bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  out.reserve(out.size() + 2 * bytes.size() + 64);
  for (const std::uint8_t byte : bytes) {
    out.push_back(digits[byte >> 4]);
    out.push_back(digits[byte & 15]);
  }
}

Bytes from_hex(const char *text, std::size_t size) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; };
  Bytes out;
  if (size < 2 || text[0] != '\\' || text[1] != 'x')
    throw core::Error("08P01", "the peer answered with something that is not a hexadecimal bytea");
  out.reserve(size / 2);
  for (std::size_t i = 2; i + 1 < size; i += 2)
    out.push_back(static_cast<std::uint8_t>(digit(text[i]) << 4 | digit(text[i + 1])));
  return out;
}

Bytes bytes_of(const PGresult *result) {
  if (PQntuples(result) < 1 || PQnfields(result) < 1 || PQgetisnull(result, 0, 0) != 0)
    return {};
  const auto *value = reinterpret_cast<const std::uint8_t *>(PQgetvalue(result, 0, 0));
  return {value, value + PQgetlength(result, 0, 0)};
}

/// A bytea parameter as libpq wants it. A null pointer would be an SQL null.
struct Argument {
  explicit Argument(core::ByteSpan bytes)
      : values{bytes.data() != nullptr ? reinterpret_cast<const char *>(bytes.data()) : ""},
        lengths{static_cast<int>(bytes.size())} {}
  const Oid types[1] = {BYTEAOID};
  const char *values[1];
  int lengths[1];
  const int formats[1] = {1};
};

void throw_if(const std::optional<core::Error> &problem) {
  if (problem)
    throw core::Error(*problem);
}

Step step_of(ConnStatusType status) {
  switch (status) {
  case CONNECTION_NEEDED:
  case CONNECTION_STARTED:
    return Step::kTcp;
  case CONNECTION_MADE:
  case CONNECTION_SSL_STARTUP:
  case CONNECTION_GSS_STARTUP:
    return Step::kTls;
  default:
    return Step::kAuth;
  }
}

// Our session settings on the peer. Startup options: they hold from the first statement, and a RESET
// goes back to them.
constexpr char kPins[] =
    "-c search_path= -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3"
    " -c bytea_output=hex -c standard_conforming_strings=on -c timezone=UTC"
    " -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=60s"
    " -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off"
    " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4";

} // namespace

const char *to_text(Step step) {
  switch (step) {
  case Step::kDns:
    return "dns";
  case Step::kTcp:
    return "tcp";
  case Step::kTls:
    return "tls";
  case Step::kAuth:
    return "auth";
  case Step::kConnected:
    return "connected";
  }
  return "";
}

// ---- connecting ---------------------------------------------------------------------------------

Connection::Connection(const Target &target, const std::string &route, const pg::Deadline &deadline,
                       Step *step)
    : route_(route) {
  Step own_step;
  Step &at = step != nullptr ? *step : own_step;
  at = Step::kDns;

  static bool registered = false;
  if (!registered) {
    pg::call([] { before_shmem_exit(close_at_exit, 0); });
    registered = true;
  }

  const std::string application = ("seal_sync/" + route).substr(0, NAMEDATALEN - 1);
  std::vector<const char *> names;
  std::vector<const char *> values;
  const auto add = [&](const char *name, const char *value) {
    names.push_back(name);
    values.push_back(value);
  };
  for (const auto &[name, value] : target.options)
    add(name.c_str(), value.c_str());
  if (!target.trusted) {
    // Neither files nor tickets of the operating-system user.
    add("passfile", "/nonexistent/seal_sync");
    add("sslcert", "/nonexistent/seal_sync");
    add("sslkey", "/nonexistent/seal_sync");
    add("gssencmode", "disable");
  }
  add("application_name", application.c_str());
  add("client_encoding", GetDatabaseEncodingName());
  add("options", kPins);
  add("keepalives", "1");
  add("keepalives_idle", "10");
  add("keepalives_interval", "5");
  add("keepalives_count", "4");
  add("tcp_user_timeout", "30000");
  names.push_back(nullptr);
  values.push_back(nullptr);

  if (!AcquireExternalFD())
    throw core::Error("53000", "could not connect to peer \"" + route + "\"",
                      "There are too many open files on the local server.",
                      "Raise max_files_per_process or the limit of the operating system.");
  conn_ = PQconnectStartParams(names.data(), values.data(), 0);
  if (conn_ == nullptr) {
    ReleaseExternalFD();
    throw std::bad_alloc();
  }
  for (PGconn *&slot : open_connections)
    if (slot == nullptr) {
      slot = conn_;
      break;
    }
  // The destructor does not run for an object whose constructor throws.
  try {
    const auto failed = [&](const char *sqlstate, const std::string &why) {
      return core::Error(sqlstate, "could not connect to peer \"" + route + "\"",
                         target.problem_at(to_text(at), why),
                         "SELECT * FROM seal_sync.peer_check('" + route + "') shows every step.");
    };
    PQsetErrorVerbosity(conn_, PQERRORS_VERBOSE);
    PQsetNoticeReceiver(conn_, ignore_notice, nullptr);
    PostgresPollingStatusType polling = PGRES_POLLING_WRITING;
    if (PQstatus(conn_) == CONNECTION_BAD) {
      polling = PGRES_POLLING_FAILED;
      const char *address = PQhostaddr(conn_);
      const char *host = PQhost(conn_);
      if ((address != nullptr && address[0] != '\0') || (host != nullptr && host[0] == '/'))
        at = Step::kTcp; // refused at once
    }
    while (polling != PGRES_POLLING_OK) {
      if (PQstatus(conn_) != CONNECTION_BAD)
        at = step_of(PQstatus(conn_)); // the one that is tried now
      if (polling == PGRES_POLLING_FAILED) {
        std::string why = trimmed(PQerrorMessage(conn_));
        const std::string state = take_sqlstate(why);
        // With TLS 1.3 the peer judges our certificate when the handshake has ended for us.
        if (at == Step::kAuth && state == "08001" && why.find("SSL error") != std::string::npos)
          at = Step::kTls;
        throw failed(state.c_str(), why);
      }
      const int64 left = deadline.left_ms();
      if (left == 0)
        throw failed("08001", "timed out");
      const pgsocket socket = PQsocket(conn_); // each round: libpq changes it between addresses
      const int fired = pg::call([&] {
        return pg::wait(left, socket, polling == PGRES_POLLING_READING, polling == PGRES_POLLING_WRITING);
      });
      if ((fired & (pg::kReadable | pg::kWriteable)) == 0)
        continue;
      polling = PQconnectPoll(conn_);
    }
    PQsetErrorVerbosity(conn_, PQERRORS_DEFAULT);
    if (!target.trusted && PQconnectionUsedPassword(conn_) == 0)
      throw password_required(target.server);
    if (PQsetnonblocking(conn_, 1) != 0)
      throw failed("08001", trimmed(PQerrorMessage(conn_)));
    at = Step::kConnected;
  } catch (...) {
    finish(conn_);
    throw;
  }
}

Connection::~Connection() { finish(conn_); }

bool Connection::alive() const noexcept { return PQstatus(conn_) == CONNECTION_OK; }

bool Connection::local() const {
  const std::string_view host(PQhost(conn_) != nullptr ? PQhost(conn_) : "");
  const std::string_view address(PQhostaddr(conn_) != nullptr ? PQhostaddr(conn_) : "");
  return host.starts_with('/') || host.starts_with('@') || address.starts_with("127.") || address == "::1";
}

std::string Connection::tls() const {
  if (PQsslInUse(conn_) == 0)
    return {};
  const char *protocol = PQsslAttribute(conn_, "protocol");
  const char *cipher = PQsslAttribute(conn_, "cipher");
  std::string out(protocol != nullptr ? protocol : "TLS");
  if (cipher != nullptr)
    out.append(" ").append(cipher);
  return out;
}

std::string Connection::parameter(const char *name) const {
  const char *value = PQparameterStatus(conn_, name);
  return value != nullptr ? value : "";
}

// ---- waiting ------------------------------------------------------------------------------------

void Connection::lost() {
  throw core::Error("08006", "lost the connection to peer \"" + route_ + "\"",
                    trimmed(PQerrorMessage(conn_)));
}

/// Until all is sent and an answer is there. Reads while it writes: a peer that waits for us to read
/// its answers would never read our next message.
void Connection::await_result(const pg::Deadline &deadline) {
  for (;;) {
    const int unsent = PQflush(conn_); // 0 all sent, 1 socket full, -1 broken
    if (unsent < 0)
      lost();
    if (unsent == 0 && PQisBusy(conn_) == 0)
      return;
    const int64 left = deadline.left_ms();
    if (left == 0)
      throw core::Error("08006", "peer \"" + route_ + "\" did not answer in time");
    const pgsocket socket = PQsocket(conn_); // each round: libpq closes it on failure
    if (socket == PGINVALID_SOCKET)
      lost();
    const int fired = pg::call([&] { return pg::wait(left, socket, true, unsent == 1); });
    if ((fired & pg::kReadable) != 0 && PQconsumeInput(conn_) == 0)
      lost();
  }
}

/// Every result of what was sent; each that is no error is looked at. Returns the first error.
template <typename Look> std::optional<core::Error> Connection::take_results(const pg::Deadline &deadline, Look look) {
  std::optional<core::Error> problem;
  for (;;) {
    await_result(deadline);
    const Result result(PQgetResult(conn_));
    if (!result)
      return problem;
    switch (PQresultStatus(result.get())) {
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
      look(result.get());
      break;
    default:
      if (!problem)
        problem = error_of(result.get(), conn_);
    }
  }
}

// ---- calls --------------------------------------------------------------------------------------

Bytes Connection::call(const char *function, core::ByteSpan argument, const pg::Deadline &deadline) {
  const std::string sql = std::string("SELECT seal_sync.") + function + "($1)";
  const Argument a(argument);
  bytes_sent_ += sql.size() + argument.size();
  if (PQsendQueryParams(conn_, sql.c_str(), 1, a.types, a.values, a.lengths, a.formats, 1) == 0)
    lost();
  Bytes answer;
  throw_if(take_results(deadline, [&](const PGresult *result) { answer = bytes_of(result); }));
  return answer;
}

Bytes Connection::call(const char *function, const pg::Deadline &deadline) {
  const std::string text = value((std::string("SELECT seal_sync.") + function + "()").c_str(), deadline);
  return from_hex(text.data(), text.size());
}

std::string Connection::value(const char *sql, const pg::Deadline &deadline) {
  bytes_sent_ += strlen(sql);
  if (PQsendQuery(conn_, sql) == 0)
    lost();
  std::string answer;
  throw_if(take_results(deadline, [&](const PGresult *result) {
    if (PQntuples(result) > 0 && PQnfields(result) > 0)
      answer.assign(PQgetvalue(result, 0, 0), static_cast<std::size_t>(PQgetlength(result, 0, 0)));
  }));
  return answer;
}

// ---- a batch ------------------------------------------------------------------------------------

void Connection::put(core::ByteSpan chunk, const pg::Deadline &deadline) {
  if (!pipeline_) {
    if (PQenterPipelineMode(conn_) == 0)
      lost();
    pipeline_ = true;
  }
  const Argument a(chunk);
  // A sync for each: every put is a transaction of its own.
  static constexpr char kSql[] = "SELECT seal_sync.wire_put($1)";
  bytes_sent_ += sizeof kSql - 1 + chunk.size();
  if (PQsendQueryParams(conn_, kSql, 1, a.types, a.values, a.lengths, a.formats,
                        1) == 0 ||
      PQpipelineSync(conn_) == 0)
    lost();
  out_.push_back(chunk.size());
  out_bytes_ += chunk.size();
  while (out_.size() > 1 && (out_bytes_ > kBytesOut || out_.size() > kPutsOut))
    take_put_answers(out_.size() - 1, false, deadline);
}

void Connection::take_put_answers(std::size_t leave, bool forgiving, const pg::Deadline &deadline) {
  while (out_.size() > leave) {
    await_result(deadline);
    const Result result(PQgetResult(conn_));
    if (!result)
      continue; // the end of one put's results; its sync is next
    switch (PQresultStatus(result.get())) {
    case PGRES_PIPELINE_SYNC:
      out_bytes_ -= out_.front();
      out_.erase(out_.begin());
      break;
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
      break;
    default:
      if (!forgiving || !alive()) // of a lost connection no further answer would come, nor anything to wait for
        throw core::Error(error_of(result.get(), conn_));
    }
  }
}

void Connection::finish_puts(const pg::Deadline &deadline) {
  take_put_answers(0, false, deadline);
  leave_pipeline();
}

void Connection::leave_pipeline() {
  if (pipeline_ && PQexitPipelineMode(conn_) == 0)
    lost();
  pipeline_ = false;
}

namespace {

// Never below the peer's own setting: remote_apply stays what it is.
std::string begin_of_batch() {
  return "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE; SELECT pg_catalog.set_config('synchronous_commit', 'on', true) WHERE "
         "pg_catalog.current_setting('synchronous_commit') NOT IN ('on', 'remote_apply'); "
         "SET LOCAL lock_timeout = " +
         std::to_string(guc::apply_lock_timeout) + "; ";
}

} // namespace

void Connection::begin(core::ByteSpan request, const pg::Deadline &deadline) {
  std::string sql = begin_of_batch() + "SELECT seal_sync.wire_begin('\\x";
  append_hex(sql, request);
  sql += "'::pg_catalog.bytea)";
  (void)value(sql.c_str(), deadline);
}

void Connection::roll_back(const pg::Deadline &deadline) {
  take_put_answers(0, true, deadline);
  leave_pipeline();
  (void)value("ROLLBACK", deadline);
}

Bytes Connection::apply(core::ByteSpan request, const pg::Deadline &deadline) {
  std::string sql = PQtransactionStatus(conn_) == PQTRANS_INTRANS ? std::string() : begin_of_batch();
  sql += "SELECT seal_sync.wire_apply('\\x";
  append_hex(sql, request);
  sql += "'::pg_catalog.bytea); COMMIT";
  bytes_sent_ += sql.size();
  if (PQsendQuery(conn_, sql.c_str()) == 0)
    lost();

  Bytes answer;
  std::string last_tag;
  const std::optional<core::Error> problem = take_results(deadline, [&](const PGresult *result) {
    last_tag = PQcmdStatus(const_cast<PGresult *>(result));
    if (PQntuples(result) == 1 && PQnfields(result) == 1 && strcmp(PQfname(result, 0), "wire_apply") == 0)
      answer = from_hex(PQgetvalue(result, 0, 0), static_cast<std::size_t>(PQgetlength(result, 0, 0)));
  });
  if (problem) {
    if (alive() && PQtransactionStatus(conn_) != PQTRANS_IDLE)
      (void)value("ROLLBACK", deadline);
    throw core::Error(*problem);
  }
  if (last_tag != "COMMIT") // a COMMIT in a failed block answers ROLLBACK (trap T23)
    throw core::Error("40000", "peer \"" + route_ + "\" did not commit the batch",
                      "Its last answer was \"" + last_tag + "\".");
  return answer;
}

} // namespace seal_sync::remote

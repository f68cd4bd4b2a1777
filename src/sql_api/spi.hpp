#pragma once
// How the SQL functions talk to the catalogs and to our own tables. C++ regime.
//
// The caller's rights are checked first; then the inner work runs as the extension's owner, in a
// scope. Invariant: while the owner acts, the search path holds nothing that a user can write to.

#include "core/error.hpp"
#include "pg/boundary.hpp"

#include <initializer_list>
#include <optional>

namespace seal_sync::sql_api {

/// Until the end of the scope the owner of the extension acts.
class AsOwner {
public:
  AsOwner();
  ~AsOwner();
  AsOwner(const AsOwner &) = delete;
  AsOwner &operator=(const AsOwner &) = delete;

  [[nodiscard]] Oid caller() const noexcept { return user_; }

private:
  Oid user_ = InvalidOid;
  int security_ = 0;
  int guc_level_ = 0;
};

/// One level of the server programming interface.
class Spi {
public:
  Spi();
  ~Spi();
  Spi(const Spi &) = delete;
  Spi &operator=(const Spi &) = delete;

private:
  int exceptions_;
};

/// One parameter of a query.
struct Arg {
  Oid type = InvalidOid;
  Datum value = 0;
  bool null = true;
};
Arg arg(std::string_view text);
inline Arg arg(const std::string &text) { return arg(std::string_view(text)); }
inline Arg arg(const char *text) { return arg(std::string_view(text)); }
Arg arg(const std::optional<std::string> &text);
Arg arg(Oid oid);
Arg arg(bool value);
Arg arg(int64 value) = delete; // an Oid is an unsigned int: say which one is meant
Arg int_arg(int64 value);
Arg arg(const std::vector<std::string> &texts);
Arg arg(const std::vector<Oid> &oids);
Arg datum_arg(Oid type, Datum value, bool null);

/// What a query gave, every value in its text form.
class Rows {
public:
  using Value = std::optional<std::string>;
  std::vector<std::vector<Value>> rows;
  uint64 processed = 0;

  [[nodiscard]] bool empty() const noexcept { return rows.empty(); }
  [[nodiscard]] size_t size() const noexcept { return rows.size(); }
  [[nodiscard]] bool null(size_t row, size_t column) const { return !rows[row][column]; }
  [[nodiscard]] const std::string &text(size_t row, size_t column) const {
    return rows[row][column].value();
  }
  [[nodiscard]] bool boolean(size_t row, size_t column) const {
    return rows[row][column].value_or("f") == "t";
  }
  [[nodiscard]] Oid oid(size_t row, size_t column) const;
};

/// Runs one statement with a snapshot taken now, also in a REPEATABLE READ transaction, as foreign
/// keys do: what is configured must not depend on when the caller's transaction began.
Rows query(const std::string &statement, std::initializer_list<Arg> args = {});

void notice(const std::string &message, const std::string &detail = {}, const std::string &hint = {});

/// "schema.table" as messages show it (without inner quotes), and as SQL needs it.
std::string display_name(Oid relation);
std::string sql_name(Oid relation);
std::string quote(const std::string &identifier);
std::string literal(const std::string &value);

// ---- arguments ---------------------------------------------------------------------------------

/// An argument of type name or text; null is an error that names it.
std::string required_text(FunctionCallInfo fcinfo, int number, const char *argument);
std::string required_name(FunctionCallInfo fcinfo, int number, const char *argument);
std::optional<std::string> optional_text(FunctionCallInfo fcinfo, int number);
std::optional<std::string> optional_name(FunctionCallInfo fcinfo, int number);
/// An array of text or name; a null element is an error.
std::optional<std::vector<std::string>> optional_list(FunctionCallInfo fcinfo, int number,
                                                      const char *argument);
bool flag(FunctionCallInfo fcinfo, int number, bool otherwise);

/// Refuses names that are empty or so long that something made from them would be cut off.
void check_new_name(const char *what, const std::string &name);

/// This node's name; an error that tells what to do when it has none.
std::string require_node();

/// As the owner; an error when there is no such peer.
void require_peer(const std::string &peer);

/// At the end of every call that has changed a rule: tells all sessions and wakes the workers.
void rules_changed();

} // namespace seal_sync::sql_api

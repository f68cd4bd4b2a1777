#pragma once
// The one exception type of the C++ regime. Callers that must react look at the SQLSTATE.

#include <exception>
#include <string>
#include <utility>

namespace seal_sync::core {

class Error : public std::exception {
public:
  Error(const char *sqlstate, std::string message, std::string detail = {}, std::string hint = {})
      : sqlstate_(sqlstate), message_(std::move(message)), detail_(std::move(detail)),
        hint_(std::move(hint)) {}

  const char *what() const noexcept override { return message_.c_str(); }
  [[nodiscard]] const char *sqlstate() const noexcept { return sqlstate_.c_str(); }
  [[nodiscard]] const std::string &message() const noexcept { return message_; }
  [[nodiscard]] const std::string &detail() const noexcept { return detail_; }
  [[nodiscard]] const std::string &hint() const noexcept { return hint_; }

private:
  std::string sqlstate_;
  std::string message_;
  std::string detail_;
  std::string hint_;
};

} // namespace seal_sync::core

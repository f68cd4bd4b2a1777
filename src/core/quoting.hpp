#pragma once
// Which texts of an error may quote values of rows.
//
// Used on both sides before a text goes where monitors read it (views of status): they see numbers and
// names, no rows. What is raised for the values of a row, by a type's input or by the user's own code,
// quotes them in its message; what is raised for a constraint, in its detail. Classes are named that are
// safe, not those that are not: user code may use any SQLSTATE. Pure.

#include <string_view>

namespace seal_sync::core {

constexpr bool message_may_quote_rows(std::string_view sqlstate) noexcept {
  for (const std::string_view safe : {"08", "0A", "23", "25", "28", "2F", "3D", "40", "42", "53", "54", "55", "57",
                                      "58", "F0", "HV", "SS", "XX"})
    if (sqlstate.substr(0, 2) == safe)
      return false;
  return true;
}

constexpr bool detail_may_quote_rows(std::string_view sqlstate) noexcept {
  return sqlstate.substr(0, 2) == "23" || message_may_quote_rows(sqlstate);
}

} // namespace seal_sync::core

#pragma once
// Lengths of time in arguments and messages.

#include "pg/postgres.hpp"

#include <string>

namespace seal_sync::sql_api {

/// Months count 30 days.
int64 to_milliseconds(const Interval *interval);
/// "30 s", "0.5 s"
std::string in_seconds(int64 milliseconds);

} // namespace seal_sync::sql_api

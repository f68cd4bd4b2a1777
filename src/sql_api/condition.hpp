#pragma once
// config/condition.hpp for the C++ regime.

#include "config/condition.hpp"
#include "pg/boundary.hpp"

namespace seal_sync::sql_api {

inline const char *detached() {
  return pg::call([] { return config::detached(); });
}
inline bool is_copy() {
  return pg::call([] { return config::copied(); });
}

} // namespace seal_sync::sql_api

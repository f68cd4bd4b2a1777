#pragma once
// Filing copies of tables: the route workers do them (scan/copies.hpp). Inside AsOwner and Spi scopes.

#include "pg/postgres.hpp"

#include <optional>
#include <string>
#include <vector>

namespace seal_sync::sql_api {

/// The rows of registered tables are to be copied to every peer, or to one.
void file_copies(const std::vector<Oid> &relations, const std::optional<std::string> &peer = std::nullopt);

} // namespace seal_sync::sql_api

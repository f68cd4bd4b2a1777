#pragma once
// This node's configuration in the form in which nodes compare it.
//
// Read by wire_config for a peer that asks, and by config_diff, config_adopt and schema_diff for this side. Everything
// comes from catalogs; no user table is locked, so DDL under way cannot hold it up.

#include "core/configuration.hpp"
#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

/// AsOwner, inside an Spi level.
core::Configuration own_configuration();

/// Columns and unique keys of one relation, registered or not.
void describe_columns(const std::vector<Oid> &relations, const std::vector<core::TableDeclaration *> &tables);

} // namespace seal_sync::sql_api

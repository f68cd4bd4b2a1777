#pragma once
// A peer's configuration, pulled from it.
//
// For config_diff, config_adopt and schema_diff, before they lock anything: it waits for the network. What is
// returned was written by another node; it is well formed, its names are names in this database's encoding, and
// nothing more is promised of it.

#include "core/configuration.hpp"
#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

/// AsOwner, inside an Spi level. Throws what is wrong with the peer, not reachable (08001) or too old included.
core::Configuration peer_configuration(const std::string &peer);

} // namespace seal_sync::sql_api

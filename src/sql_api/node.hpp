#pragma once
// Giving this database an identity and taking it away: node_create, node_drop, and node_adopt, which does both.
//
// C++ regime; the caller is AsOwner, inside an Spi level, and holds a lock on seal_sync.local_node that keeps others of these
// calls out.

#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

/// A new identity of that name; rules that are there already, of a restored dump or of an identity before, come to life
/// without positions.
void create_node(const std::string &node);

/// Identity, positions, pending changes and what was known of peers go; rules stay. Waits for workers and messages under way.
void forget_identity();

/// This server, where it runs now, is the node: it is neither detached nor a copy.
void stay_here();

/// What pg_upgrade or a restore has given new numbers: servers, schemas, collations and operator classes of keys.
void find_catalog_numbers();

} // namespace seal_sync::sql_api

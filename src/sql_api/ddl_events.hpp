#pragma once
// What the event triggers do for objects that were made while they were not there. C++ regime, as the owner.

namespace seal_sync::sql_api {

/// Every server and user mapping of our wrapper leaves with the extension: pg_upgrade makes them before the event triggers,
/// and does not carry this dependency.
void tie_servers();

} // namespace seal_sync::sql_api

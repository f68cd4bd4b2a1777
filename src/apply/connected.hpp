#pragma once
// Whether a node speaks to this one right now; implemented in apply_session.cpp. PostgreSQL regime.

#include "pg/postgres.hpp"

namespace seal_sync::apply {

/// Whether a connection of this node is open, whoever has it.
bool is_connected(const NameData &origin);

} // namespace seal_sync::apply

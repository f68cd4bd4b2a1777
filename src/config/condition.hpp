#pragma once
// In what condition this node is: at work, detached, a copy, or just promoted.
//
// Part of the rules as config.hpp hands them out, with the same life. PostgreSQL regime.

#include "pg/postgres.hpp"

namespace seal_sync::config {

/// Between node_detach and node_attach: a sentence that says since when and why. Else nullptr. While it is detached no
/// cluster has its primary here.
const char *detached();
/// Whether this is a copy of the node, about which nobody has decided yet (pg/place.hpp, node_adopt).
bool copied();
/// Whether it was promoted or recovered somewhere else, and has not spoken from here yet.
bool promoted();

} // namespace seal_sync::config

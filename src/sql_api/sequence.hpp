#pragma once
// Sequences as other calls and DDL see them. C++ regime; the caller is AsOwner, inside an Spi level.

#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

/// Sequences that are gone take their rules along. True when one had a rule.
bool forget_sequences(const std::vector<Oid> &sequences);

/// node_drop: split sequences count as they did before, and nothing is known of any.
void give_all_sequences_back();

/// Whether the sequence takes numbers of this node's only.
bool is_split(Oid sequence);

} // namespace seal_sync::sql_api

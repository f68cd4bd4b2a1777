#pragma once
// Which of a table's triggers fire for what apply writes.
//
// Called when a table is opened for applying. Ordinary triggers do not fire: their effects happened on
// the source and arrive as rows. ENABLE ALWAYS and ENABLE REPLICA triggers of the user do. Those whose
// function belongs to this extension never do, so that apply's own writes cannot be captured by
// construction (no flag to forget), while DML of user triggers goes through the ordinary executor and
// is captured and guarded like anybody's (trap T23).

#include "pg/postgres.hpp"

namespace seal_sync::apply {

/// A list without the others in the current memory context, which shares what triggers point to; nullptr
/// when none is left. `all` must be a copy (ri_TrigDesc): catalogs are read here, and that may free the
/// relcache's own.
TriggerDesc *replica_triggers(TriggerDesc *all);

} // namespace seal_sync::apply

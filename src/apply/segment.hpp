#pragma once
// What is rolled back together: the open tables of an attempt, and the subtransactions of careful mode.
//
// The first attempt is one segment without a subtransaction. A careful attempt runs segments in
// subtransactions: when a row fails, its segment is rolled back and run again up to that row, the row is
// refused, and the next segment starts after it (trap T16). So a batch without errors costs one
// subtransaction, and each refused row at most two.

#include "apply/attempt.hpp"
#include "apply/target.hpp"

namespace seal_sync::apply {

void begin_segment(Attempt *attempt);
void end_segment(Attempt *attempt); // closes what is open

/// The table, opened for this segment when it was not yet.
Target *segment_target(Attempt *attempt, Descriptor *descriptor);

/// Works from position `from` up to, not including, `until`, setting attempt->position and
/// attempt->current for each row.
using SegmentWork = void (*)(Attempt *attempt, void *argument);
using SetRange = void (*)(void *argument, uint64 from, uint64 until);
void run_careful(Attempt *attempt, SegmentWork work, void *argument, SetRange set_range);

} // namespace seal_sync::apply

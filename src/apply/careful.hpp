#pragma once
// Careful mode: rows that fail are taken out and refused, the others are written, with few subtransactions.
//
// Called by apply_batch and later_inserts, which bring the work to be done for a range of positions. When
// a row fails, what stands before it is rolled back and run again up to that row, the row is refused, and
// the next segment starts after it. Each segment that wrote keeps a subtransaction id until the end of
// the transaction, and more than 64 of them slow every snapshot on this server (trap T16). Ids of what is
// rolled back are free at once. So whenever kFanOut segments are there, the subtransaction around them
// is rolled back, and their rows, of which it is known now which fail, are written again as one segment;
// kFanOut of such make a larger one, and so on.
//
// Invariants: whatever the number of refused rows, this transaction has at most some 60 subtransaction
// ids at any time; each row is written at most kLevels + 3 times; rows see the same as if those refused
// had never been sent.

#include "apply/attempt.hpp"

namespace seal_sync::apply {

/// Works from position `from` up to, not including, `until`, setting attempt->position and
/// attempt->current for each row, and leaves out what is refused already.
using SegmentWork = void (*)(Attempt *attempt, void *argument);
using SetRange = void (*)(void *argument, uint64 from, uint64 until);
void run_careful(Attempt *attempt, SegmentWork work, void *argument, SetRange set_range);

} // namespace seal_sync::apply

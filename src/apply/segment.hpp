#pragma once
// What is rolled back together: the open tables of an attempt.
//
// The first attempt is one segment without a subtransaction; a careful one runs segments in
// subtransactions (careful.hpp). Opened tables belong to the resource owner of the segment, so they are
// never used in another one.

#include "apply/attempt.hpp"
#include "apply/target.hpp"

namespace seal_sync::apply {

void begin_segment(Attempt *attempt);
void end_segment(Attempt *attempt); // closes what is open

/// The table, opened for this segment when it was not yet.
Target *segment_target(Attempt *attempt, Descriptor *descriptor);

} // namespace seal_sync::apply

#pragma once
// What a peer says beyond its refusal of a key: the other key that it has to do with, and the row that stands there.
//
// Called by settle.cpp for each refusal of a peer that tells it. Invariant: whatever the peer sends, what comes out is
// a key of a registered table that can be read, and valid JSON of bounded size; else it is left out or the answer is
// called damaged.

#include "scan/descriptor.hpp"
#include "scan/held.hpp"

namespace seal_sync::scan {

/// `sent`: the table of the refused key.
void read_standing(Session *session, const SentTable *sent, core::Reader *in, HeldReason *reason);

} // namespace seal_sync::scan

#pragma once
// What peers do with stages but applying them: keeping what was put, asking, forgetting.
//
// Called by the wire functions of those names, each in a transaction of its own. Invariants: a chunk that was put is
// in the session or in a stage, never in both and never in neither, whether or not the commit succeeds; a stage is
// only its origin's, in its newest generation.

#include "apply/apply_session.hpp"

namespace seal_sync::apply {

void stage_collected(Session *session, core::Reader *request, core::Buffer *reply);
void write_stages(Session *session, core::Buffer *reply);
void drop_stage(Session *session, core::Reader *request);

} // namespace seal_sync::apply

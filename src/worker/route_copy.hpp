#pragma once
// Copies of tables that are too large for one batch: part by part into a stage on the peer, between batches.
//
// Called by worker/route_worker when there is nothing more urgent. A part is one transaction with a snapshot of its own and takes at most
// half a second, so that all other tables go on; together the parts are one pass over the table's rows (trap T14), and the batch that
// comes after the last one activates them (scan/collect.cpp). Invariant: what is known of a copy commits on the peer with its rows; here
// only that it has begun, from where on its changes are owed. C++ regime, throws as route_batch does.

#include "worker/route_batch.hpp"

namespace seal_sync::worker {

struct CopyPart {
  bool any = false;  // a table was being copied
  bool more = false; // there is something to be copied at once
  int64 bytes = 0;
};

CopyPart copy_part(RouteLink &link, RouteStages &stages, RouteStatus &status, ToldProblems &told);

} // namespace seal_sync::worker

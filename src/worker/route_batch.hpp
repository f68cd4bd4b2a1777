#pragma once
// One scan and, when it found something, one batch: the path of decision 0001, in one transaction.
//
// Called by worker/route_worker. C++ regime; throws core::Error when the peer or the network fails (the
// transaction is rolled back, nothing is lost: the log still has the keys) and pg::Error for local errors.

#include "worker/route_link.hpp"
#include "worker/route_sequences.hpp"
#include "worker/route_stages.hpp"
#include "worker/route_status.hpp"

#include <set>

namespace seal_sync::worker {

enum class ScanOutcome {
  kNothing,    // the window is empty
  kShipped,    // acknowledged
  kStaged,     // a part of it is on the peer, the rest needs a newer snapshot
  kStale,      // DDL was in the way, here or on the peer: take a newer snapshot soon
  kRulesChanged, // since `rules` was read: pause and the like come before what is committed later
  kHelloAgain, // which clusters go has changed, here or on the peer
};

struct ScanResult {
  ScanOutcome outcome = ScanOutcome::kNothing;
  TimestampTz taken_at = 0; // everything committed before is on the peer, when nothing or shipped
  int64 started_us = 0;     // on the monotonic clock
  int64 collected = 0;      // keys found in the window, repeated ones included
  int64 rows = 0;           // shipped
  int64 busy_us = 0;        // what it kept a processor busy, here and on the peer: not the network, nor waiting for disks
};

/// What the connection has told about tables, once per process in the log.
using ToldProblems = std::set<std::string>;

/// `rules`: pg::rules_count() as it was before the route's rules were read.
ScanResult scan_and_ship(RouteLink &link, RouteStages &stages, RouteStatus &status, RouteSequences &sequences, ToldProblems &told,
                         uint64 rules);

/// How large tables may be, in all, that are copied within one batch: what a fast link takes in some ten seconds.
double inline_copy_bytes(RouteLink &link);

/// Asks the peer whether it takes the tables of a batch that were not described on this connection yet.
void describe_tables(RouteLink &link, scan::Batch *batch, RouteStatus &status, ToldProblems &told, const pg::Deadline &deadline);

/// Tables that the peer does not take, as last described on this connection.
struct LeftOutTables {
  int parked = 0;
  int waiting = 0;
};
LeftOutTables left_out(const scan::Session *session);

} // namespace seal_sync::worker

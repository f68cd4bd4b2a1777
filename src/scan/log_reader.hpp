#pragma once
// Reads the change log: every run whose transaction a snapshot sees and an earlier position does not.
//
// Used by the scan, by recovery and by the view `pending`. An index scan on xid: one probe for each
// transaction that was running at the earlier position, then everything from its xmax on; it stays
// cheap under a long transaction and with any number of old rows (design section 4, Scan).

#include "core/change_log_codec.hpp"
#include "scan/batch.hpp"

namespace seal_sync::scan {

struct LogReader;

/// Rows visible in `snapshot` (which stays registered by the caller) and not seen by `previous`.
LogReader *open_log(const Position &previous, Snapshot snapshot);
/// The run's spans stay valid until the next call.
bool next_run(LogReader *reader, core::ChangeRun *run, uint64 *xid);
void close_log(LogReader *reader);

Position position_of(Snapshot snapshot);
Datum position_to_datum(const Position &position);
Position position_from_datum(Datum snapshot);

} // namespace seal_sync::scan

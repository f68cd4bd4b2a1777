// See wakeup.hpp. A wake-up before the commit would be useless: the worker would look, see the old
// state and sleep again.
#include "worker/wakeup.hpp"

#include "pg/shared_state.hpp"

namespace seal_sync::worker {

namespace {

bool wake_workers = false;
bool wake_launcher = false;

extern "C" void wake_on_transaction_end(XactEvent event, void *) {
  switch (event) {
  case XACT_EVENT_COMMIT:
    if (wake_workers)
      pg::wake_database(MyDatabaseId);
    if (wake_launcher)
      pg::wake_launcher();
    [[fallthrough]];
  case XACT_EVENT_ABORT:
  case XACT_EVENT_PREPARE: // COMMIT PREPARED wakes nobody (trap T26): the slow polls are for that
    wake_workers = wake_launcher = false;
    break;
  default:
    break;
  }
}

} // namespace

void wake_at_commit() { wake_workers = true; }
void wake_launcher_at_commit() { wake_launcher = true; }

void init_wakeup() { RegisterXactCallback(wake_on_transaction_end, nullptr); }

} // namespace seal_sync::worker

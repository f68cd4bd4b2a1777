// The launcher: finds the databases that have the extension and keeps a database worker in each.
//
// One per server, static, connected to no database, started when recovery is over, so that a promoted
// standby gets it as well. Whether a database has the extension cannot be seen from outside: a database
// worker goes in, looks, and leaves a note in its slot when there is none. Such a database is looked at
// again when somebody says so (CREATE EXTENSION at commit) or, slowly, anyhow.
// What it keeps is only pauses and handles: restarted, it finds running workers by their slots.
#include "worker/launcher.hpp"

#include "pg/boundary.hpp"
#include "pg/guc.hpp"
#include "pg/scopes.hpp"
#include "worker/child.hpp"
#include "worker/roster.hpp"

#include <algorithm>

extern "C" {
#include "utils/varlena.h"
}

namespace seal_sync::worker {

namespace {

constexpr int64 kSlowPollMs = 60000;
constexpr int64 kFullPollMs = 5000; // how soon a place that has become free is noticed
constexpr int64 kProbingUs = 2 * 1000000; // for that long a new worker may be one that only looks
constexpr int kProbingAtOnce = 4;         // databases without the extension must not use up all slots

struct Database {
  Oid oid = InvalidOid;
  std::string name;
  bool wanted = false;
  bool seen = false; // in the last list
  bool absent = false;
  bool told_full = false; // the log says that there is no room for it
  int64 launched_us = 0;
  Child child;
};

struct Listed {
  Oid oid;
  NameData name;
};

/// Databases one can connect to. In the current memory context.
Listed *list_databases(int *count) {
  int capacity = 32;
  auto *list = static_cast<Listed *>(palloc(sizeof(Listed) * static_cast<size_t>(capacity)));
  *count = 0;
  const Relation relation = table_open(DatabaseRelationId, AccessShareLock);
  const TableScanDesc scan = table_beginscan_catalog(relation, 0, nullptr);
  HeapTuple tuple;
  while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection))) {
    const auto *database = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
    // -2: a DROP DATABASE was interrupted, nothing can connect any more
    if (!database->datallowconn || database->datistemplate || database->datconnlimit == -2)
      continue;
    if (*count == capacity) {
      capacity *= 2;
      list = static_cast<Listed *>(repalloc(list, sizeof(Listed) * static_cast<size_t>(capacity)));
    }
    list[(*count)++] = {database->oid, database->datname};
  }
  table_endscan(scan);
  table_close(relation, AccessShareLock);
  return list;
}

/// Whether seal_sync.databases names it; empty names all.
bool named_in_setting(const char *name) {
  if (guc::databases == nullptr || guc::databases[0] == '\0')
    return true;
  List *names = NIL;
  if (!SplitIdentifierString(pstrdup(guc::databases), ',', &names))
    return false;
  ListCell *cell;
  foreach (cell, names)
    if (strcmp(static_cast<const char *>(lfirst(cell)), name) == 0)
      return true;
  return names == NIL;
}

extern "C" void leave_launcher(int, Datum) { pg::set_launcher(0, nullptr); }

class Launcher {
public:
  [[noreturn]] void run() {
    for (;;) {
      const pg::ScratchContext scratch("seal_sync launcher");
      read_list();
      read_mail();
      int64 pause = kSlowPollMs;
      for (Database &database : databases_)
        pause = std::min(pause, look_after(database));
      forget_gone();
      if (last_poll_us_ + kSlowPollMs * 1000 <= pg::monotonic_us()) {
        last_poll_us_ = pg::monotonic_us();
        for (Database &database : databases_)
          database.absent = false;
        pause = std::min<int64>(pause, 1000);
      }
      pg::call([&] { pg::wait(pause); });
    }
  }

private:
  Database &entry(Oid oid) {
    for (Database &database : databases_)
      if (database.oid == oid)
        return database;
    databases_.emplace_back();
    databases_.back().oid = oid;
    return databases_.back();
  }

  void read_list() {
    pg::Transaction transaction;
    int count = 0;
    const Listed *list = pg::call([&] { return list_databases(&count); });
    for (Database &database : databases_)
      database.seen = false;
    for (int i = 0; i < count; i++) {
      Database &database = entry(list[i].oid);
      database.seen = true;
      database.name = NameStr(list[i].name);
      database.wanted = pg::call([&] { return named_in_setting(NameStr(list[i].name)); });
    }
    transaction.commit();
  }

  void read_mail() {
    Oid named[pg::kMaxLookAt];
    const int count = pg::call([&] { return pg::take_look_at(named); });
    for (Database &database : databases_)
      if (count < 0 || std::find(named, named + count, database.oid) != named + count) {
        database.absent = false;
        database.child.forgive();
      }
  }

  struct Slot {
    bool worker, blocked, absent, full;
  };
  /// Reads the slot, and says in it whether workers are wanted.
  static Slot look_at_slot(Oid oid, bool wanted) {
    return pg::call([&] {
      Slot out = {};
      LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
      if (pg::DatabaseSlot *slot = pg::database_slot(oid, false)) {
        out = {slot->worker_pid != 0, slot->blockers > 0, slot->absent, false};
        slot->unwanted = !wanted;
      }
      out.full = pg::no_room_for_database(oid);
      LWLockRelease(pg::shared_lock());
      return out;
    });
  }

  /// Returns in how many milliseconds to look again, at the latest.
  int64 look_after(Database &database) {
    if (!database.seen) { // dropped, or connections and workers are not wanted there any more
      if (look_at_slot(database.oid, false).worker)
        pg::call([&] { terminate_workers(database.oid); });
      return kSlowPollMs;
    }
    const Slot slot = look_at_slot(database.oid, database.wanted);
    const bool running = database.child.running(slot.worker);
    if (!database.wanted || slot.blocked) {
      // Who blocks terminates by himself; a worker that is just starting sees the mark and leaves.
      if (!database.wanted)
        pg::call([&] { terminate_workers(database.oid); });
      if (!running)
        database.child.forgive();
      return running ? 1000 : kSlowPollMs;
    }
    if (running)
      return kSlowPollMs;
    if (slot.absent) {
      database.absent = true;
      database.child.forgive();
      forget(database.oid);
    }
    if (database.absent)
      return kSlowPollMs;
    if (slot.full) {
      tell_full(database);
      return kFullPollMs;
    }
    database.told_full = false;
    if (!database.child.due())
      return database.child.due_in_ms();
    if (probing() >= kProbingAtOnce)
      return 200;
    const std::string name = "seal_sync database worker for \"" + database.name + "\"";
    database.launched_us = pg::monotonic_us();
    database.child.launch({"seal_sync database worker", name.c_str(), "seal_sync_database_worker_main",
                           database.oid, nullptr, 0});
    return kSlowPollMs;
  }

  /// Once, until there has been room. Whether it has the extension, only a worker could see.
  static void tell_full(Database &database) {
    if (!database.told_full)
      pg::call([&] {
        ereport(WARNING, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                errmsg("seal_sync has no room for database \"%s\"", database.name.c_str()),
                errdetail("It looks after at most %d databases of a server.", pg::kMaxDatabases),
                errhint("Name those that have the extension in seal_sync.databases."));
      });
    database.told_full = true;
  }

  [[nodiscard]] int probing() const {
    const int64 since = pg::monotonic_us() - kProbingUs;
    return static_cast<int>(std::count_if(databases_.begin(), databases_.end(), [&](const Database &d) {
      return d.launched_us > since && !d.absent;
    }));
  }

  static void forget(Oid oid) {
    pg::call([&] {
      LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
      const pg::DatabaseSlot *slot = pg::database_slot(oid, false);
      bool routes = false; // one in a long server call outlives its parent, and still writes to its slot
      for (int i = 0; i < pg::kMaxRoutes; i++)
        routes = routes || (pg::route_slots()[i].used && pg::route_slots()[i].database == oid &&
                            pg::route_slots()[i].pid != 0);
      if (slot != nullptr && slot->worker_pid == 0 && slot->blockers == 0 && !routes)
        pg::forget_database(oid);
      LWLockRelease(pg::shared_lock());
    });
  }

  /// By what is in the slots: who drops a database blocks its slot a moment longer than it is listed.
  void forget_gone() {
    const auto gone = [](Database &database) { return !database.seen && !database.child.running(false); };
    databases_.erase(std::remove_if(databases_.begin(), databases_.end(), gone), databases_.end());
    for (const Oid oid : slots_in_use())
      if (std::none_of(databases_.begin(), databases_.end(), [oid](const Database &d) { return d.oid == oid; }))
        forget(oid);
  }

  static std::vector<Oid> slots_in_use() {
    std::vector<Oid> out;
    out.reserve(pg::kMaxDatabases);
    pg::call([] { LWLockAcquire(pg::shared_lock(), LW_SHARED); });
    for (int i = 0; i < pg::kMaxDatabases; i++)
      if (pg::database_slots()[i].used)
        out.push_back(pg::database_slots()[i].database);
    LWLockRelease(pg::shared_lock());
    return out;
  }

  std::vector<Database> databases_;
  int64 last_poll_us_ = pg::monotonic_us();
};

} // namespace

void register_launcher() {
  if (IsBinaryUpgrade)
    return; // pg_upgrade wants the server for itself
  BackgroundWorker worker;
  memset(&worker, 0, sizeof worker);
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
  worker.bgw_restart_time = 5;
  strlcpy(worker.bgw_library_name, "seal_sync", sizeof worker.bgw_library_name);
  strlcpy(worker.bgw_function_name, "seal_sync_launcher_main", sizeof worker.bgw_function_name);
  strlcpy(worker.bgw_name, "seal_sync launcher", sizeof worker.bgw_name);
  strlcpy(worker.bgw_type, "seal_sync launcher", sizeof worker.bgw_type);
  RegisterBackgroundWorker(&worker);
}

} // namespace seal_sync::worker

extern "C" PGDLLEXPORT void seal_sync_launcher_main(Datum) {
  using namespace seal_sync;
  worker::set_up_signals();
  before_shmem_exit(worker::leave_launcher, 0);
  BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
  worker::pin_session();
  pg::set_launcher(MyProcPid, MyLatch);
  pg::entry([] {
    worker::Launcher launcher;
    launcher.run();
  });
}

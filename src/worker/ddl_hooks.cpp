// Commands that cannot run while somebody is connected to a database, or that take our tables away:
// the workers are asked to leave first, and stay out until the command's transaction has ended.
//
//   DROP DATABASE x, ALTER DATABASE x RENAME / SET TABLESPACE, CREATE DATABASE y TEMPLATE x
//   DROP EXTENSION seal_sync, DROP OWNED BY its owner        (the current database)
//
// A hook of the library and not an event trigger, because it must be there in every database: preloaded
// it is. Only for who owns the database or the extension; others get their error from the command.
// Invariant: whatever ends the transaction (commit, rollback, the end of the session) opens the database
// again; with a rollback that is what restores service. PostgreSQL regime.
#include "worker/ddl_hooks.hpp"

#include "pg/latch.hpp"
#include "worker/roster.hpp"
#include "worker/wakeup.hpp"

namespace seal_sync::worker {

namespace {

// For the workers to leave: they answer at once unless they are inside one long call of the server.
constexpr int64 kPatienceMs = 10000;
constexpr int64 kStepMs = 10;

ProcessUtility_hook_type next_hook = nullptr;

constexpr int kMaxBlocked = 4; // databases this transaction keeps free
Oid blocked[kMaxBlocked];
int blocked_count = 0;

extern "C" void open_again(XactEvent event, void *) {
  switch (event) {
  case XACT_EVENT_COMMIT:
  case XACT_EVENT_ABORT:
  case XACT_EVENT_PREPARE:
    while (blocked_count > 0)
      unblock_database(blocked[--blocked_count]);
    break;
  default:
    break;
  }
}

void keep_workers_out(Oid database) {
  if (!OidIsValid(database))
    return;
  bool known = false;
  for (int i = 0; i < blocked_count; i++)
    known = known || blocked[i] == database;
  if (!known) {
    if (blocked_count == kMaxBlocked)
      ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
              errmsg("too many databases are renamed or moved in one transaction"),
              errhint("Do it in several transactions."));
    block_database(database);
    blocked[blocked_count++] = database;
  }
  terminate_workers(database);
  for (const pg::Deadline patience = pg::Deadline::in_ms(kPatienceMs); has_workers(database) && !patience.passed();)
    (void)pg::wait(kStepMs);
}

Oid owned_database(const char *name) {
  const Oid database = get_database_oid(name, true);
  return OidIsValid(database) && pg::object_ownercheck(DatabaseRelationId, database, GetUserId()) ? database
                                                                                                  : InvalidOid;
}

const DefElem *find_option(List *options, const char *name) {
  ListCell *cell;
  foreach (cell, options) {
    const auto *option = static_cast<const DefElem *>(lfirst(cell));
    if (strcmp(option->defname, name) == 0)
      return option;
  }
  return nullptr;
}

bool names_extension(const DropStmt *drop) {
  if (drop->removeType != OBJECT_EXTENSION)
    return false;
  ListCell *cell;
  foreach (cell, drop->objects)
    if (strcmp(strVal(lfirst(cell)), "seal_sync") == 0)
      return true;
  return false;
}

/// DROP OWNED takes the extension along when one of these roles owns it.
bool owns_extension(const DropOwnedStmt *drop, Oid extension) {
  ListCell *cell;
  foreach (cell, drop->roles) {
    const Oid role = get_rolespec_oid(static_cast<RoleSpec *>(lfirst(cell)), true);
    if (OidIsValid(role) && pg::object_ownercheck(ExtensionRelationId, extension, role))
      return true;
  }
  return false;
}

/// The database that this command needs for itself, or InvalidOid.
Oid needed_for_itself(Node *statement) {
  switch (nodeTag(statement)) {
  case T_DropdbStmt:
    return owned_database(castNode(DropdbStmt, statement)->dbname);
  case T_RenameStmt: {
    const auto *rename = castNode(RenameStmt, statement);
    return rename->renameType == OBJECT_DATABASE ? owned_database(rename->subname) : InvalidOid;
  }
  case T_AlterDatabaseStmt: {
    const auto *alter = castNode(AlterDatabaseStmt, statement);
    return find_option(alter->options, "tablespace") != nullptr ? owned_database(alter->dbname) : InvalidOid;
  }
  case T_CreatedbStmt: {
    const DefElem *from = find_option(castNode(CreatedbStmt, statement)->options, "template");
    // Names only: DEFAULT has no argument.
    if (from == nullptr || from->arg == nullptr)
      return InvalidOid;
    return owned_database(defGetString(const_cast<DefElem *>(from)));
  }
  case T_DropStmt: {
    if (!names_extension(castNode(DropStmt, statement)))
      return InvalidOid;
    const Oid extension = get_extension_oid("seal_sync", true);
    return OidIsValid(extension) && pg::object_ownercheck(ExtensionRelationId, extension, GetUserId())
               ? MyDatabaseId
               : InvalidOid;
  }
  case T_DropOwnedStmt: {
    const Oid extension = get_extension_oid("seal_sync", true);
    return OidIsValid(extension) && owns_extension(castNode(DropOwnedStmt, statement), extension) ? MyDatabaseId
                                                                                                  : InvalidOid;
  }
  default:
    return InvalidOid;
  }
}

/// What the workers have to look at when this command has been committed.
void wake_for(Node *statement) {
  switch (nodeTag(statement)) {
  case T_CreateExtensionStmt:
    if (strcmp(castNode(CreateExtensionStmt, statement)->extname, "seal_sync") == 0)
      wake_at_commit();
    break;
  case T_CreatedbStmt:
  case T_DropdbStmt:
  case T_RenameStmt:
  case T_AlterDatabaseStmt:
    wake_launcher_at_commit();
    break;
  case T_CreateForeignServerStmt:
  case T_AlterForeignServerStmt:
  case T_CreateUserMappingStmt:
  case T_AlterUserMappingStmt:
  case T_DropUserMappingStmt:
    if (OidIsValid(get_extension_oid("seal_sync", true)))
      wake_at_commit(); // a route may have waited for just this
    break;
  default:
    break;
  }
}

void process_utility(PlannedStmt *planned, const char *text, bool read_only_tree, ProcessUtilityContext context,
                     ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *receiver,
                     QueryCompletion *completion) {
  Node *statement = planned->utilityStmt;
  // In an aborted or absent transaction catalogs cannot be read; ROLLBACK and the like come here too.
  const bool look = IsTransactionState() && pg::have_shared_state();
  if (look)
    keep_workers_out(needed_for_itself(statement));
  if (look)
    wake_for(statement);
  if (next_hook != nullptr)
    next_hook(planned, text, read_only_tree, context, parameters, environment, receiver, completion);
  else
    standard_ProcessUtility(planned, text, read_only_tree, context, parameters, environment, receiver,
                            completion);
}

} // namespace

void init_ddl_hooks() {
  next_hook = ProcessUtility_hook;
  ProcessUtility_hook = process_utility;
  RegisterXactCallback(open_again, nullptr);
}

void keep_workers_out_until_end(Oid database) {
  if (pg::have_shared_state())
    keep_workers_out(database);
}

} // namespace seal_sync::worker

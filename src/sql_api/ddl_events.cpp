// DDL as it happens: what DROP, ATTACH, DETACH, RENAME and rewrites mean for registered tables.
//
// Event triggers, ALWAYS. They run as whoever types the DDL, who needs no right on our schema, and
// must cost next to nothing while no table concerned is registered. A node without identity (a
// restored dump before node_create) only forgets what is dropped.

#include "config/config.hpp"
#include "sql_api/ddl_events.hpp"
#include "sql_api/events.hpp"
#include "sql_api/registration.hpp"
#include "sql_api/sequence.hpp"
#include "sql_api/table.hpp"

namespace seal_sync::sql_api {

namespace {

/// Relations rewritten by the command under way. They can be read only when it has ended: at the time
/// of the event the catalogs are new and the rows still old. The list dies with the transaction;
/// what a rolled back subtransaction left in it costs a needless copy.
List *rewritten = NIL;

void remember_rewritten(Oid relation) {
  const MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
  if (rewritten == NIL) {
    auto *callback = static_cast<MemoryContextCallback *>(palloc0(sizeof(MemoryContextCallback)));
    callback->func = [](void *) { rewritten = NIL; };
    MemoryContextRegisterResetCallback(TopTransactionContext, callback);
  }
  rewritten = list_append_unique_oid(rewritten, relation);
  MemoryContextSwitchTo(old);
}

void check_event(FunctionCallInfo fcinfo) {
  if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
    throw core::Error("39P03", "function can only be called by the event triggers of seal_sync");
}

/// One catalog scan instead of SPI for the DDL of everybody else.
bool anything_configured() {
  return pg::call([] {
    bool found = false;
    for (const char *name : {"table_rule", "peer", "schema_rule", "sequence_rule"}) {
      const Oid oid = config::own_relation(name);
      if (found || !OidIsValid(oid))
        continue;
      const Relation rel = table_open(oid, AccessShareLock);
      const SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr);
      found = HeapTupleIsValid(systable_getnext(scan));
      systable_endscan(scan);
      table_close(rel, AccessShareLock);
    }
    return found;
  });
}

bool have_identity() {
  return pg::call([] {
    config::refresh();
    return config::local_node() != nullptr;
  });
}

[[noreturn]] void refuse(Oid root, const std::string &what, const std::string &detail) {
  throw core::Error("55000", "cannot " + what + " \"" + display_name(root) + "\" while it is registered", detail,
                    "SELECT seal_sync.table_remove(" + literal(sql_name(root)) +
                        ") first, and seal_sync.table_add(…) afterwards.");
}

/// Tables below this one that were registered by themselves are part of it now.
bool absorb_partitions(Oid root) {
  const Rows rows = query("SELECT r.relation::pg_catalog.oid FROM seal_sync.table_rule r "
                          "WHERE r.relation::pg_catalog.oid = ANY ($1) AND r.relation::pg_catalog.oid <> $2",
                          {arg(members(root)), arg(root)});
  for (size_t i = 0; i < rows.size(); i++) {
    const Oid inner = rows.oid(i, 0);
    notice("table \"" + display_name(inner) + "\" is no longer registered by itself",
           "It is part of table \"" + display_name(root) + "\" now.");
    drop_triggers_of(inner);
    forget_tables({inner});
  }
  return !rows.empty();
}

/// Brings one registered table's triggers and rule in line with what DDL has made of it.
void follow(Oid root) {
  const Rows state = query("SELECT s.key_columns, coalesce(s.cluster_attno, 0), r.cluster_column FROM seal_sync.table_state s "
                           "JOIN seal_sync.table_rule r ON r.relation = s.relation WHERE s.relation = $1",
                           {arg(root)});
  if (state.empty())
    return; // restored, not alive yet
  const int cluster_attno = std::stoi(state.text(0, 1));
  const Shape shape = shape_of(root, cluster_attno);
  if (shape.key != state.text(0, 0))
    refuse(root, "change the primary key of table", "Pending changes are known by that key, here and on the peers.");
  if (cluster_attno != 0 && shape.cluster_attno == 0)
    refuse(root, "drop column \"" + state.text(0, 2) + "\" of table", "It tells which cluster a row belongs to.");
  Oid member = root;
  if (const std::optional<Unfit> unfit = unfit_member(root, &member))
    refuse(root, "alter table",
           "Then \"" + display_name(member) + "\" could not be captured: " + unfit->reason + ".");

  bool rules = absorb_partitions(root);
  if (cluster_attno != 0 && shape.cluster_column != state.text(0, 2)) {
    query("UPDATE seal_sync.table_rule SET cluster_column = $2 WHERE relation = $1::pg_catalog.regclass",
          {arg(root), arg(shape.cluster_column)});
    rules = true;
  }
  const std::vector<Oid> fresh = make_triggers(root);
  drop_stray_triggers(root);
  if (rules)
    rules_changed();
  for (const Oid leaf : fresh)
    copy_existing_rows(leaf); // what an attached table brings along
}

/// What peers have shipped into these tables stands in rewritten columns no more: they are told, and ship it again.
void expect_all_again(const std::vector<Oid> &roots) {
  query("UPDATE seal_sync.reception SET newest = newest + 1, "
        "numbers = pg_catalog.array_fill(newest + 1, ARRAY[pg_catalog.cardinality(columns)]) WHERE relation = ANY ($1)",
        {arg(roots)});
}

/// Peers that ship into these tables describe them again, though nothing has changed over there.
void invite_peers(const std::vector<Oid> &touched) {
  if (query("SELECT FROM seal_sync.reception WHERE relation = ANY ($1) LIMIT 1", {arg(registered_roots(touched))}).empty())
    return;
  pg::call([] { config::changed(); }); // shows in the answer to a heartbeat
}

void follow_all(const std::vector<Oid> &touched) {
  for (const Oid root : registered_roots(touched))
    follow(root);
}

/// Inheritance children of a registered table would show their rows on this node only.
std::vector<Oid> with_inheritance_parents(std::vector<Oid> relations) {
  const Rows parents = query("SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = ANY ($1)", {arg(relations)});
  for (size_t i = 0; i < parents.size(); i++)
    relations.push_back(parents.oid(i, 0));
  return relations;
}

/// Servers and user mappings of our wrapper leave with the extension, without CASCADE (trap T20).
void tie_to_extension(Oid catalog, Oid object) {
  const Rows ours = query(
      "SELECT FROM pg_catalog.pg_foreign_server s "
      "JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass "
      " AND d.objid = s.srvfdw AND d.deptype = 'e' AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass "
      "JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'seal_sync' "
      "WHERE $1 = CASE WHEN $2 = 'pg_catalog.pg_foreign_server'::pg_catalog.regclass::pg_catalog.oid THEN s.oid "
      " ELSE (SELECT m.oid FROM pg_catalog.pg_user_mapping m WHERE m.oid = $1 AND m.umserver = s.oid) END "
      "AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = $2 AND x.objid = $1 AND x.deptype = 'x')",
      {arg(object), arg(catalog)});
  if (ours.empty())
    return;
  pg::call([=] {
    ObjectAddress self, extension;
    ObjectAddressSet(self, catalog, object);
    ObjectAddressSet(extension, ExtensionRelationId, get_extension_oid("seal_sync", false));
    recordDependencyOn(&self, &extension, DEPENDENCY_AUTO_EXTENSION);
    CommandCounterIncrement();
  });
}

// ---- seal_sync.events: who changed a registered table, and where a peer is or how it is logged in to. The text of a
// command is left out: it may hold values, and secrets.

void record_ddl_of_tables(const std::string &command, const std::vector<Oid> &relations, const std::vector<Oid> &triggers) {
  const Rows tables = query("SELECT r.oid FROM pg_catalog.unnest($1) r(oid) "
                            "UNION SELECT i.indrelid FROM pg_catalog.pg_index i WHERE i.indexrelid = ANY ($1) "
                            "UNION SELECT t.tgrelid FROM pg_catalog.pg_trigger t WHERE t.oid = ANY ($2) AND NOT t.tgisinternal",
                            {arg(relations), arg(triggers)});
  std::vector<Oid> changed;
  for (size_t i = 0; i < tables.size(); i++)
    changed.push_back(tables.oid(i, 0));
  for (const Oid root : registered_roots(changed))
    record_event("ddl", "table " + display_name(root), {}, {{"command", command}});
}

/// Peers are told of them by name, and how they count now.
void follow_sequences(const std::string &command, const std::vector<Oid> &relations) {
  const Rows rows = query("SELECT r.sequence::pg_catalog.oid FROM seal_sync.sequence_rule r WHERE r.sequence::pg_catalog.oid = ANY ($1) ORDER BY 1",
                          {arg(relations)});
  for (size_t i = 0; i < rows.size(); i++)
    record_event("ddl", "sequence " + display_name(rows.oid(i, 0)), {}, {{"command", command}});
  if (!rows.empty())
    rules_changed();
}

void record_ddl_of_servers(const std::string &command, const std::vector<Oid> &objects) {
  const Rows servers = query("SELECT s.srvname FROM pg_catalog.pg_foreign_server s "
                             "JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'seal_sync' "
                             "WHERE s.oid = ANY ($1) OR EXISTS (SELECT FROM pg_catalog.pg_user_mapping m "
                             " WHERE m.umserver = s.oid AND m.oid = ANY ($1)) ORDER BY 1",
                             {arg(objects)});
  for (size_t i = 0; i < servers.size(); i++)
    record_event("ddl", "server " + servers.text(i, 0), {}, {{"command", command}});
}

void record_drops(const Rows &dropped) {
  for (size_t i = 0; i < dropped.size(); i++) {
    const std::string &kind = dropped.text(i, 0);
    if (dropped.null(i, 4))
      continue;
    const std::string &name = dropped.text(i, 4);
    if (kind == "sequence" &&
        !query("SELECT FROM seal_sync.sequence_rule r WHERE r.sequence::pg_catalog.oid = $1", {arg(dropped.oid(i, 1))}).empty())
      record_event("ddl", "sequence " + name, {}, {{"command", "DROP SEQUENCE"}});
    if (kind == "table" &&
        !query("SELECT FROM seal_sync.table_rule r WHERE r.relation::pg_catalog.oid = $1", {arg(dropped.oid(i, 1))}).empty())
      record_event("ddl", "table " + name, {}, {{"command", "DROP TABLE"}});
    if ((kind == "server" || kind == "user mapping") &&
        !query("SELECT FROM seal_sync.peer p WHERE p.server = $1", {arg(name)}).empty())
      record_event("ddl", "server " + name, {}, {{"command", kind == "server" ? "DROP SERVER" : "DROP USER MAPPING"}});
  }
}

/// ALTER SERVER … RENAME takes the peers along.
void follow_server(Oid server) {
  const Rows renamed = query("UPDATE seal_sync.peer p SET server = s.srvname FROM seal_sync.peer_state t, "
                             "pg_catalog.pg_foreign_server s WHERE t.peer = p.peer AND t.server_oid = s.oid "
                             "AND s.oid = $1 AND p.server <> s.srvname RETURNING p.peer",
                             {arg(server)});
  if (!renamed.empty())
    rules_changed();
}

} // namespace

void tie_servers() {
  const Rows all = query("SELECT o.catalog, o.oid FROM pg_catalog.pg_foreign_server s "
                         "JOIN pg_catalog.pg_foreign_data_wrapper f ON f.oid = s.srvfdw AND f.fdwname = 'seal_sync' "
                         "CROSS JOIN LATERAL (SELECT 'pg_catalog.pg_foreign_server'::pg_catalog.regclass::pg_catalog.oid, s.oid "
                         " UNION ALL SELECT 'pg_catalog.pg_user_mapping'::pg_catalog.regclass::pg_catalog.oid, m.oid "
                         " FROM pg_catalog.pg_user_mapping m WHERE m.umserver = s.oid) o(catalog, oid)");
  for (size_t i = 0; i < all.size(); i++)
    tie_to_extension(all.oid(i, 0), all.oid(i, 1));
}

SEAL_SYNC_FUNCTION(seal_sync_ddl_command_end) {
  check_event(fcinfo);
  if (OwnDdl::under_way())
    PG_RETURN_NULL();
  const CommandTag tag = reinterpret_cast<EventTriggerData *>(fcinfo->context)->tag;
  const bool of_servers = tag == CMDTAG_CREATE_SERVER || tag == CMDTAG_CREATE_USER_MAPPING;
  if (!of_servers && !anything_configured())
    PG_RETURN_NULL();

  const AsOwner owner;
  const Spi spi;
  const Rows commands = query(
      "SELECT c.classid, c.objid FROM pg_catalog.pg_event_trigger_ddl_commands() c WHERE c.classid IN ( "
      "'pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, "
      "'pg_catalog.pg_namespace'::pg_catalog.regclass, 'pg_catalog.pg_trigger'::pg_catalog.regclass, "
      "'pg_catalog.pg_user_mapping'::pg_catalog.regclass)");
  std::vector<Oid> touched, triggers, servers;
  for (size_t i = 0; i < commands.size(); i++) {
    const Oid catalog = commands.oid(i, 0);
    const Oid object = commands.oid(i, 1);
    if (catalog == RelationRelationId) {
      touched.push_back(object);
      continue;
    }
    if (catalog == TriggerRelationId) {
      triggers.push_back(object);
      continue;
    }
    if (catalog == NamespaceRelationId) {
      follow_schema(object);
      if (!query("SELECT FROM seal_sync.sequence_rule r JOIN pg_catalog.pg_class c ON c.oid = r.sequence WHERE c.relnamespace = $1", {arg(object)}).empty())
        rules_changed(); // peers are told of them by name
      continue;
    }
    servers.push_back(object);
    tie_to_extension(catalog, object);
    if (catalog == ForeignServerRelationId)
      follow_server(object);
  }
  const std::string command = GetCommandTagName(tag);
  if (!servers.empty())
    record_ddl_of_servers(command, servers);
  if (have_identity()) {
    if (!touched.empty() || !triggers.empty())
      record_ddl_of_tables(command, touched, triggers);
    if (!touched.empty())
      follow_sequences(command, touched);
    if (!touched.empty())
      follow_all(with_inheritance_parents(touched));
    // Later than the rest: a table that is new has no rule that could have to follow.
    add_new_tables(touched, tag == CMDTAG_CREATE_TABLE || tag == CMDTAG_CREATE_TABLE_AS || tag == CMDTAG_SELECT_INTO);
    std::vector<Oid> copies;
    ListCell *cell;
    foreach (cell, rewritten)
      copies.push_back(lfirst_oid(cell));
    for (const Oid relation : copies) {
      const std::vector<Oid> roots = registered_roots({relation});
      if (roots.empty())
        continue;
      copy_existing_rows(relation);
      expect_all_again(roots);
    }
    if (tag == CMDTAG_ALTER_TABLE && !touched.empty())
      invite_peers(touched);
  }
  rewritten = list_truncate(rewritten, 0);
  PG_RETURN_NULL();
}

SEAL_SYNC_FUNCTION(seal_sync_sql_drop) {
  check_event(fcinfo);
  if (OwnDdl::under_way() || !anything_configured())
    PG_RETURN_NULL();

  const AsOwner owner;
  const Spi spi;
  const Rows dropped = query(
      "SELECT o.object_type, o.objid, o.objsubid, CASE WHEN o.object_type IN ('table column', 'table constraint') "
      " THEN pg_catalog.to_regclass(pg_catalog.format('%I.%I', o.address_names[1], o.address_names[2]))::pg_catalog.oid END, "
      "CASE WHEN o.object_type IN ('table', 'sequence') THEN o.schema_name || '.' || o.object_name WHEN o.object_type = 'server' THEN o.object_name "
      " WHEN o.object_type = 'user mapping' THEN o.address_args[1] WHEN o.object_type = 'schema' THEN o.object_name END "
      "FROM pg_catalog.pg_event_trigger_dropped_objects() o "
      "WHERE o.object_type IN ('table', 'table column', 'table constraint', 'schema', 'sequence', 'server', 'user mapping') AND NOT o.is_temporary");
  record_drops(dropped);
  std::vector<Oid> gone, touched, sequences;
  std::vector<std::string> schemas;
  for (size_t i = 0; i < dropped.size(); i++) {
    if (dropped.text(i, 0) == "table")
      gone.push_back(dropped.oid(i, 1));
    else if (dropped.text(i, 0) == "sequence")
      sequences.push_back(dropped.oid(i, 1));
    else if (dropped.text(i, 0) == "schema")
      schemas.push_back(dropped.text(i, 4));
    else if (dropped.text(i, 0).starts_with("table ") && !dropped.null(i, 3))
      touched.push_back(dropped.oid(i, 3));
  }
  if (!gone.empty() && forget_tables(gone))
    rules_changed();
  if (!sequences.empty() && forget_sequences(sequences))
    rules_changed();
  if (!gone.empty() || !schemas.empty())
    forget_in_schema_rules(gone, schemas);
  if (!touched.empty() && have_identity())
    follow_all(touched);
  PG_RETURN_NULL();
}

SEAL_SYNC_FUNCTION(seal_sync_table_rewrite) {
  check_event(fcinfo);
  if (OwnDdl::under_way() || !anything_configured() || !have_identity())
    PG_RETURN_NULL();

  const AsOwner owner;
  const Spi spi;
  // Of the reasons only new default values (2) and a column's new type (4) make new contents.
  const Rows rows = query("SELECT pg_catalog.pg_event_trigger_table_rewrite_oid() "
                          "WHERE pg_catalog.pg_event_trigger_table_rewrite_reason() & 6 <> 0");
  if (!rows.empty() && !registered_roots({rows.oid(0, 0)}).empty()) {
    const Oid relation = rows.oid(0, 0);
    pg::call([relation] { remember_rewritten(relation); });
  }
  PG_RETURN_NULL();
}

} // namespace seal_sync::sql_api

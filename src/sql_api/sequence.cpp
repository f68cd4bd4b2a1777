// sequence_split, sequence_add, sequence_remove: whose numbers are whose.
//
// Whoever calls must own the sequence. A split is made with ALTER SEQUENCE, which is transactional and gives the sequence a
// new file: that makes every session forget the numbers it has in its cache (CACHE > 1), which would still be of the old
// kind. Its lock waits for transactions that have taken numbers, so that none of these comes later than what is
// counted here as given. Order of locks: the sequence, then our own tables.

#include "sql_api/sequence.hpp"

#include "config/config.hpp"
#include "config/sequences.hpp"
#include "sql_api/events.hpp"
#include "sql_api/registration.hpp"

#include <algorithm>

namespace seal_sync::sql_api {

namespace {

constexpr int kMostSlots = config::kMaxSlots;

// ---- arguments ----------------------------------------------------------------------------------

Oid required_sequence(FunctionCallInfo fcinfo) {
  if (PG_ARGISNULL(0))
    throw core::Error("22004", "argument \"sequence\" must not be null");
  return PG_GETARG_OID(0);
}

/// For its owner only, and against nextval and DDL of others until the end of the transaction.
void lock_for_owner(Oid sequence, LOCKMODE mode) {
  pg::call([=] {
    for (int pass = 0; pass < 2; pass++) { // once more when we have waited for the lock
      const char *name = get_rel_name(sequence);
      if (name == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", sequence));
      if (get_rel_relkind(sequence) != RELKIND_SEQUENCE)
        ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not a sequence", name));
      if (!pg::owns_relation(sequence, GetUserId()))
        aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_SEQUENCE, name);
      if (pass == 0)
        LockRelationOid(sequence, mode);
    }
  });
}

[[noreturn]] void cannot(const char *what, Oid sequence, const std::string &reason, const std::string &detail = {},
                         const std::string &hint = {}) {
  throw core::Error("55000", std::string("cannot ") + what + " sequence \"" + display_name(sequence) + "\": " + reason, detail, hint);
}

void refuse_unfit(const char *what, Oid sequence) {
  const Rows rows = query("SELECT c.relpersistence, n.nspname, n.nspname ~ '^pg_' OR n.nspname IN ('information_schema', 'seal_sync') "
                          "OR EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass "
                          " AND d.objid = c.oid AND d.deptype = 'e') "
                          "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
                          {arg(sequence)});
  if (rows.text(0, 0) == "t")
    cannot(what, sequence, "it is temporary", "It is seen by one session only.");
  if (rows.text(0, 0) == "u")
    cannot(what, sequence, "it is unlogged", "After a crash it would begin again.",
           "ALTER SEQUENCE " + sql_name(sequence) + " SET LOGGED.");
  if (rows.boolean(0, 2))
    cannot(what, sequence, "it belongs to the system or to an extension");
}

std::optional<config::SequenceRule> rule_of(Oid sequence) {
  struct Found {
    bool any;
    config::SequenceRule rule;
  };
  const Found found = pg::call([sequence] {
    Found out = {};
    int count = 0;
    const config::SequenceRule *rules = config::sequence_rules(&count);
    for (int i = 0; i < count; i++)
      if (rules[i].sequence == sequence)
        out = {true, rules[i]};
    return out;
  });
  return found.any ? std::optional(found.rule) : std::nullopt;
}

pg::SequenceState state_of(Oid sequence) {
  struct Found {
    pg::SequenceAccess access;
    pg::SequenceState state;
  };
  const Found found = pg::call([sequence] {
    Found out = {};
    out.access = pg::read_sequence(sequence, &out.state);
    return out;
  });
  if (found.access != pg::SequenceAccess::kDone) // we hold a lock that keeps others from it
    throw core::Error("XX000", "sequence \"" + display_name(sequence) + "\" cannot be read");
  return found.state;
}

// ---- slots --------------------------------------------------------------------------------------

/// Held by a node that is still one of ours.
std::optional<std::string> holder_of(int slot, const std::string &node) {
  const Rows rows = query("SELECT s.node FROM seal_sync.sequence_slot s WHERE s.slot = $1 AND s.node::pg_catalog.text <> $2 "
                          "AND (EXISTS (SELECT FROM seal_sync.peer p WHERE p.peer = s.node) "
                          " OR EXISTS (SELECT FROM seal_sync.cluster c JOIN seal_sync.cluster_state t USING (cluster) "
                          "  WHERE s.node IN (c.home_node, t.primary_node) OR s.node = ANY (c.standby_nodes))) ORDER BY 1 LIMIT 1",
                          {int_arg(slot), arg(node)});
  return rows.empty() ? std::nullopt : std::optional(rows.text(0, 0));
}

/// This node's share. wanted: as asked for. Never guessed: two nodes that cannot talk would guess the same.
int own_slot(const std::string &node, std::optional<int> wanted, int slots, Oid sequence) {
  query("LOCK TABLE seal_sync.sequence_slot IN SHARE ROW EXCLUSIVE MODE");
  int slot = pg::call([] { return config::own_slot(); });
  if (wanted && *wanted != slot) {
    if (const std::optional<std::string> holder = holder_of(*wanted, node))
      throw core::Error("42710", "node \"" + *holder + "\" has slot " + std::to_string(*wanted) + " already", {},
                        "See seal_sync.sequences on each node for the slots in use.");
    query("DELETE FROM seal_sync.sequence_slot WHERE slot = $1 OR node::pg_catalog.text = $2", {int_arg(*wanted), arg(node)});
    query("INSERT INTO seal_sync.sequence_slot (node, slot, in_use, direct) VALUES ($1, $2, true, true)", {arg(node), int_arg(*wanted)});
    slot = *wanted;
  }
  if (slot == 0)
    cannot("split", sequence, "node \"" + node + "\" has no slot yet",
           "Nodes agree on their slots when they are in contact for the first time, and keep them.",
           "Wait until a peer is in contact, see seal_sync.status. Or give a number that no other node has: seal_sync.sequence_split(" +
               literal(sql_name(sequence)) + ", slots => " + std::to_string(slots) + ", slot => …).");
  if (slot > slots)
    throw core::Error("22023", "node \"" + node + "\" has slot " + std::to_string(slot) + " of only " + std::to_string(slots),
                      "Each node needs a slot of its own in every split sequence.",
                      "Give at least that many slots, and the same number on every node.");
  return slot;
}

// ---- numbers in use -----------------------------------------------------------------------------

/// The furthest of some numbers, if there are any.
struct Furthest {
  bool known = false;
  int64 number = 0;
  void take(int64 other, bool ascending) {
    if (!known || core::beyond(other, number, ascending))
      number = other;
    known = true;
  }
  void take(const Furthest &other, bool ascending) {
    if (other.known)
      take(other.number, ascending);
  }
};

/// Columns of integer types that take numbers from the sequence: (table, column).
Rows fed_columns(Oid sequence) {
  return query(
      "SELECT DISTINCT c.oid, a.attname FROM ( "
      " SELECT d.refobjid AS rel, d.refobjsubid AS att FROM pg_catalog.pg_depend d " // identity, OWNED BY
      "  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = $1 AND d.deptype IN ('a', 'i') "
      "  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0 "
      " UNION ALL SELECT f.adrelid, f.adnum FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid "
      "  WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass "
      "  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = $1 "
      " UNION ALL SELECT a.attrelid, a.attnum FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a ON a.atttypid = d.objid "
      "  WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass "
      "  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = $1) x "
      "JOIN pg_catalog.pg_class c ON c.oid = x.rel AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' "
      "JOIN pg_catalog.pg_attribute a ON a.attrelid = x.rel AND a.attnum = x.att AND NOT a.attisdropped "
      "JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
      "WHERE 'pg_catalog.int8'::pg_catalog.regtype = coalesce(nullif(t.typbasetype, 0), t.oid) "
      " OR coalesce(nullif(t.typbasetype, 0), t.oid) IN ('pg_catalog.int4'::pg_catalog.regtype, 'pg_catalog.int2'::pg_catalog.regtype) "
      "ORDER BY 1, 2",
      {arg(sequence)});
}

/// Until the end of the scope the owner of a table acts, who has to be trusted with it anyway: planning and running a query
/// on it can run code of his, such as functions in the predicates of its indexes.
class AsOwnerOf {
public:
  explicit AsOwnerOf(Oid relation) {
    pg::call([this, relation] {
      const HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
      if (!HeapTupleIsValid(tuple))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", relation));
      const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
      ReleaseSysCache(tuple);
      GetUserIdAndSecContext(&user_, &security_);
      // As foreign keys do it: row security would hide numbers that are in use.
      SetUserIdAndSecContext(owner, security_ | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
    });
  }
  ~AsOwnerOf() {
    pg::call_or_exit([this] { SetUserIdAndSecContext(user_, security_); });
  }
  AsOwnerOf(const AsOwnerOf &) = delete;
  AsOwnerOf &operator=(const AsOwnerOf &) = delete;

private:
  Oid user_ = InvalidOid;
  int security_ = 0;
};

/// The furthest number in those columns: rows may hold numbers that never came from the sequence.
Furthest furthest_row(Oid sequence, bool ascending) {
  Furthest furthest;
  const Rows columns = fed_columns(sequence);
  for (size_t i = 0; i < columns.size(); i++) {
    const std::string statement = std::string("SELECT pg_catalog.") + (ascending ? "max" : "min") + "(t." + quote(columns.text(i, 1)) +
                                  ")::pg_catalog.int8 FROM " + sql_name(columns.oid(i, 0)) + " t";
    const AsOwnerOf owner(columns.oid(i, 0));
    const Rows found = query(statement);
    if (found.empty() || found.null(0, 0))
      continue;
    furthest.take(std::stoll(found.text(0, 0)), ascending);
  }
  return furthest;
}

/// How far numbers have gone on this node, whoever gave them.
Furthest furthest_here(Oid sequence, const Furthest &rows, bool ascending) {
  const pg::SequenceState now = state_of(sequence);
  Furthest furthest;
  if (now.is_called)
    furthest.take(now.last_value, ascending);
  furthest.take(rows, ascending);
  return furthest;
}

/// How far numbers went at the peers before they split, as they have told.
Furthest furthest_floor(Oid sequence, bool ascending) {
  const Rows rows = query(std::string("SELECT pg_catalog.") + (ascending ? "max" : "min") +
                              "(s.floor) FROM seal_sync.sequence_peer s WHERE s.sequence = $1",
                          {arg(sequence)});
  Furthest furthest;
  if (!rows.empty() && !rows.null(0, 0))
    furthest.take(std::stoll(rows.text(0, 0)), ascending);
  return furthest;
}

// ---- splitting ----------------------------------------------------------------------------------

void alter(Oid sequence, const core::Counting &counting, std::optional<int64> restart) {
  const OwnDdl own;
  query("ALTER SEQUENCE " + sql_name(sequence) + " INCREMENT BY " + std::to_string(counting.increment) + " MINVALUE " +
        std::to_string(counting.min) + " MAXVALUE " + std::to_string(counting.max) + " START WITH " + std::to_string(counting.start) +
        (restart ? " RESTART WITH " + std::to_string(*restart) : ""));
}

/// Whether numbers of other slots than this one may have been given since the rule was made.
bool has_strayed(const config::SequenceRule &rule, int slot) {
  const pg::SequenceState now = state_of(rule.sequence);
  const std::optional<core::Split> split = config::wanted_split(rule, slot);
  return !split || core::fault_of(*split, now.counting, now.last_value) != core::SplitFault::kNone;
}

/// What has been given up to now belongs to no slot: nodes that have one of the numbers now must not meet it.
void raise_floor(const config::SequenceRule &rule, const Furthest &rows) {
  const bool up = rule.former_increment > 0;
  Furthest floor = furthest_here(rule.sequence, rows, up);
  if (rule.has_floor)
    floor.take(rule.floor, up);
  if (floor.known)
    query("UPDATE seal_sync.sequence_rule SET floor = $2 WHERE sequence::pg_catalog.oid = $1", {arg(rule.sequence), int_arg(floor.number)});
}

/// Makes the sequence keep to its split, beyond everything that is known to be given. The rule stands already.
void align(const config::SequenceRule &rule, int slot, const Furthest &rows) {
  const Oid sequence = rule.sequence;
  const pg::SequenceState now = state_of(sequence);
  const core::Counting former = config::former_counting(rule, now.counting);
  if (slot > rule.slots) // when it follows the node's new slot
    cannot("split", sequence, "it is dealt out in only " + std::to_string(rule.slots) + " slots, and the node's is to be " + std::to_string(slot), {},
           "SELECT seal_sync.sequence_split(" + literal(sql_name(sequence)) + ", slots => …) first, on every node.");
  const std::optional<core::Split> split = config::wanted_split(rule, slot);
  const std::optional<core::Counting> counting = split ? core::counting_of(*split, former) : std::nullopt;
  if (!counting)
    cannot("split", sequence, "there is no number of slot " + std::to_string(slot) + " within its bounds",
           "It counts by " + std::to_string(former.increment) + " from " + std::to_string(former.min) + " to " + std::to_string(former.max) + ".");
  const bool up = split->ascending;
  // What has been given; a number that was only to be given first may still be ours.
  Furthest given = furthest_here(sequence, rows, up);
  if (rule.has_floor)
    given.take(rule.floor, up);
  given.take(furthest_floor(sequence, up), up);
  const std::optional<int64> next =
      given.known ? core::next_after(*split, given.number, *counting) : core::next_from(*split, now.last_value, *counting);
  if (!next)
    throw core::Error("2200H", "sequence \"" + display_name(sequence) + "\" has no number left in slot " + std::to_string(slot),
                      "Numbers up to " + std::to_string(given.known ? given.number : now.last_value) + " are in use.",
                      up ? "ALTER SEQUENCE … MAXVALUE …, and a wider type of the column." : "ALTER SEQUENCE … MINVALUE ….");
  alter(sequence, *counting, next);
}

void give_back(const config::SequenceRule &rule) {
  const pg::SequenceState now = state_of(rule.sequence);
  core::Counting former = config::former_counting(rule, now.counting);
  // Bounds may have been changed since
  former.start = std::clamp(former.start, former.min, former.max);
  alter(rule.sequence, former, std::nullopt);
}

bool feeds_registered_key(Oid sequence, std::string *table) {
  const Rows columns = fed_columns(sequence);
  for (size_t i = 0; i < columns.size(); i++) {
    const Rows rows = query("SELECT FROM seal_sync.table_rule r JOIN pg_catalog.pg_index i ON i.indrelid = r.relation AND i.indisprimary "
                            "JOIN pg_catalog.pg_attribute a ON a.attrelid = r.relation AND a.attnum = ANY (i.indkey::smallint[]) "
                            "WHERE r.relation = $1::pg_catalog.regclass AND a.attname = $2 AND r.cluster_column IS NOT NULL "
                            "AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute k WHERE k.attrelid = r.relation "
                            " AND k.attname = r.cluster_column AND k.attnum = ANY (i.indkey::smallint[]))",
                            {arg(columns.oid(i, 0)), arg(columns.text(i, 1))});
    if (rows.processed == 0)
      continue;
    *table = display_name(columns.oid(i, 0));
    return true;
  }
  return false;
}

} // namespace

bool forget_sequences(const std::vector<Oid> &sequences) {
  query("DELETE FROM seal_sync.sequence_peer WHERE sequence = ANY ($1)", {arg(sequences)});
  return query("DELETE FROM seal_sync.sequence_rule WHERE sequence::pg_catalog.oid = ANY ($1)", {arg(sequences)}).processed > 0;
}

bool is_split(Oid sequence) {
  // fault is null also where DDL of others is in the way
  return !query("SELECT FROM seal_sync.sequence_rule r JOIN pg_catalog.pg_sequence s ON s.seqrelid = r.sequence "
                "JOIN seal_sync.sequence_states() t ON t.sequence = s.seqrelid "
                "WHERE r.sequence::pg_catalog.oid = $1 AND r.slots IS NOT NULL AND s.seqincrement = r.former_increment * r.slots "
                "AND t.fault IS NULL",
                {arg(sequence)})
              .empty();
}

void give_all_sequences_back() {
  const Rows rows = query("SELECT r.sequence::pg_catalog.oid FROM seal_sync.sequence_rule r "
                          "JOIN pg_catalog.pg_class c ON c.oid = r.sequence WHERE r.slots IS NOT NULL ORDER BY 1");
  for (size_t i = 0; i < rows.size(); i++) {
    const Oid sequence = rows.oid(i, 0);
    pg::call([=] { LockRelationOid(sequence, ShareRowExclusiveLock); });
    if (const std::optional<config::SequenceRule> rule = rule_of(sequence))
      give_back(*rule);
  }
  query("DELETE FROM seal_sync.sequence_peer");
  query("DELETE FROM seal_sync.sequence_rule");
  query("DELETE FROM seal_sync.sequence_slot");
}

SEAL_SYNC_FUNCTION(seal_sync_sequence_split) {
  const Oid sequence = required_sequence(fcinfo);
  if (PG_ARGISNULL(1))
    throw core::Error("22004", "argument \"slots\" must not be null");
  const int slots = PG_GETARG_INT32(1);
  const std::optional<int> wanted = PG_ARGISNULL(2) ? std::nullopt : std::optional(PG_GETARG_INT32(2));
  if (slots < 2 || slots > kMostSlots)
    throw core::Error("22023", "slots must be between 2 and " + std::to_string(kMostSlots));
  if (wanted && (*wanted < 1 || *wanted > slots))
    throw core::Error("22023", "slot must be between 1 and " + std::to_string(slots));
  const std::string node = require_node();
  lock_for_owner(sequence, AccessShareLock);

  // A large table without an index on the column is read before anybody has to wait for it.
  const bool ascending = state_of(sequence).counting.ascending();
  Furthest rows;
  {
    const AsOwner owner;
    const Spi spi;
    refuse_unfit("split", sequence);
    rows = furthest_row(sequence, ascending);
  }
  lock_for_owner(sequence, ShareRowExclusiveLock);

  const AsOwner owner;
  const Spi spi;
  const std::optional<config::SequenceRule> before = rule_of(sequence);
  if (before && !before->split)
    cannot("split", sequence, std::string("it is carried for cluster \"") + NameStr(before->cluster) + "\"", {},
           "SELECT seal_sync.sequence_remove(" + literal(sql_name(sequence)) + ") first.");
  const int slot_before = pg::call([] { return config::own_slot(); });
  const int slot = own_slot(node, wanted, slots, sequence);
  const pg::SequenceState now = state_of(sequence);
  const Arg bound = now.counting.cycle ? int_arg(now.counting.ascending() ? now.counting.min : now.counting.max) : datum_arg(INT8OID, 0, true);
  if (before) {
    if (before->slots != slots || slot_before != slot || has_strayed(*before, slot))
      raise_floor(*before, rows);
    // It may have been made to cycle since
    query("UPDATE seal_sync.sequence_rule SET slots = $2, former_bound = coalesce(former_bound, $3) WHERE sequence::pg_catalog.oid = $1",
          {arg(sequence), int_arg(slots), bound});
  } else {
    const Furthest floor = furthest_here(sequence, rows, now.counting.ascending());
    query("INSERT INTO seal_sync.sequence_rule (sequence, slots, former_increment, former_start, former_bound, floor) "
          "VALUES ($1::pg_catalog.regclass, $2, $3, $4, $5, $6)",
          {arg(sequence), int_arg(slots), int_arg(now.counting.increment), int_arg(now.counting.start),
           bound,
           floor.known ? int_arg(floor.number) : datum_arg(INT8OID, 0, true)});
  }
  align(*rule_of(sequence), slot, rows);

  if (slot_before != 0 && slot_before != slot) { // the slot is the node's: all its other sequences follow
    const Rows others = query("SELECT r.sequence::pg_catalog.oid FROM seal_sync.sequence_rule r JOIN pg_catalog.pg_class c ON c.oid = r.sequence "
                              "WHERE r.slots IS NOT NULL AND c.oid <> $1 ORDER BY 1",
                              {arg(sequence)});
    for (size_t i = 0; i < others.size(); i++) {
      const Oid other = others.oid(i, 0);
      pg::call([=] { LockRelationOid(other, ShareRowExclusiveLock); });
      const config::SequenceRule rule = rule_of(other).value();
      const Furthest others_rows = furthest_row(other, rule.former_increment > 0);
      raise_floor(rule, others_rows);
      align(rule, slot, others_rows);
    }
  }
  record_event("sequence_split", "sequence " + display_name(sequence), {}, {{"slots", int64{slots}}, {"slot", int64{slot}}});
  rules_changed();
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_sequence_add) {
  const Oid sequence = required_sequence(fcinfo);
  const std::string cluster = required_name(fcinfo, 1, "cluster");
  if (PG_ARGISNULL(2))
    throw core::Error("22004", "argument \"head_room\" must not be null");
  const int64 head_room = PG_GETARG_INT64(2);
  if (head_room < 1)
    throw core::Error("22023", "head_room must be positive");
  require_node();
  lock_for_owner(sequence, AccessShareLock);

  const AsOwner owner;
  const Spi spi;
  refuse_unfit("add", sequence);
  if (query("SELECT FROM seal_sync.cluster WHERE cluster = $1 FOR KEY SHARE", {arg(cluster)}).empty())
    throw core::Error("42704", "cluster \"" + cluster + "\" does not exist", {},
                      "SELECT seal_sync.cluster_create(" + literal(cluster) + ", primary_node => '…') declares it.");
  const std::optional<config::SequenceRule> before = rule_of(sequence);
  if (before && before->split)
    cannot("add", sequence, "it is split",
           "Each node counts by itself; no number is given twice after a takeover either.",
           "SELECT seal_sync.sequence_remove(" + literal(sql_name(sequence)) + ") takes the split back.");
  if (before)
    throw core::Error("42710", "sequence \"" + display_name(sequence) + "\" is already carried for cluster \"" + NameStr(before->cluster) + "\"");
  if (state_of(sequence).counting.cycle)
    cannot("add", sequence, "it begins again when it has reached its end", "What is ahead of it cannot be told.",
           "ALTER SEQUENCE " + sql_name(sequence) + " NO CYCLE, or split it with seal_sync.sequence_split.");
  query("INSERT INTO seal_sync.sequence_rule (sequence, cluster, head_room) VALUES ($1::pg_catalog.regclass, $2, $3)",
        {arg(sequence), arg(cluster), int_arg(head_room)});
  record_event("sequence_add", "sequence " + display_name(sequence), {}, {{"cluster", cluster}, {"head_room", head_room}});
  rules_changed();
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_sequence_remove) {
  const Oid sequence = required_sequence(fcinfo);
  lock_for_owner(sequence, ShareRowExclusiveLock);

  const AsOwner owner;
  const Spi spi;
  const std::optional<config::SequenceRule> rule = rule_of(sequence);
  if (!rule)
    throw core::Error("42704", "sequence \"" + display_name(sequence) + "\" is neither split nor carried");
  std::string table;
  if (rule->split && feeds_registered_key(sequence, &table))
    throw core::Error("2BP01", "cannot remove sequence \"" + display_name(sequence) + "\": the primary key of table \"" + table + "\" relies on it",
                      "Keys made on two nodes would collide.", "SELECT seal_sync.table_remove(…) first.");
  if (rule->split)
    give_back(*rule);
  forget_sequences({sequence});
  record_event("sequence_remove", "sequence " + display_name(sequence));
  rules_changed();
  PG_RETURN_VOID();
}

/// For the views. A sequence that DDL holds is left as it is, with what is known of it unknown.
SEAL_SYNC_PG_FUNCTION(seal_sync_sequence_states) {
  InitMaterializedSRF(fcinfo, 0);
  auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  Oid user;
  int security;
  GetUserIdAndSecContext(&user, &security);
  config::refresh();
  SetUserIdAndSecContext(config::extension_owner(), security | SECURITY_LOCAL_USERID_CHANGE);
  int count = 0;
  const config::SequenceRule *rules = config::sequence_rules(&count);
  const int slot = config::own_slot();
  SetUserIdAndSecContext(user, security);
  for (int i = 0; i < count; i++) {
    const config::SequenceRule &rule = rules[i];
    pg::SequenceState state = {};
    const pg::SequenceAccess access = pg::read_sequence(rule.sequence, &state);
    if (access == pg::SequenceAccess::kGone)
      continue;
    const bool known = access == pg::SequenceAccess::kDone;
    const char *fault = nullptr;
    if (rule.split && known) {
      const std::optional<core::Split> split = config::wanted_split(rule, slot);
      constexpr const char *kFaults[] = {nullptr, "increment", "number", "start", "cycle"};
      fault = split ? kFaults[static_cast<int>(core::fault_of(*split, state.counting, state.last_value))] : "slot";
    }
    Datum values[6] = {ObjectIdGetDatum(rule.sequence), Int32GetDatum(slot), Int64GetDatum(state.counting.increment),
                       Int64GetDatum(state.last_value), BoolGetDatum(state.counting.ascending()), 0};
    bool nulls[6] = {false, !rule.split || slot == 0, !known, !known, !known, fault == nullptr};
    if (fault != nullptr)
      values[5] = CStringGetTextDatum(fault);
    tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
  }
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api

// See sequences.hpp.
#include "config/sequences.hpp"

#include "config/config.hpp"

namespace seal_sync::config {

namespace {

/// One statement; `fn` sees its rows in SPI_tuptable. What it keeps it allocates in the caller's context.
template <typename Fn> void run(const char *sql, std::initializer_list<Datum> values, const Oid *types, Fn fn) {
  Datum arguments[12];
  char nulls[13] = {};
  Oid argument_types[12];
  int count = 0;
  for (const Datum value : values) {
    argument_types[count] = types[count];
    arguments[count] = value;
    nulls[count++] = ' ';
  }
  const MemoryContext caller = CurrentMemoryContext;
  // A peer's session has whatever search path its role was given.
  const int level = NewGUCNestLevel();
  (void)set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
  if (SPI_connect() != SPI_OK_CONNECT)
    elog(ERROR, "SPI_connect failed");
  const SPIPlanPtr plan = SPI_prepare(sql, count, argument_types);
  if (plan == nullptr)
    elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
  // With a snapshot taken now, also in a REPEATABLE READ transaction: what is configured must not depend on when it began.
  const int code = SPI_execute_snapshot(plan, arguments, nulls, GetLatestSnapshot(), InvalidSnapshot, false, true, 0);
  if (code < 0)
    elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(code));
  CommandCounterIncrement();
  const MemoryContext spi = MemoryContextSwitchTo(caller);
  fn(SPI_processed);
  MemoryContextSwitchTo(spi);
  SPI_finish();
  MemoryContextSwitchTo(caller);
  AtEOXact_GUC(false, level);
}
void run(const char *sql, std::initializer_list<Datum> values, const Oid *types) {
  run(sql, values, types, [](uint64) {});
}

Datum column(uint64 row, int number, bool *is_null) {
  return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, is_null);
}
void name_column(uint64 row, int number, NameData *name) {
  bool is_null;
  const Datum value = column(row, number, &is_null);
  if (is_null)
    memset(name, 0, sizeof *name);
  else
    namestrcpy(name, NameStr(*DatumGetName(value)));
}
int64 number_column(uint64 row, int number, bool *known = nullptr) {
  bool is_null;
  const Datum value = column(row, number, &is_null);
  if (known != nullptr)
    *known = !is_null;
  return is_null ? 0 : DatumGetInt64(value);
}

constexpr Oid kNameOnly[] = {NAMEOID};

Datum name_datum(const char *text) {
  auto *name = static_cast<NameData *>(palloc(sizeof(NameData)));
  namestrcpy(name, text);
  return NameGetDatum(name);
}

/// One decision at a time about who has which slot.
void lock_slots() { run("LOCK TABLE seal_sync.sequence_slot IN SHARE ROW EXCLUSIVE MODE", {}, nullptr); }

int slot_of(const char *node) {
  int slot = 0;
  run("SELECT s.slot FROM seal_sync.sequence_slot s WHERE s.node = $1", {name_datum(node)}, kNameOnly, [&](uint64 rows) {
    bool is_null;
    if (rows > 0)
      slot = DatumGetInt32(column(0, 1, &is_null));
  });
  return slot;
}

/// direct: the node itself has said so.
void put_slot(const char *node, int slot, bool in_use, bool direct) {
  constexpr Oid types[] = {NAMEOID, INT4OID, BOOLOID, BOOLOID};
  run("INSERT INTO seal_sync.sequence_slot AS s (node, slot, in_use, direct) VALUES ($1, $2, $3, $4) "
      "ON CONFLICT (node) DO UPDATE SET slot = excluded.slot, in_use = excluded.in_use, direct = excluded.direct "
      "WHERE (excluded.direct OR NOT s.direct) AND (s.slot, s.in_use, s.direct) IS DISTINCT FROM "
      "(excluded.slot, excluded.in_use, excluded.direct)",
      {name_datum(node), Int32GetDatum(slot), BoolGetDatum(in_use), BoolGetDatum(direct)}, types);
}

/// The lowest number that no node has.
int free_slot() {
  int slot = 0;
  run("SELECT n FROM pg_catalog.generate_series(1, 1000) n "
      "WHERE NOT EXISTS (SELECT FROM seal_sync.sequence_slot s WHERE s.slot = n) ORDER BY n LIMIT 1",
      {}, nullptr, [&](uint64 rows) {
        bool is_null;
        if (rows > 0)
          slot = DatumGetInt32(column(0, 1, &is_null));
      });
  return slot;
}

bool taken_by_another(const char *node, int slot) {
  bool taken = false;
  constexpr Oid types[] = {NAMEOID, INT4OID};
  run("SELECT FROM seal_sync.sequence_slot s WHERE s.node <> $1 AND s.slot = $2", {name_datum(node), Int32GetDatum(slot)}, types,
      [&](uint64 rows) { taken = rows > 0; });
  return taken;
}

/// Whether anything of what a peer has told is not known here, or a decision is due.
bool anything_new(const char *here, const Slot *told, int count) {
  int known_count = 0;
  const Slot *known = known_slots(&known_count);
  const auto find = [&](const char *node) -> const Slot * {
    for (int k = 0; k < known_count; ++k)
      if (strcmp(NameStr(known[k].node), node) == 0)
        return &known[k];
    return nullptr;
  };
  const Slot *own = find(here);
  for (int k = 0; k < known_count; ++k)
    if (own != nullptr && &known[k] != own && known[k].slot == own->slot)
      return true;
  for (int i = 0; i < count; ++i) {
    const Slot *same = find(NameStr(told[i].node));
    if (same == nullptr || (same != own && (same->slot != told[i].slot || same->in_use != told[i].in_use)))
      return true;
  }
  return false;
}

void give_slot(const char *node, bool direct) {
  if (slot_of(node) != 0)
    return;
  if (const int slot = free_slot(); slot != 0)
    put_slot(node, slot, false, direct);
}

} // namespace

SequenceRule *sequence_rules(int *count) {
  SequenceRule *rules = nullptr;
  run("SELECT c.oid, n.nspname, c.relname, r.cluster, r.head_room, r.slots::pg_catalog.int8, r.former_increment, "
      "r.former_start, r.former_bound, r.floor FROM seal_sync.sequence_rule r "
      "JOIN pg_catalog.pg_class c ON c.oid = r.sequence AND c.relkind = 'S' "
      "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY n.nspname, c.relname",
      {}, nullptr, [&](uint64 rows) {
        rules = static_cast<SequenceRule *>(palloc0(sizeof(SequenceRule) * Max(rows, 1)));
        for (uint64 i = 0; i < rows; ++i) {
          SequenceRule &rule = rules[i];
          bool is_null;
          rule.sequence = DatumGetObjectId(column(i, 1, &is_null));
          name_column(i, 2, &rule.schema);
          name_column(i, 3, &rule.name);
          name_column(i, 4, &rule.cluster);
          rule.head_room = number_column(i, 5);
          rule.slots = static_cast<int32>(number_column(i, 6, &rule.split));
          rule.former_increment = number_column(i, 7);
          rule.former_start = number_column(i, 8);
          rule.former_bound = number_column(i, 9, &rule.has_bound);
          rule.floor = number_column(i, 10, &rule.has_floor);
        }
        *count = static_cast<int>(rows);
      });
  return rules;
}

const SequenceRule *find_sequence(const SequenceRule *rules, int count, const char *schema, const char *name) {
  for (int i = 0; i < count; ++i)
    if (strcmp(NameStr(rules[i].schema), schema) == 0 && strcmp(NameStr(rules[i].name), name) == 0)
      return &rules[i];
  return nullptr;
}

core::Counting former_counting(const SequenceRule &rule, const core::Counting &now) {
  core::Counting former = now;
  former.increment = rule.former_increment;
  former.start = rule.former_start;
  if (rule.has_bound)
    (former.ascending() ? former.min : former.max) = rule.former_bound;
  return former;
}

std::optional<core::Split> wanted_split(const SequenceRule &rule, int slot) {
  core::Counting former;
  former.increment = rule.former_increment;
  former.start = rule.former_start;
  return core::split_of(former, rule.slots, slot);
}

core::Split actual_split(const SequenceRule &rule, const pg::SequenceState &state) {
  core::Split split;
  const int64 increment = state.counting.increment;
  split.ascending = increment > 0;
  split.step = increment > 0 ? increment : increment == PG_INT64_MIN ? PG_INT64_MAX : -increment;
  split.residue = core::detail::remainder(state.last_value, split.step);
  split.block = rule.former_increment > 0 ? rule.former_increment : -rule.former_increment;
  return split;
}

Slot *known_slots(int *count) {
  Slot *slots = nullptr;
  run("SELECT s.node, s.slot, CASE WHEN s.node = (SELECT n.node FROM seal_sync.local_node n) "
      "THEN EXISTS (SELECT FROM seal_sync.sequence_rule r WHERE r.slots IS NOT NULL) ELSE s.in_use END "
      "FROM seal_sync.sequence_slot s ORDER BY s.slot, s.node",
      {}, nullptr, [&](uint64 rows) {
        slots = static_cast<Slot *>(palloc0(sizeof(Slot) * Max(rows, 1)));
        for (uint64 i = 0; i < rows; ++i) {
          bool is_null;
          name_column(i, 1, &slots[i].node);
          slots[i].slot = DatumGetInt32(column(i, 2, &is_null));
          slots[i].in_use = DatumGetBool(column(i, 3, &is_null));
        }
        *count = static_cast<int>(rows);
      });
  return slots;
}

int own_slot() {
  const char *node = local_node();
  return node != nullptr ? slot_of(node) : 0;
}

void learn_slots(const char *speaker, const Slot *slots, int count) {
  const char *here = local_node();
  if (here == nullptr || count == 0)
    return;
  if (!anything_new(here, slots, count))
    return;
  lock_slots(); // before anything is written: two that have written would wait for each other here
  int known = 0;
  (void)known_slots(&known);
  for (int i = 0; i < count; ++i) {
    const char *node = NameStr(slots[i].node);
    if (strcmp(node, here) == 0) {
      // A node that was restored from a dump is told what it had.
      if (slot_of(here) == 0 && !taken_by_another(here, slots[i].slot))
        put_slot(here, slots[i].slot, false, true);
      continue;
    }
    const bool direct = strcmp(node, speaker) == 0;
    if (direct || known + i < kMaxSlots)
      put_slot(node, slots[i].slot, slots[i].in_use, direct);
  }
  // Two nodes that asked two different ones at the same time. Who has no numbers of it yet asks again.
  run("DELETE FROM seal_sync.sequence_slot s USING seal_sync.sequence_slot o WHERE s.node = $1 AND o.node <> s.node "
      "AND o.slot = s.slot AND (o.in_use OR o.node < s.node) "
      "AND NOT EXISTS (SELECT FROM seal_sync.sequence_rule r WHERE r.slots IS NOT NULL)",
      {name_datum(here)}, kNameOnly);
}

int settle_slots(const char *speaker, bool has_one) {
  const char *here = local_node();
  if (here == nullptr)
    return 0;
  const int theirs = slot_of(speaker);
  // It has given up what it had here: another node is using it.
  const bool lost = !has_one && theirs != 0 && taken_by_another(speaker, theirs);
  if (theirs != 0 && !lost && slot_of(here) != 0)
    return theirs;
  lock_slots();
  if (lost)
    run("DELETE FROM seal_sync.sequence_slot s WHERE s.node = $1", {name_datum(speaker)}, kNameOnly);
  // Both sides may be doing this at the same moment: the order of names is the same on both.
  const bool first = strcmp(here, speaker) < 0;
  if (first)
    give_slot(here, true);
  give_slot(speaker, false);
  if (!first)
    give_slot(here, true);
  return slot_of(speaker);
}

void take_slot(int slot) {
  const char *here = local_node();
  if (here == nullptr || slot < 1 || slot > kMaxSlots || slot_of(here) != 0)
    return;
  lock_slots();
  if (slot_of(here) == 0 && !taken_by_another(here, slot))
    put_slot(here, slot, false, true);
}

void note_sequence(const char *peer, const SequenceNews &news) {
  constexpr Oid types[] = {OIDOID, NAMEOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID, INT8OID, BOOLOID, INT8OID};
  const auto text = [](const char *value) { return CStringGetTextDatum(value != nullptr ? value : ""); };
  run("INSERT INTO seal_sync.sequence_peer AS s (sequence, peer, state, message, hint, carried, carried_at, floor) "
      "SELECT r.sequence, p.peer, $3, nullif($4, ''), nullif($5, ''), CASE WHEN $6 THEN $7 END, "
      "CASE WHEN $6 THEN pg_catalog.clock_timestamp() END, CASE WHEN $8 THEN $9 END "
      "FROM seal_sync.sequence_rule r, seal_sync.peer p WHERE r.sequence = $1 AND p.peer = $2 "
      "ON CONFLICT (sequence, peer) DO UPDATE SET state = excluded.state, message = excluded.message, hint = excluded.hint, "
      "carried = coalesce(excluded.carried, s.carried), carried_at = coalesce(excluded.carried_at, s.carried_at), "
      "floor = coalesce(excluded.floor, s.floor) "
      "WHERE (s.state, s.message, s.hint) IS DISTINCT FROM (excluded.state, excluded.message, excluded.hint) "
      "OR s.carried IS DISTINCT FROM coalesce(excluded.carried, s.carried) OR s.floor IS DISTINCT FROM coalesce(excluded.floor, s.floor)",
      {ObjectIdGetDatum(news.sequence), name_datum(peer), text(news.state), text(news.message), text(news.hint),
       BoolGetDatum(news.has_carried), Int64GetDatum(news.carried), BoolGetDatum(news.has_floor), Int64GetDatum(news.floor)},
      types);
}

bool noted_floor(Oid sequence, const char *peer, int64 *floor) {
  bool known = false;
  constexpr Oid types[] = {OIDOID, NAMEOID};
  run("SELECT s.floor FROM seal_sync.sequence_peer s WHERE s.sequence = $1 AND s.peer = $2 AND s.floor IS NOT NULL",
      {ObjectIdGetDatum(sequence), name_datum(peer)}, types, [&](uint64 rows) {
        known = rows > 0;
        if (known)
          *floor = number_column(0, 1);
      });
  return known;
}

} // namespace seal_sync::config

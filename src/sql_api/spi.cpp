// See spi.hpp.
#include "sql_api/spi.hpp"

#include "config/config.hpp"
#include "worker/wakeup.hpp"

#include <unordered_map>

namespace seal_sync::sql_api {

AsOwner::AsOwner() {
  pg::call([this] {
    const Oid owner = config::extension_owner();
    if (!OidIsValid(owner))
      ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("extension \"seal_sync\" does not exist"));
    GetUserIdAndSecContext(&user_, &security_);
    guc_level_ = NewGUCNestLevel();
    set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
                      GUC_ACTION_SAVE, true, 0, false);
    SetUserIdAndSecContext(owner, security_ | SECURITY_LOCAL_USERID_CHANGE);
  });
}

AsOwner::~AsOwner() {
  pg::call_or_exit([this] {
    AtEOXact_GUC(false, guc_level_);
    SetUserIdAndSecContext(user_, security_);
  });
}

Spi::Spi() : exceptions_(std::uncaught_exceptions()) {
  const MemoryContext outside = CurrentMemoryContext;
  pg::call([] {
    if (SPI_connect() != SPI_OK_CONNECT)
      elog(ERROR, "SPI_connect failed");
  });
  // Errors are copied into the current context and must outlive this level.
  MemoryContextSwitchTo(outside);
}

Spi::~Spi() {
  if (std::uncaught_exceptions() > exceptions_)
    return; // the abort that follows cleans up, and it may need what we would free
  const MemoryContext outside = CurrentMemoryContext;
  pg::call_or_exit([] { SPI_finish(); });
  MemoryContextSwitchTo(outside);
}

// ---- parameters --------------------------------------------------------------------------------

Arg arg(std::string_view text) {
  const Datum value = pg::call(
      [&] { return PointerGetDatum(cstring_to_text_with_len(text.data(), static_cast<int>(text.size()))); });
  return {TEXTOID, value, false};
}

Arg arg(const std::optional<std::string> &text) {
  return text ? arg(std::string_view(*text)) : Arg{TEXTOID, 0, true};
}

Arg arg(Oid oid) { return {OIDOID, ObjectIdGetDatum(oid), false}; }
Arg arg(bool value) { return {BOOLOID, BoolGetDatum(value), false}; }
Arg int_arg(int64 value) { return {INT8OID, Int64GetDatum(value), false}; }
Arg datum_arg(Oid type, Datum value, bool null) { return {type, value, null}; }

Arg arg(const std::vector<std::string> &texts) {
  Datum *elements = pg::call([&] { return static_cast<Datum *>(palloc(sizeof(Datum) * (texts.size() + 1))); });
  size_t used = 0;
  for (const std::string &text : texts)
    elements[used++] = arg(std::string_view(text)).value;
  const Datum array = pg::call([&] {
    return PointerGetDatum(
        construct_array(elements, static_cast<int>(used), TEXTOID, -1, false, TYPALIGN_INT));
  });
  return {TEXTARRAYOID, array, false};
}

Arg arg(const std::vector<Oid> &oids) {
  const Datum array = pg::call([&] {
    Datum *elements = static_cast<Datum *>(palloc(sizeof(Datum) * (oids.size() + 1)));
    for (size_t i = 0; i < oids.size(); i++)
      elements[i] = ObjectIdGetDatum(oids[i]);
    return PointerGetDatum(construct_array(elements, static_cast<int>(oids.size()), OIDOID, sizeof(Oid),
                                           true, TYPALIGN_INT));
  });
  return {OIDARRAYOID, array, false};
}

// ---- queries -----------------------------------------------------------------------------------

Oid Rows::oid(size_t row, size_t column) const {
  return static_cast<Oid>(std::stoul(rows[row][column].value_or("0")));
}

namespace {
/// Plans of statements with parameters: their texts are constants of ours, few, and each with one list of
/// types. To plan them anew was most of what adding a table of 500 cost.
SPIPlanPtr kept_plan(const std::string &statement, int count, Oid *types) {
  static std::unordered_map<std::string, SPIPlanPtr> plans;
  SPIPlanPtr &plan = plans[statement];
  if (plan == nullptr) {
    const char *text = statement.c_str();
    plan = pg::call([=] {
      // Generic from the first time: nothing here is so skewed that a plan should know the values.
      SPIPlanPtr prepared = SPI_prepare_cursor(text, count, types, CURSOR_OPT_GENERIC_PLAN);
      if (prepared == nullptr)
        elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
      if (SPI_keepplan(prepared) != 0)
        elog(ERROR, "SPI_keepplan failed");
      return prepared;
    });
  }
  return plan;
}
} // namespace

Rows query(const std::string &statement, std::initializer_list<Arg> args) {
  constexpr size_t kMaxArgs = 16;
  Oid types[kMaxArgs];
  Datum values[kMaxArgs];
  char nulls[kMaxArgs];
  size_t count = 0;
  for (const Arg &a : args) {
    types[count] = a.type;
    values[count] = a.value;
    nulls[count++] = a.null ? 'n' : ' ';
  }
  const MemoryContext outside = CurrentMemoryContext;
  const char *text = statement.c_str();
  const SPIPlanPtr kept = count > 0 ? kept_plan(statement, static_cast<int>(count), types) : nullptr;
  pg::call([&] {
    SPIPlanPtr plan = kept != nullptr ? kept : SPI_prepare(text, 0, nullptr);
    if (plan == nullptr)
      elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    // A utility command has no use for a snapshot of its own making; the rest gets the newest one.
    const int code = SPI_execute_snapshot(plan, values, nulls, GetLatestSnapshot(), InvalidSnapshot,
                                          false, true, 0);
    if (code < 0)
      elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(code));
    if (plan != kept)
      SPI_freeplan(plan);
    CommandCounterIncrement(); // the next statement, and what C code reads, sees this one
  });
  MemoryContextSwitchTo(outside);

  Rows result;
  result.processed = SPI_processed;
  SPITupleTable *const table = SPI_tuptable;
  if (table == nullptr)
    return result;
  const int columns = table->tupdesc->natts;
  result.rows.reserve(table->numvals);
  for (uint64 r = 0; r < table->numvals; r++) {
    std::vector<Rows::Value> &row = result.rows.emplace_back();
    for (int c = 1; c <= columns; c++) {
      char *value = pg::call([&] { return SPI_getvalue(table->vals[r], table->tupdesc, c); });
      if (value == nullptr) {
        row.emplace_back();
        continue;
      }
      row.emplace_back(value);
      pfree(value);
    }
  }
  SPI_freetuptable(table);
  return result;
}

void notice(const std::string &message, const std::string &detail, const std::string &hint) {
  const char *m = message.c_str(), *d = detail.c_str(), *h = hint.c_str();
  pg::call([&] {
    ereport(NOTICE, errmsg("%s", m), *d != '\0' ? errdetail("%s", d) : 0,
            *h != '\0' ? errhint("%s", h) : 0);
  });
}

// ---- names -------------------------------------------------------------------------------------

namespace {
/// Copies what fn returns (palloc'd, or null) out of PostgreSQL's memory.
template <typename Fn> std::string copied(Fn &&fn) {
  char *value = pg::call(std::forward<Fn>(fn));
  if (value == nullptr)
    return {};
  std::string result(value);
  pfree(value);
  return result;
}
} // namespace

std::string display_name(Oid relation) {
  const std::string schema = copied([&] { return get_namespace_name_or_temp(get_rel_namespace(relation)); });
  const std::string name = copied([&] { return get_rel_name(relation); });
  if (name.empty())
    return std::to_string(relation);
  return schema + "." + name;
}

std::string sql_name(Oid relation) {
  const std::string schema = copied([&] { return get_namespace_name(get_rel_namespace(relation)); });
  const std::string name = copied([&] { return get_rel_name(relation); });
  return quote(schema) + "." + quote(name);
}

std::string quote(const std::string &identifier) {
  const char *text = identifier.c_str();
  return copied([&] { return pstrdup(quote_identifier(text)); });
}

std::string literal(const std::string &value) {
  const char *text = value.c_str();
  return copied([&] { return quote_literal_cstr(text); });
}

// ---- arguments ---------------------------------------------------------------------------------

namespace {
[[noreturn]] void null_argument(const char *argument) {
  throw core::Error("22004", std::string("argument \"") + argument + "\" must not be null");
}
} // namespace

std::optional<std::string> optional_text(FunctionCallInfo fcinfo, int number) {
  if (PG_ARGISNULL(number))
    return std::nullopt;
  return copied([&] { return text_to_cstring(PG_GETARG_TEXT_PP(number)); });
}

std::optional<std::string> optional_name(FunctionCallInfo fcinfo, int number) {
  if (PG_ARGISNULL(number))
    return std::nullopt;
  return std::string(NameStr(*PG_GETARG_NAME(number)));
}

std::string required_text(FunctionCallInfo fcinfo, int number, const char *argument) {
  std::optional<std::string> value = optional_text(fcinfo, number);
  if (!value)
    null_argument(argument);
  return *value;
}

std::string required_name(FunctionCallInfo fcinfo, int number, const char *argument) {
  std::optional<std::string> value = optional_name(fcinfo, number);
  if (!value)
    null_argument(argument);
  return *value;
}

std::optional<std::vector<std::string>> optional_list(FunctionCallInfo fcinfo, int number,
                                                      const char *argument) {
  if (PG_ARGISNULL(number))
    return std::nullopt;
  Datum *elements = nullptr;
  bool *nulls = nullptr;
  int count = 0;
  Oid type = InvalidOid;
  pg::call([&] {
    ArrayType *array = PG_GETARG_ARRAYTYPE_P(number);
    type = ARR_ELEMTYPE(array);
    int16 width;
    bool by_value;
    char align;
    get_typlenbyvalalign(type, &width, &by_value, &align);
    deconstruct_array(array, type, width, by_value, align, &elements, &nulls, &count);
  });
  std::vector<std::string> result;
  for (int i = 0; i < count; i++) {
    if (nulls[i])
      throw core::Error("22004", std::string("argument \"") + argument + "\" must not hold nulls");
    if (type == NAMEOID)
      result.emplace_back(NameStr(*DatumGetName(elements[i])));
    else
      result.push_back(copied([&] { return TextDatumGetCString(elements[i]); }));
  }
  return result;
}

bool flag(FunctionCallInfo fcinfo, int number, bool otherwise) {
  return PG_ARGISNULL(number) ? otherwise : PG_GETARG_BOOL(number);
}

void check_new_name(const char *what, const std::string &name) {
  // Names stand in application_name and in file and log texts, with something in front.
  constexpr size_t kMaxNameBytes = 48;
  if (name.empty())
    throw core::Error("42602", std::string("name of ") + what + " must not be empty");
  if (name.size() > kMaxNameBytes)
    throw core::Error("42622", std::string("name of ") + what + " \"" + name + "\" is too long",
                      "At most " + std::to_string(kMaxNameBytes) + " bytes are allowed.");
}

std::string require_node() {
  const char *node = pg::call([] {
    config::refresh();
    return config::local_node();
  });
  if (node == nullptr)
    throw core::Error("55000", "this database is not a node yet", {},
                      "SELECT seal_sync.node_create('…') gives it a name.");
  return node;
}

namespace {
/// Too few rows for autovacuum ever to come, and unanalyzed they are taken for ten pages: the views
/// would be planned for millions of rows and compiled for seconds. Never waits for anybody.
void analyze_rules() {
  const int level = pg::call([] {
    const int new_level = NewGUCNestLevel();
    for (const char *setting : {"client_min_messages", "log_min_messages"}) // who is skipped is no news
      set_config_option(setting, "error", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
    return new_level;
  });
  query("ANALYZE (SKIP_LOCKED) seal_sync.local_node, seal_sync.peer, seal_sync.peer_state, seal_sync.cluster, "
        "seal_sync.cluster_state, seal_sync.table_rule, seal_sync.table_state, seal_sync.schema_rule");
  pg::call([level] { AtEOXact_GUC(false, level); });
}
} // namespace

void require_peer(const std::string &peer) {
  if (query("SELECT FROM seal_sync.peer WHERE peer = $1", {arg(peer)}).empty())
    throw core::Error("42704", "peer \"" + peer + "\" does not exist");
}

void rules_changed() {
  analyze_rules();
  pg::call([] {
    config::changed();
    worker::wake_at_commit();
  });
}

} // namespace seal_sync::sql_api

// See relation_map.hpp.
#include "apply/relation_map.hpp"

#include "apply/foreign_key_queries.hpp"
#include "apply/reception.hpp"
#include "apply/reply.hpp"
#include "apply/settings.hpp"
#include "apply/value_codec.hpp"
#include "config/config.hpp"
#include "core/type_fit.hpp"
#include "pg/boundary.hpp"

namespace seal_sync::apply {

using core::wire::ColumnClass;
using core::wire::Problem;

namespace {

constexpr int kMaxDescribed = 100000; // per connection

struct TableEntry {
  uint64 number; // hash key
  Descriptor *descriptor;
};

struct StagedEntry {
  uint64 key[2]; // hash key
  Descriptor *descriptor;
};

/// Relcache callback: flags only, it may come in the middle of anything.
HTAB *watched = nullptr; // of the session in use
HTAB *watched_staged = nullptr; // of the transaction

template <typename Entry> void invalidate(HTAB *tables, Oid relation) {
  if (tables == nullptr)
    return;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, tables);
  while (auto *entry = static_cast<Entry *>(hash_seq_search(&status)))
    if (entry->descriptor != nullptr &&
        (relation == InvalidOid || entry->descriptor->relation == relation))
      entry->descriptor->valid = false;
}

void on_relcache_invalidation(Datum, Oid relation) {
  invalidate<TableEntry>(watched, relation);
  invalidate<StagedEntry>(watched_staged, relation);
}

void register_callback() {
  static bool registered = false;
  if (!registered)
    CacheRegisterRelcacheCallback(on_relcache_invalidation, Datum{0});
  registered = true;
}

void watch(Session *session) {
  register_callback();
  watched = session->tables;
}

// ---- reading a description ----------------------------------------------------------------------

bool valid_class(ColumnClass cls) {
  switch (cls) {
  case ColumnClass::kFixed:
  case ColumnClass::kBytes:
  case ColumnClass::kText:
  case ColumnClass::kBinary:
  case ColumnClass::kOutput:
    return true;
  }
  return false;
}

void read_columns(core::Reader *in, int encoding, uint64 count, Descriptor *descriptor) {
  if (count == 0 || count > MaxHeapAttributeNumber)
    damaged_message("table description");
  descriptor->column_count = static_cast<int>(count);
  descriptor->columns = static_cast<SentColumn *>(palloc0(sizeof(SentColumn) * count));
  descriptor->key_columns = static_cast<int *>(palloc0(sizeof(int) * INDEX_MAX_KEYS));
  for (int i = 0; i < descriptor->column_count; ++i) {
    core::wire::Column wire;
    core::wire::read(*in, wire);
    if (!in->ok() || !valid_class(wire.cls) || wire.key_position > INDEX_MAX_KEYS)
      damaged_message("table description");
    SentColumn *column = &descriptor->columns[i];
    name_from_wire(wire.name, encoding, &column->name);
    name_from_wire(wire.type_schema, encoding, &column->type_schema);
    name_from_wire(wire.type_name, encoding, &column->type_name);
    column->typmod = wire.typmod;
    column->offered = column->cls = wire.cls;
    column->width = wire.width;
    column->key_position = wire.key_position;
    for (int j = 0; j < i; ++j)
      if (strcmp(NameStr(descriptor->columns[j].name), NameStr(column->name)) == 0 ||
          (column->key_position != 0 && descriptor->columns[j].key_position == column->key_position))
        damaged_message("table description");
    if (column->key_position != 0) {
      descriptor->key_columns[column->key_position - 1] = i;
      descriptor->key_count += 1;
    }
  }
  for (int i = 0; i < descriptor->column_count; ++i) // positions without a gap
    if (descriptor->columns[i].key_position > descriptor->key_count)
      damaged_message("table description");
  if (descriptor->key_count == 0)
    damaged_message("table description");
}

Descriptor *read_descriptor(core::Reader *in, int encoding) {
  auto *descriptor = static_cast<Descriptor *>(palloc0(sizeof(Descriptor)));
  core::wire::TableHead head;
  descriptor->encoding = encoding;
  auto *copy = static_cast<uint8 *>(palloc(in->remaining() + 1));
  memcpy(copy, in->position(), in->remaining());
  descriptor->description = {copy, in->remaining()};
  core::wire::read(*in, head);
  if (!in->ok())
    damaged_message("table description");
  name_from_wire(head.schema, encoding, &descriptor->schema);
  name_from_wire(head.name, encoding, &descriptor->table);
  read_columns(in, encoding, head.columns, descriptor);
  name_from_wire(in->text(), encoding, &descriptor->cluster_column);
  name_from_wire(in->text(), encoding, &descriptor->cluster);
  if (!in->ok() || !in->at_end())
    damaged_message("table description");
  return descriptor;
}

// ---- matching it with what is here --------------------------------------------------------------

Problem problem(const char *sqlstate, const char *message, const char *detail = "", const char *hint = "") {
  return {view_of(sqlstate), view_of(message), view_of(detail), view_of(hint)};
}

char *shown_table(const Descriptor *descriptor) {
  return psprintf("%s.%s", NameStr(descriptor->schema), NameStr(descriptor->table));
}

/// 'table "s.t" is parked for peer "here": <what>'
Problem parked(const Descriptor *descriptor, const char *sqlstate, const char *what, const char *hint = "") {
  return problem(sqlstate,
                 psprintf("table \"%s\" is parked for peer \"%s\": %s", shown_table(descriptor),
                          config::local_node(), what),
                 "", hint);
}

char *quoted_table(const Descriptor *descriptor) {
  return psprintf("%s.%s", quote_identifier(NameStr(descriptor->schema)),
                  quote_identifier(NameStr(descriptor->table)));
}

Oid sent_type(const SentColumn *column) {
  const Oid schema = get_namespace_oid(NameStr(column->type_schema), true);
  if (!OidIsValid(schema))
    return InvalidOid;
  return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, PointerGetDatum(NameStr(column->type_name)),
                         ObjectIdGetDatum(schema));
}

char *shown_type(const SentColumn *column) {
  const Oid type = sent_type(column);
  if (OidIsValid(type))
    return format_type_with_typemod(type, column->typmod);
  return psprintf("%s.%s", quote_identifier(NameStr(column->type_schema)),
                  quote_identifier(NameStr(column->type_name)));
}

Problem missing_column(const Descriptor *descriptor, const SentColumn *column) {
  return parked(descriptor, "42703",
                psprintf("column \"%s\" does not exist there", NameStr(column->name)),
                psprintf("On node \"%s\": ALTER TABLE %s ADD COLUMN %s %s. The table resumes by itself.",
                         config::local_node(), quoted_table(descriptor),
                         quote_identifier(NameStr(column->name)), shown_type(column)));
}

Form_pg_attribute find_attribute(TupleDesc desc, const char *name) {
  for (int i = 0; i < desc->natts; ++i) {
    const Form_pg_attribute attribute = TupleDescAttr(desc, i);
    if (!attribute->attisdropped && strcmp(NameStr(attribute->attname), name) == 0)
      return attribute;
  }
  return nullptr;
}

/// Text of the sent type can be expected to make sense to the input function here.
bool plausible_as_text(const SentColumn *column, Oid local) {
  const Oid sent = sent_type(column);
  if (!OidIsValid(sent) || sent == local)
    return true; // an unknown type of theirs: its text may well fit, rows that do not are refused
  char sent_category, local_category;
  bool preferred;
  get_type_category_preferred(getBaseType(sent), &sent_category, &preferred);
  get_type_category_preferred(getBaseType(local), &local_category, &preferred);
  return local_category == sent_category || local_category == TYPCATEGORY_STRING ||
         sent_category == TYPCATEGORY_STRING || sent_category == TYPCATEGORY_USER ||
         local_category == TYPCATEGORY_USER || sent_category == TYPCATEGORY_ENUM ||
         local_category == TYPCATEGORY_ENUM;
}

/// What a type is made of, by name.
core::TypeName named(Oid type, int32 typmod) {
  const Oid base = getBaseTypeAndTypmod(type, &typmod);
  const HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(base));
  if (!HeapTupleIsValid(tuple))
    elog(ERROR, "cache lookup failed for type %u", base);
  const auto *form = reinterpret_cast<Form_pg_type>(GETSTRUCT(tuple));
  const core::TypeName name{view_of(get_namespace_name(form->typnamespace)), view_of(pstrdup(NameStr(form->typname))), typmod};
  ReleaseSysCache(tuple);
  return name;
}

/// A narrower column would round, cut or refuse values: then none of the table's rows are taken.
bool takes_every_value(const SentColumn *column, const Form_pg_attribute attribute) {
  const Oid sent = sent_type(column);
  const core::TypeName theirs =
      OidIsValid(sent) ? named(sent, column->typmod)
                       : core::TypeName{view_of(NameStr(column->type_schema)), view_of(NameStr(column->type_name)), column->typmod};
  switch (core::type_fit(theirs, named(attribute->atttypid, attribute->atttypmod))) {
  case core::TypeFit::kSame:
  case core::TypeFit::kWider:
    return true;
  case core::TypeFit::kNarrower:
    return false;
  case core::TypeFit::kUnknown:
    break;
  }
  return plausible_as_text(column, attribute->atttypid);
}

bool match_columns(Descriptor *descriptor, TupleDesc desc, Problem *why) {
  for (int i = 0; i < descriptor->column_count; ++i) {
    SentColumn *column = &descriptor->columns[i];
    const Form_pg_attribute attribute = find_attribute(desc, NameStr(column->name));
    if (attribute == nullptr) {
      *why = missing_column(descriptor, column);
      return false;
    }
    column->attno = attribute->attgenerated != '\0' ? 0 : attribute->attnum; // computed here, never taken
    const bool same_type = strcmp(NameStr(column->type_schema), "pg_catalog") == 0 &&
                           sent_type(column) == attribute->atttypid;
    column->cls = same_type && can_decode(column->offered, column->width, attribute->atttypid)
                      ? column->offered
                      : ColumnClass::kOutput;
    if (column->attno != 0 && !takes_every_value(column, attribute)) {
      char *const local = format_type_with_typemod(attribute->atttypid, attribute->atttypmod);
      *why = parked(descriptor, "42804",
                    psprintf("column \"%s\" is of type %s there, not %s", NameStr(column->name), local,
                             shown_type(column)),
                    psprintf("On node \"%s\": ALTER TABLE %s ALTER COLUMN %s TYPE %s. The table resumes"
                             " by itself.",
                             config::local_node(), quoted_table(descriptor),
                             quote_identifier(NameStr(column->name)), shown_type(column)));
      return false;
    }
  }
  return true;
}

/// Columns the peer does not send must be able to fill themselves.
bool match_unsent(const Descriptor *descriptor, TupleDesc desc, Problem *why) {
  for (int i = 0; i < desc->natts; ++i) {
    const Form_pg_attribute attribute = TupleDescAttr(desc, i);
    if (attribute->attisdropped || !attribute->attnotnull || attribute->atthasdef ||
        attribute->attidentity != '\0')
      continue;
    bool sent = false;
    for (int j = 0; j < descriptor->column_count && !sent; ++j)
      sent = descriptor->columns[j].attno == attribute->attnum;
    if (!sent) {
      *why = parked(descriptor, "23502",
                    psprintf("column \"%s\" exists only there, is not null and has no default",
                             NameStr(attribute->attname)),
                    psprintf("On node \"%s\": ALTER TABLE %s ALTER COLUMN %s SET DEFAULT …, or add the"
                             " column on the other node. The table resumes by itself.",
                             config::local_node(), quoted_table(descriptor),
                             quote_identifier(NameStr(attribute->attname))));
      return false;
    }
  }
  return true;
}

/// The same columns make up the key; their order in the index may differ.
bool match_key(const Descriptor *descriptor, const config::Table *table, Problem *why) {
  bool same = table->usable && table->key_count == descriptor->key_count;
  for (int k = 0; same && k < table->key_count; ++k) {
    bool found = false;
    for (int j = 0; j < descriptor->key_count && !found; ++j)
      found = descriptor->columns[descriptor->key_columns[j]].attno == table->keys[k].attno;
    same = found;
  }
  if (!same)
    *why = parked(descriptor, "55000", "its primary key has other columns there",
                  psprintf("On node \"%s\": SELECT seal_sync.table_remove(%s), make the key as it is on the other node, and add the"
                           " table again.",
                           config::local_node(), quote_literal_cstr(quoted_table(descriptor))));
  return same;
}

/// Those that apply could not verify.
bool match_foreign_keys(const Descriptor *descriptor, Relation relation, Problem *why) {
  if (!has_period_foreign_key(relation))
    return true;
  *why = parked(descriptor, "0A000", "it has a foreign key over periods there, which cannot be verified");
  return false;
}

bool match_cluster(const Descriptor *descriptor, const config::Table *table, TupleDesc desc, Problem *why) {
  const char *column = "", *constant = "";
  if (table->constant_cluster != nullptr)
    constant = NameStr(table->constant_cluster->name);
  else if (table->cluster_attno > 0)
    column = NameStr(TupleDescAttr(desc, table->cluster_attno - 1)->attname);
  if (strcmp(column, NameStr(descriptor->cluster_column)) == 0 &&
      strcmp(constant, NameStr(descriptor->cluster)) == 0)
    return true;
  *why = parked(descriptor, "55000",
                column[0] != '\0' ? psprintf("its rows belong to clusters by column \"%s\" there", column)
                                  : psprintf("its rows belong to cluster \"%s\" there", constant),
                psprintf("On the node that is wrong: SELECT seal_sync.table_remove(%s), and add the table the other way.",
                         quote_literal_cstr(quoted_table(descriptor))));
  return false;
}

/// Fills what depends on this node; false with the reason when the table does not fit.
bool match(Descriptor *descriptor, Relation relation, Problem *why) {
  const TupleDesc desc = RelationGetDescr(relation);
  config::Table *const table = config::find_table(RelationGetRelid(relation));
  if (table == nullptr) {
    *why = problem("42P01", psprintf("table \"%s\" is not registered on node \"%s\"",
                                     shown_table(descriptor), config::local_node()),
                   "", "Register it there with seal_sync.table_add. It goes on by itself afterwards.");
    return false;
  }
  const char kind = relation->rd_rel->relkind;
  if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE) {
    *why = parked(descriptor, "42809", "it is not a table there");
    return false;
  }
  if (!match_columns(descriptor, desc, why) || !match_unsent(descriptor, desc, why) ||
      !match_foreign_keys(descriptor, relation, why) || !match_key(descriptor, table, why) || !match_cluster(descriptor, table, desc, why))
    return false;
  descriptor->relation = RelationGetRelid(relation);
  descriptor->rules = config::version();
  descriptor->valid = true;
  return true;
}

Relation open_by_name(const Descriptor *descriptor, LOCKMODE mode) {
  const Oid schema = get_namespace_oid(NameStr(descriptor->schema), true);
  for (;;) {
    if (!OidIsValid(schema))
      return nullptr;
    const Oid oid = get_relname_relid(NameStr(descriptor->table), schema);
    if (!OidIsValid(oid))
      return nullptr;
    const char kind = get_rel_relkind(oid);
    if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_VIEW &&
        kind != RELKIND_MATVIEW && kind != RELKIND_FOREIGN_TABLE)
      return nullptr;
    LockRelationOid(oid, mode);
    // It may have been renamed or dropped while we waited.
    if (get_relname_relid(NameStr(descriptor->table), schema) == oid)
      return table_open(oid, NoLock);
    UnlockRelationOid(oid, mode);
  }
}

} // namespace

void stop_watching() { watched = nullptr; }

void watch_staged(HTAB *tables) {
  if (tables != nullptr)
    register_callback();
  watched_staged = tables;
}

core::ByteSpan was_told(const Descriptor *descriptor) {
  auto *told = static_cast<uint8 *>(palloc(static_cast<Size>(descriptor->column_count)));
  for (int i = 0; i < descriptor->column_count; ++i)
    told[i] = descriptor->columns[i].cls != descriptor->columns[i].offered ? 1 : 0;
  return {told, static_cast<Size>(descriptor->column_count)};
}

Descriptor *staged_descriptor(core::ByteSpan description, core::ByteSpan told, int encoding, uint64 number) {
  core::Reader in(description);
  Descriptor *const descriptor = read_descriptor(&in, encoding);
  if (told.size() != static_cast<Size>(descriptor->column_count))
    damaged_message("table description");
  descriptor->number = number;
  for (int i = 0; i < descriptor->column_count; ++i)
    if (told[static_cast<Size>(i)] != 0)
      descriptor->columns[i].cls = ColumnClass::kOutput;
  return descriptor;
}

HTAB *described_names(Session *session, MemoryContext context) {
  HASHCTL control = {};
  control.keysize = sizeof(DescribedName::names);
  control.entrysize = sizeof(DescribedName);
  control.hcxt = context;
  HTAB *const names =
      hash_create("seal_sync described names", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->tables);
  while (auto *entry = static_cast<TableEntry *>(hash_seq_search(&status)))
    if (entry->descriptor != nullptr) {
      const NameData key[2] = {entry->descriptor->schema, entry->descriptor->table};
      bool found;
      auto *name = static_cast<DescribedName *>(hash_search(names, key, HASH_ENTER, &found));
      if (!found || name->descriptor->order < entry->descriptor->order) // a table of that name may have been another one
        name->descriptor = entry->descriptor;
    }
  return names;
}

bool same_form(const Descriptor *a, const Descriptor *b) {
  bool same = a->encoding == b->encoding && a->description.size() == b->description.size() &&
              memcmp(a->description.data(), b->description.data(), a->description.size()) == 0;
  for (int i = 0; same && i < a->column_count; ++i)
    same = a->columns[i].cls == b->columns[i].cls;
  return same;
}

bool same_keys(const Descriptor *a, const Descriptor *b) {
  if (a->key_count != b->key_count || a->encoding != b->encoding)
    return false;
  for (int i = 0; i < a->key_count; ++i) {
    const SentColumn &x = a->columns[a->key_columns[i]], &y = b->columns[b->key_columns[i]];
    if (strcmp(NameStr(x.name), NameStr(y.name)) != 0 || x.cls != y.cls || x.width != y.width ||
        strcmp(NameStr(x.type_name), NameStr(y.type_name)) != 0 ||
        strcmp(NameStr(x.type_schema), NameStr(y.type_schema)) != 0)
      return false;
  }
  return true;
}

Descriptor *find_descriptor(Session *session, uint64 number) {
  auto *entry = static_cast<TableEntry *>(hash_search(session->tables, &number, HASH_FIND, nullptr));
  if (entry == nullptr || entry->descriptor == nullptr)
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
            errmsg("a peer sends rows of table number " UINT64_FORMAT " without having described it",
                   number));
  watch(session);
  return entry->descriptor;
}

const Descriptor *described_as(const Session *session, Oid relation) {
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->tables);
  while (const auto *entry = static_cast<const TableEntry *>(hash_seq_search(&status)))
    if (entry->descriptor != nullptr && entry->descriptor->relation == relation) {
      hash_seq_term(&status);
      return entry->descriptor;
    }
  return nullptr;
}

void schema_changed(const Descriptor *descriptor, const char *detail) {
  const char *const s = core::wire::kSchemaChanged;
  ereport(ERROR, errcode(sqlstate_of(s)),
          errmsg("table \"%s\" no longer fits what the peer was told", shown_table(descriptor)),
          errdetail("%s", detail));
  pg_unreachable();
}

Relation open_described(Session *session, const Descriptor *descriptor, LOCKMODE mode) {
  Relation relation = open_by_name(descriptor, mode);
  if (relation == nullptr)
    schema_changed(descriptor, "The table does not exist any more.");
  return relation;
}

void recheck_descriptor(Session *session, Descriptor *descriptor, Oid relation) {
  if (descriptor->valid && descriptor->relation == relation && descriptor->rules == config::version())
    return;
  auto *before = static_cast<ColumnClass *>(palloc(sizeof(ColumnClass) * descriptor->column_count));
  for (int i = 0; i < descriptor->column_count; ++i)
    before[i] = descriptor->columns[i].cls;
  Relation opened = table_open(relation, NoLock);
  Problem why;
  const bool fits = match(descriptor, opened, &why);
  table_close(opened, NoLock);
  bool same = fits;
  // Text can be read by every type. Rows of a stage do not come again in a better way just because they could.
  const bool staged = descriptor->number >= kStagedNumber;
  for (int i = 0; i < descriptor->column_count; ++i) {
    const bool text = before[i] == ColumnClass::kOutput ||
                      (before[i] == ColumnClass::kText && descriptor->columns[i].cls == ColumnClass::kOutput);
    same = same && (before[i] == descriptor->columns[i].cls || (staged && text));
    descriptor->columns[i].cls = before[i]; // what the peer was told stays until it asks again
  }
  if (!same) {
    descriptor->valid = false;
    schema_changed(descriptor, fits ? "Its column types have changed."
                                    : pnstrdup(why.message.data(), why.message.size()));
  }
}

} // namespace seal_sync::apply

/// wire_describe(bytea) -> bytea: does a table fit here, and how are its columns to be sent.
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_describe) {
  using namespace seal_sync;
  using namespace seal_sync::apply;
  Session *const session = current_session();
  bound_lock_waits();
  const int level = pin_settings(session->encoding);
  config::refresh();

  core::Reader in(bytes_of(PG_GETARG_BYTEA_PP(0)));
  // Below the call's memory until all has gone well.
  const MemoryContext context =
      AllocSetContextCreate(CurrentMemoryContext, "seal_sync described table", ALLOCSET_SMALL_SIZES);
  const MemoryContext caller = MemoryContextSwitchTo(context);
  const uint64 number = in.varint();
  if (!in.ok() || number >= kStagedNumber)
    damaged_message("table description");
  Descriptor *const descriptor = read_descriptor(&in, session->encoding);
  descriptor->number = number;
  descriptor->order = ++session->descriptions;
  descriptor->context = context;
  MemoryContextSwitchTo(caller);

  if (hash_get_num_entries(session->tables) >= kMaxDescribed &&
      hash_search(session->tables, &descriptor->number, HASH_FIND, nullptr) == nullptr) // known: replaced
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("a peer describes too many tables"),
            errdetail("At most %d are described on one connection.", kMaxDescribed));

  core::wire::Problem why;
  bool fits = false;
  Relation relation = open_by_name(descriptor, AccessShareLock);
  if (relation == nullptr) {
    why = problem("42P01", psprintf("table \"%s\" does not exist on node \"%s\"",
                                    shown_table(descriptor), config::local_node()));
  } else {
    config::refresh();
    fits = match(descriptor, relation, &why);
    table_close(relation, AccessShareLock);
  }

  bool found;
  auto *entry = static_cast<TableEntry *>(
      hash_search(session->tables, &descriptor->number, HASH_ENTER, &found));
  Descriptor *const before = found ? entry->descriptor : nullptr;
  if (found && !(fits && before != nullptr && same_form(before, descriptor))) {
    session->dialect = 0; // stages must tell the number's rows from those of before
    session->buffer.redescribed = session->buffer.chunks > 0;
  }
  entry->descriptor = fits ? descriptor : nullptr;
  watch(session);
  if (fits)
    MemoryContextSetParent(context, session->context);
  if (before != nullptr)
    MemoryContextDelete(before->context);

  core::Buffer reply = begin_reply();
  write(reply, why);
  if (fits)
    for (int i = 0; i < descriptor->column_count; ++i)
      reply.u8(descriptor->columns[i].cls != descriptor->columns[i].offered ? 1 : 0);
  if (fits)
    write_reception(&reply, session->origin, descriptor);
  restore_settings(level);
  PG_RETURN_DATUM(finish_reply(reply));
}

// See descriptor.hpp.
#include "scan/descriptor.hpp"

#include "scan/keys.hpp"

namespace seal_sync::scan {

using core::wire::ColumnClass;

namespace {

constexpr int kAskAgainMs = 5000;

/// Types whose binary form holds object identifiers of this server, or that are not built in: text.
bool travels_as_text(Oid type) {
  if (type >= FirstGenbkiObjectId)
    return true;
  switch (type) {
  case REGPROCOID:
  case REGPROCEDUREOID:
  case REGOPEROID:
  case REGOPERATOROID:
  case REGCLASSOID:
  case REGCOLLATIONOID:
  case REGTYPEOID:
  case REGROLEOID:
  case REGNAMESPACEOID:
  case REGCONFIGOID:
  case REGDICTIONARYOID:
  case ACLITEMOID:
  case XMLOID: // its send function adds an encoding declaration
    return true;
  default:
    break;
  }
  const Oid element = get_element_type(type);
  return OidIsValid(element) && travels_as_text(element);
}

void classify(SentColumn *column) {
  column->width = 0;
  switch (column->type) {
  case BOOLOID:
  case CHAROID:
    column->width = 1;
    break;
  case INT2OID:
    column->width = 2;
    break;
  case INT4OID:
  case FLOAT4OID:
  case DATEOID:
  case OIDOID:
    column->width = 4;
    break;
  case INT8OID:
  case FLOAT8OID:
  case TIMEOID:
  case TIMESTAMPOID:
  case TIMESTAMPTZOID:
  case MONEYOID:
    column->width = 8;
    break;
  case UUIDOID:
    column->width = 16;
    break;
  default:
    break;
  }
  Oid send = InvalidOid;
  Oid receive = InvalidOid;
  bool is_varlena;
  if (column->width > 0) {
    column->cls = ColumnClass::kFixed;
    return;
  }
  switch (column->type) {
  case BYTEAOID:
    column->cls = ColumnClass::kBytes;
    return;
  case TEXTOID:
  case VARCHAROID:
  case BPCHAROID:
  case JSONOID:
  case NAMEOID:
    column->cls = ColumnClass::kText;
    return;
  default:
    break;
  }
  if (!travels_as_text(column->type)) {
    const HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(column->type));
    if (HeapTupleIsValid(tuple)) {
      const auto *type = reinterpret_cast<Form_pg_type>(GETSTRUCT(tuple));
      send = type->typsend;
      receive = type->typreceive;
      ReleaseSysCache(tuple);
    }
  }
  if (OidIsValid(send) && OidIsValid(receive)) {
    column->cls = ColumnClass::kBinary;
    fmgr_info_cxt(send, &column->output, CurrentMemoryContext);
    getTypeBinaryInputInfo(column->type, &receive, &column->io_param);
    fmgr_info_cxt(receive, &column->input, CurrentMemoryContext);
    return;
  }
  column->cls = ColumnClass::kOutput;
  getTypeOutputInfo(column->type, &send, &is_varlena);
  fmgr_info_cxt(send, &column->output, CurrentMemoryContext);
  getTypeInputInfo(column->type, &receive, &column->io_param);
  fmgr_info_cxt(receive, &column->input, CurrentMemoryContext);
}

void make_text(SentColumn *column) {
  Oid function;
  bool is_varlena;
  column->cls = ColumnClass::kOutput;
  column->width = 0;
  getTypeOutputInfo(column->type, &function, &is_varlena);
  fmgr_info_cxt(function, &column->output, CurrentMemoryContext);
  getTypeInputInfo(column->type, &function, &column->io_param);
  fmgr_info_cxt(function, &column->input, CurrentMemoryContext);
}

void fill(SentTable *sent, const config::Table *root) {
  const Relation rel = RelationIdGetRelation(root->root);
  if (!RelationIsValid(rel))
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("a registered table was dropped meanwhile"));
  const TupleDesc desc = RelationGetDescr(rel);
  sent->columns = static_cast<SentColumn *>(palloc0(sizeof(SentColumn) * Max(desc->natts, 1)));
  sent->column_count = 0;
  sent->key_count = root->key_count;
  sent->key_columns = static_cast<int *>(palloc0(sizeof(int) * Max(root->key_count, 1)));
  for (int i = 0; i < desc->natts; i++) {
    const Form_pg_attribute attr = TupleDescAttr(desc, i);
    if (attr->attisdropped || attr->attgenerated != '\0') // generated columns are computed over there
      continue;
    SentColumn *column = &sent->columns[sent->column_count];
    namestrcpy(&column->name, NameStr(attr->attname));
    column->root_attno = attr->attnum;
    column->type = attr->atttypid;
    column->typlen = attr->attlen;
    column->by_value = attr->attbyval;
    for (int k = 0; k < root->key_count; k++)
      if (root->keys[k].root_attno == attr->attnum) {
        column->key_position = static_cast<uint8>(k + 1);
        sent->key_columns[k] = sent->column_count;
      }
    classify(column);
    sent->column_count++;
  }
  RelationClose(rel);
  for (int k = 0; k < root->key_count; k++)
    if (sent->columns[sent->key_columns[k]].key_position != k + 1)
      ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
              errmsg("primary key of table \"%s\" contains a generated column", get_rel_name(root->root)));
}

} // namespace

SentTable *sent_table(Session *session, const config::Table *root) {
  if (session->tables == nullptr) {
    HASHCTL ctl{};
    ctl.keysize = sizeof(Oid);
    ctl.entrysize = sizeof(SentTable);
    ctl.hcxt = session->context;
    session->tables = hash_create("seal_sync sent tables", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  }
  bool found;
  auto *sent = static_cast<SentTable *>(hash_search(session->tables, &root->root, HASH_ENTER, &found));
  if (!found) {
    memset(static_cast<void *>(sent), 0, sizeof *sent);
    sent->root = root->root;
    sent->number = session->next_table++;
    sent->context = AllocSetContextCreate(session->context, "seal_sync sent table", ALLOCSET_SMALL_SIZES);
  }
  if (!fits_or_unknown(sent) && TimestampDifferenceExceeds(sent->decided_at, GetCurrentTimestamp(), kAskAgainMs))
    sent->columns = nullptr;
  if (!found || sent->signature != root->signature || sent->columns == nullptr) {
    sent->columns = nullptr;
    sent->noted = sent->told = false;
    sent->newest = 0;
    sent->numbers = nullptr;
    sent->places = nullptr;
    sent->schema = sent->name = sent->sqlstate = sent->message = sent->detail = sent->hint = nullptr;
    MemoryContextReset(sent->context);
    const MemoryContext old = MemoryContextSwitchTo(sent->context);
    fill(sent, root);
    sent->signature = root->signature;
    sent->fit = TableFit::kUnknown;
    MemoryContextSwitchTo(old);
  }
  return sent;
}

void forget_unfit(Session *session) {
  if (session->tables == nullptr)
    return;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->tables);
  while (auto *sent = static_cast<SentTable *>(hash_seq_search(&status)))
    if (!fits_or_unknown(sent))
      sent->columns = nullptr; // made anew when it is next needed
}

void write_description(SentTable *sent, const config::Table *root, core::Buffer *out) {
  sent->schema = MemoryContextStrdup(sent->context, get_namespace_name(get_rel_namespace(root->root)));
  sent->name = MemoryContextStrdup(sent->context, get_rel_name(root->root));
  out->varint(sent->number);
  core::wire::TableHead head;
  head.schema = sent->schema;
  head.name = sent->name;
  head.columns = static_cast<uint64>(sent->column_count);
  core::wire::write(*out, head);
  for (int i = 0; i < sent->column_count; i++) {
    const SentColumn &column = sent->columns[i];
    const HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(column.type));
    if (!HeapTupleIsValid(tuple))
      elog(ERROR, "cache lookup failed for type %u", column.type);
    const auto *type = reinterpret_cast<Form_pg_type>(GETSTRUCT(tuple));
    core::wire::Column wire;
    wire.name = NameStr(column.name);
    wire.type_schema = get_namespace_name(type->typnamespace);
    wire.type_name = pstrdup(NameStr(type->typname));
    Oid type_oid;
    Oid collation;
    get_atttypetypmodcoll(root->root, column.root_attno, &type_oid, &wire.typmod, &collation);
    wire.cls = column.cls;
    wire.width = column.width;
    wire.key_position = column.key_position;
    core::wire::write(*out, wire);
    ReleaseSysCache(tuple);
  }
  if (root->constant_cluster != nullptr) {
    out->text("");
    out->text(NameStr(root->constant_cluster->name));
  } else {
    out->text(get_attname(root->root, root->cluster_attno, false));
    out->text("");
  }
}

namespace {
char *keep(MemoryContext context, std::string_view text) {
  auto *copy = static_cast<char *>(MemoryContextAlloc(context, text.size() + 1));
  memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  return copy;
}
} // namespace

bool fits_or_unknown(const SentTable *sent) {
  return sent->columns == nullptr || sent->fit == TableFit::kFits || sent->fit == TableFit::kUnknown;
}

TableFit read_description_reply(SentTable *sent, core::Reader *reply) {
  const MemoryContext context = sent->context;
  core::wire::Problem problem;
  core::wire::read(*reply, problem);
  if (!problem.sqlstate.empty() && reply->ok()) {
    sent->sqlstate = keep(context, problem.sqlstate);
    sent->message = keep(context, problem.message);
    sent->detail = keep(context, problem.detail);
    sent->hint = keep(context, problem.hint);
    sent->decided_at = GetCurrentTimestamp();
    sent->told_held = false;
    sent->fit = problem.sqlstate == "42P01" ? TableFit::kWaitingPeer : TableFit::kParked;
    return sent->fit;
  }
  const MemoryContext old = MemoryContextSwitchTo(context);
  for (int i = 0; i < sent->column_count; i++)
    if (reply->u8() == 1)
      make_text(&sent->columns[i]);
  sent->told = reply->ok() && !reply->at_end();
  if (sent->told) {
    core::wire::read(*reply, sent->incarnation);
    sent->newest = reply->varint();
    sent->numbers = static_cast<uint64 *>(palloc0(sizeof(uint64) * static_cast<size_t>(Max(sent->column_count, 1))));
    sent->places = static_cast<int16 *>(palloc0(sizeof(int16) * static_cast<size_t>(Max(sent->column_count, 1))));
    for (int i = 0; i < sent->column_count; i++) {
      const uint64 place = reply->varint();
      if (place > MaxHeapAttributeNumber)
        reply->fail();
      sent->places[i] = static_cast<int16>(place);
      sent->numbers[i] = reply->varint();
    }
  }
  MemoryContextSwitchTo(old);
  if (!reply->ok() || sent->newest > static_cast<uint64>(PG_INT32_MAX))
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
            errmsg("the peer's answer about a table cannot be read"));
  sent->sqlstate = sent->message = sent->detail = sent->hint = nullptr;
  sent->fit = TableFit::kFits;
  return sent->fit;
}

void write_value(core::Buffer *out, const SentColumn *column, Datum value) {
  switch (column->cls) {
  case ColumnClass::kFixed:
    if (column->by_value)
      out->bytes(&value, column->width); // little-endian: the low bytes are the value
    else
      out->bytes(DatumGetPointer(value), column->width);
    return;
  case ColumnClass::kBytes:
  case ColumnClass::kText: {
    if (column->typlen == NAMEDATALEN) {
      out->text(NameStr(*DatumGetName(value)));
      return;
    }
    auto *stored = reinterpret_cast<struct varlena *>(DatumGetPointer(value));
    struct varlena *plain = pg_detoast_datum_packed(stored);
    out->sized({reinterpret_cast<const uint8_t *>(VARDATA_ANY(plain)), VARSIZE_ANY_EXHDR(plain)});
    if (plain != stored)
      pfree(plain);
    return;
  }
  case ColumnClass::kBinary: {
    bytea *sent = SendFunctionCall(const_cast<FmgrInfo *>(&column->output), value);
    out->sized({reinterpret_cast<const uint8_t *>(VARDATA(sent)), VARSIZE(sent) - VARHDRSZ});
    pfree(sent);
    return;
  }
  case ColumnClass::kOutput: {
    char *text = OutputFunctionCall(const_cast<FmgrInfo *>(&column->output), value);
    out->text(text);
    pfree(text);
    return;
  }
  }
}

namespace {

Oid owner_of(Oid relation) {
  const HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
  if (!HeapTupleIsValid(tuple))
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("a registered table was dropped meanwhile"));
  const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
  ReleaseSysCache(tuple);
  return owner;
}

Datum read_value(core::Reader *in, const SentColumn *column) {
  if (column->cls == ColumnClass::kFixed) {
    const core::ByteSpan raw = in->bytes(column->width);
    if (!in->ok())
      return 0;
    if (column->by_value)
      return fixed_datum(raw.data(), column->width);
    return PointerGetDatum(memcpy(palloc(raw.size()), raw.data(), raw.size()));
  }
  const core::ByteSpan raw = in->sized();
  if (!in->ok())
    return 0;
  if (column->cls == ColumnClass::kBinary) {
    StringInfoData message;
    initStringInfo(&message);
    appendBinaryStringInfo(&message, reinterpret_cast<const char *>(raw.data()),
                           static_cast<int>(raw.size()));
    return ReceiveFunctionCall(const_cast<FmgrInfo *>(&column->input), &message, column->io_param, -1);
  }
  const auto *chars = reinterpret_cast<const char *>(raw.data());
  if (column->cls == ColumnClass::kOutput || column->typlen != -1)
    return column->cls == ColumnClass::kOutput
               ? InputFunctionCall(const_cast<FmgrInfo *>(&column->input),
                                   pnstrdup(chars, raw.size()), column->io_param, -1)
               : DirectFunctionCall1(namein, CStringGetDatum(pnstrdup(chars, raw.size())));
  return PointerGetDatum(cstring_to_text_with_len(chars, static_cast<int>(raw.size())));
}

} // namespace

void read_keyrow(core::Reader *in, const SentTable *sent, Datum *values) {
  // Input functions of domains, and of types made of them, run their owner's checks: as the table's
  // owner then, never as the worker.
  Oid user;
  int security;
  GetUserIdAndSecContext(&user, &security);
  SetUserIdAndSecContext(owner_of(sent->root), security | SECURITY_RESTRICTED_OPERATION);
  in->bytes(static_cast<uint64>((sent->key_count + 7) / 8)); // null bitmap: keys are never null
  for (int k = 0; k < sent->key_count; k++)
    values[k] = read_value(in, &sent->columns[sent->key_columns[k]]);
  SetUserIdAndSecContext(user, security);
  if (!in->ok())
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
            errmsg("a key in the peer's answer cannot be read"));
}

} // namespace seal_sync::scan

// See key_json.hpp; and the row behind a recorded key, for those who may see it.
#include "sql_api/key_json.hpp"

#include "pg/boundary.hpp"
#include "scan/keys.hpp"

namespace seal_sync::sql_api {

namespace {

core::ByteSpan span_of(const bytea *bytes) {
  return {reinterpret_cast<const uint8_t *>(VARDATA_ANY(bytes)), VARSIZE_ANY_EXHDR(bytes)};
}

/// The description of a registered table, or nullptr.
const config::Table *table_of(Oid relation) {
  config::refresh();
  return config::find_table(relation);
}

} // namespace

KeyJson *open_key_json(const config::Table *table) {
  auto *json = static_cast<KeyJson *>(palloc0(sizeof(KeyJson)));
  json->table = table;
  for (int i = 0; i < table->key_count; i++) {
    const config::KeyColumn &column = table->keys[i];
    json->names[i] = get_attname(table->root, column.root_attno, false);
    fmgr_info(F_TO_JSONB, &json->to_jsonb[i]);
    // to_jsonb(anyelement) learns its argument's type from the expression it is called in.
    Expr *argument = reinterpret_cast<Expr *>(makeNullConst(column.type, -1, InvalidOid));
    Expr *expression = reinterpret_cast<Expr *>(
        makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(argument), InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL));
    fmgr_info_set_expr(reinterpret_cast<Node *>(expression), &json->to_jsonb[i]);
  }
  return json;
}

Datum next_key_json(KeyJson *json, core::Reader *keys) {
  Datum values[INDEX_MAX_KEYS];
  scan::read_key(keys, json->table, values);
  JsonbParseState *state = nullptr;
  pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
  for (int i = 0; i < json->table->key_count; i++) {
    JsonbValue name;
    name.type = jbvString;
    name.val.string.val = const_cast<char *>(json->names[i]);
    name.val.string.len = static_cast<int>(strlen(json->names[i]));
    pushJsonbValue(&state, WJB_KEY, &name);

    Jsonb *document = DatumGetJsonbP(FunctionCall1(&json->to_jsonb[i], values[i]));
    JsonbValue value;
    if (!JB_ROOT_IS_SCALAR(document) || !JsonbExtractScalar(&document->root, &value)) {
      value.type = jbvBinary;
      value.val.binary.data = &document->root;
      value.val.binary.len = static_cast<int>(VARSIZE(document) - VARHDRSZ);
    }
    pushJsonbValue(&state, WJB_VALUE, &value);
  }
  return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, nullptr)));
}

/// key_as_json(relation, key): null when the table is not registered any more.
SEAL_SYNC_PG_FUNCTION(seal_sync_key_as_json) {
  const config::Table *table = table_of(PG_GETARG_OID(0));
  if (table == nullptr || !table->usable)
    PG_RETURN_NULL();
  core::Reader keys(span_of(PG_GETARG_BYTEA_PP(1)));
  PG_RETURN_DATUM(next_key_json(open_key_json(table), &keys));
}

/// row_image(relation, key): the row as it is now, read as the caller, so that neither a missing
/// SELECT nor row security is got round. Null when there is no such row, or none for this caller.
SEAL_SYNC_PG_FUNCTION(seal_sync_row_image) {
  const config::Table *table = table_of(PG_GETARG_OID(0));
  if (table == nullptr || !table->usable ||
      pg_class_aclcheck(table->root, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
    PG_RETURN_NULL();
  core::Reader keys(span_of(PG_GETARG_BYTEA_PP(1)));
  Datum values[INDEX_MAX_KEYS];
  Oid types[INDEX_MAX_KEYS];
  scan::read_key(&keys, table, values);

  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(&sql, "SELECT pg_catalog.to_jsonb(t.*) FROM %s t WHERE true",
                   quote_qualified_identifier(get_namespace_name(get_rel_namespace(table->root)),
                                              get_rel_name(table->root)));
  const Relation index = index_open(table->key_index, AccessShareLock);
  for (int i = 0; i < table->key_count; i++) {
    types[i] = table->keys[i].type;
    // The key's own equality, named with its schema: nobody's search path decides what is equal.
    const Oid input = index->rd_opcintype[i];
    const Oid equal = get_opfamily_member(index->rd_opfamily[i], input, input, BTEqualStrategyNumber);
    const HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(equal));
    if (!HeapTupleIsValid(tuple))
      elog(ERROR, "cache lookup failed for operator %u", equal);
    const auto *operator_form = reinterpret_cast<Form_pg_operator>(GETSTRUCT(tuple));
    appendStringInfo(&sql, " AND t.%s OPERATOR(%s.%s) $%d",
                     quote_identifier(get_attname(table->root, table->keys[i].root_attno, false)),
                     quote_identifier(get_namespace_name(operator_form->oprnamespace)),
                     NameStr(operator_form->oprname), i + 1);
    ReleaseSysCache(tuple);
  }
  index_close(index, AccessShareLock);

  const MemoryContext caller = CurrentMemoryContext;
  Datum image = 0;
  bool is_null = true;
  SPI_connect();
  if (SPI_execute_with_args(sql.data, table->key_count, types, values, nullptr, true, 1) != SPI_OK_SELECT)
    elog(ERROR, "could not read the row");
  if (SPI_processed == 1) {
    image = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null);
    if (!is_null) {
      const MemoryContext spi = MemoryContextSwitchTo(caller);
      image = datumCopy(image, false, -1);
      MemoryContextSwitchTo(spi);
    }
  }
  SPI_finish();
  if (is_null)
    PG_RETURN_NULL();
  PG_RETURN_DATUM(image);
}

} // namespace seal_sync::sql_api

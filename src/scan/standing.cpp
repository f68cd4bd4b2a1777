// See standing.hpp.
#include "scan/standing.hpp"

#include "pg/boundary.hpp"
#include "scan/keys.hpp"
#include "scan/peer_text.hpp"

extern "C" {
#include "utils/json.h"
}

namespace seal_sync::scan {

namespace {

constexpr int kMostBytes = 64 * 1024; // of a row; an honest peer stops earlier

/// Whether a value of this type, as text, is a number that JSON and we can read.
bool is_number(Oid type, const char *text) {
  if (type != INT2OID && type != INT4OID && type != INT8OID && type != OIDOID && type != NUMERICOID &&
      type != FLOAT4OID && type != FLOAT8OID)
    return false;
  // Digits with at most one point: no exponents, no infinity.
  const char *at = *text == '-' ? text + 1 : text;
  if (*at == '0' && at[1] >= '0' && at[1] <= '9')
    return false;
  int digits = 0, points = 0;
  for (; *at != '\0'; at++) {
    if (*at == '.' && points == 0 && digits > 0 && at[1] != '\0')
      points++;
    else if (*at >= '0' && *at <= '9')
      digits++;
    else
      return false;
  }
  return digits > 0 && digits <= 100;
}

Oid type_of(const SentTable *sent, const char *column) {
  for (int i = 0; i < sent->column_count; i++)
    if (strcmp(NameStr(sent->columns[i].name), column) == 0)
      return sent->columns[i].type;
  return InvalidOid;
}

void append_value(StringInfo json, Oid type, const core::wire::StandingColumn &column, const char *text) {
  if (column.state == core::wire::StandingColumn::kNull)
    appendStringInfoString(json, "null");
  else if (column.state == core::wire::StandingColumn::kWhole && is_number(type, text))
    appendStringInfoString(json, text);
  else if (column.state == core::wire::StandingColumn::kWhole && type == BOOLOID &&
           (strcmp(text, "t") == 0 || strcmp(text, "f") == 0))
    appendStringInfoString(json, text[0] == 't' ? "true" : "false");
  else
    escape_json(json, text);
}

/// nullptr: too large.
const char *read_image(const Session *session, const SentTable *sent, core::Reader *in, uint64 columns) {
  StringInfoData json;
  initStringInfo(&json);
  appendStringInfoChar(&json, '{');
  for (uint64 i = 0; i < columns && in->ok(); i++) {
    core::wire::StandingColumn column;
    core::wire::read(*in, column);
    if (json.len > kMostBytes)
      continue;
    const char *name = peer_text(session, column.name);
    if (i > 0)
      appendStringInfoString(&json, ", ");
    escape_json(&json, name);
    appendStringInfoString(&json, ": ");
    append_value(&json, type_of(sent, name), column, peer_text(session, column.text));
  }
  appendStringInfoChar(&json, '}');
  return json.len > kMostBytes ? nullptr : json.data;
}

/// By the name the peer was told on this connection.
const SentTable *find_sent(const Session *session, const char *schema, const char *table) {
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->tables);
  while (const auto *sent = static_cast<const SentTable *>(hash_seq_search(&status)))
    if (sent->name != nullptr && sent->columns != nullptr && sent->fit == TableFit::kFits &&
        strcmp(sent->name, table) == 0 && strcmp(sent->schema, schema) == 0) {
      hash_seq_term(&status);
      return sent;
    }
  return nullptr;
}

void read_other(const Session *session, const core::wire::Standing &standing, HeldReason *reason) {
  const SentTable *sent = find_sent(session, peer_text(session, standing.schema), peer_text(session, standing.table));
  if (sent == nullptr || !ConditionalLockRelationOid(sent->root, AccessShareLock))
    return;
  // Not to be read by what was agreed on when the table has changed since.
  const config::Table *table = config::find_table(sent->root);
  if (table != nullptr && table->usable && table->root == sent->root && table->signature == sent->signature) {
    Datum values[INDEX_MAX_KEYS];
    core::Reader keyrow(standing.key);
    read_keyrow(&keyrow, sent, values);
    core::Buffer key;
    init_buffer(&key, CurrentMemoryContext);
    write_key(&key, table, values);
    reason->other_relation = sent->root;
    reason->other_key = key.span();
    reason->other_stands = (standing.flags & core::wire::Standing::kOtherStands) != 0;
    reason->other_cluster = peer_text(session, standing.cluster.substr(0, NAMEDATALEN - 1));
  }
  UnlockRelationOid(sent->root, AccessShareLock);
}

} // namespace

void read_standing(Session *session, const SentTable *sent, core::Reader *in, HeldReason *reason) {
  core::wire::Standing standing;
  core::wire::read(*in, standing);
  if (in->ok() && (standing.flags & core::wire::Standing::kOther) != 0)
    read_other(session, standing, reason);
  if (in->ok() && (standing.flags & core::wire::Standing::kImage) != 0)
    reason->standing = read_image(session, sent, in, standing.columns);
  if (!in->ok())
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("what the peer says of refused keys cannot be read"));
}

} // namespace seal_sync::scan

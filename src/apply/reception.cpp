// See reception.hpp.
#include "apply/reception.hpp"

#include "apply/reply.hpp"

namespace seal_sync::apply {

namespace {

struct Reception {
  bool found;
  pg_uuid_t incarnation;
  int32 newest;
  int count;
  int16 *columns; // attribute numbers here
  int32 *numbers; // of the same length
};

Datum int2_array(const int16 *values, int count) {
  auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(count + 1)));
  for (int i = 0; i < count; i++)
    elements[i] = Int16GetDatum(values[i]);
  return PointerGetDatum(construct_array(elements, count, INT2OID, sizeof(int16), true, TYPALIGN_SHORT));
}

Datum int4_array(const int32 *values, int count) {
  auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(count + 1)));
  for (int i = 0; i < count; i++)
    elements[i] = Int32GetDatum(values[i]);
  return PointerGetDatum(construct_array(elements, count, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

/// Seen now, whatever the transaction has seen before. Asked for with every description, so planned once.
constexpr char kRead[] = "SELECT incarnation, newest, columns, numbers FROM seal_sync.reception "
                         "WHERE origin OPERATOR(pg_catalog.=) $1 AND relation OPERATOR(pg_catalog.=) $2";
constexpr char kReadToChange[] = "SELECT incarnation, newest, columns, numbers FROM seal_sync.reception "
                                 "WHERE origin OPERATOR(pg_catalog.=) $1 AND relation OPERATOR(pg_catalog.=) $2 FOR UPDATE";

SPIPlanPtr plan_to_read(bool to_change) {
  static SPIPlanPtr plans[2];
  SPIPlanPtr *plan = &plans[to_change ? 1 : 0];
  if (*plan == nullptr) {
    Oid types[2] = {NAMEOID, OIDOID};
    SPIPlanPtr prepared = SPI_prepare(to_change ? kReadToChange : kRead, 2, types);
    if (prepared == nullptr || SPI_keepplan(prepared) != 0)
      elog(ERROR, "could not prepare: %s", SPI_result_code_string(SPI_result));
    *plan = prepared;
  }
  return *plan;
}

Reception read_reception(NameData *origin, Oid relation, bool to_change) {
  Reception row = {};
  row.columns = static_cast<int16 *>(palloc(sizeof(int16) * 2 * MaxHeapAttributeNumber)); // with room for new ones
  row.numbers = static_cast<int32 *>(palloc(sizeof(int32) * 2 * MaxHeapAttributeNumber));
  Datum values[2] = {NameGetDatum(origin), ObjectIdGetDatum(relation)};
  SPI_connect();
  const int rc = SPI_execute_plan(plan_to_read(to_change), values, nullptr, false, 0);
  if (rc != SPI_OK_SELECT)
    elog(ERROR, "seal_sync: unexpected SPI result %d", rc);
  if (SPI_processed == 1) {
    bool is_null;
    const HeapTuple tuple = SPI_tuptable->vals[0];
    const TupleDesc desc = SPI_tuptable->tupdesc;
    row.found = true;
    row.incarnation = *DatumGetUUIDP(SPI_getbinval(tuple, desc, 1, &is_null));
    row.newest = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &is_null));
    Datum *columns, *numbers;
    int column_count, number_count;
    deconstruct_array(DatumGetArrayTypeP(SPI_getbinval(tuple, desc, 3, &is_null)), INT2OID, sizeof(int16), true,
                      TYPALIGN_SHORT, &columns, nullptr, &column_count);
    deconstruct_array(DatumGetArrayTypeP(SPI_getbinval(tuple, desc, 4, &is_null)), INT4OID, sizeof(int32), true,
                      TYPALIGN_INT, &numbers, nullptr, &number_count);
    for (int i = 0; i < column_count && i < number_count && i < MaxHeapAttributeNumber; i++) {
      row.columns[row.count] = DatumGetInt16(columns[i]);
      row.numbers[row.count++] = DatumGetInt32(numbers[i]);
    }
  }
  SPI_finish();
  return row;
}

void store(const char *sql, NameData *origin, Oid relation, Reception *row) {
  Oid types[6] = {NAMEOID, OIDOID, UUIDOID, INT4OID, INT2ARRAYOID, INT4ARRAYOID};
  SPI_connect();
  Datum values[6] = {NameGetDatum(origin),          ObjectIdGetDatum(relation),
                     UUIDPGetDatum(&row->incarnation), Int32GetDatum(row->newest),
                     int2_array(row->columns, row->count), int4_array(row->numbers, row->count)};
  const int rc = SPI_execute_with_args(sql, 6, types, values, nullptr, false, 0);
  if (rc != SPI_OK_INSERT && rc != SPI_OK_UPDATE)
    elog(ERROR, "seal_sync: unexpected SPI result %d", rc);
  SPI_finish();
}

int32 number_of(const Reception &row, AttrNumber attno) {
  for (int i = 0; i < row.count; i++)
    if (row.columns[i] == attno)
      return row.numbers[i];
  return 0;
}

/// Puts described columns that are not in it yet behind the others, with the next number. Returns how many.
int new_columns(Reception *row, const Descriptor *descriptor) {
  const int before = row->count;
  for (int i = 0; i < descriptor->column_count; i++) {
    const AttrNumber attno = descriptor->columns[i].attno;
    if (attno == 0 || number_of(*row, attno) != 0)
      continue;
    row->columns[row->count] = attno;
    row->numbers[row->count++] = row->newest + 1;
  }
  return row->count - before;
}

} // namespace

void write_reception(core::Buffer *reply, const NameData &origin, const Descriptor *descriptor) {
  NameData name = origin;
  Reception row = read_reception(&name, descriptor->relation, false);
  if (!row.found || new_columns(&row, descriptor) > 0) {
    // DDL may be raising the numbers at the same time.
    row = read_reception(&name, descriptor->relation, true);
    if (!row.found && !pg_strong_random(&row.incarnation, sizeof row.incarnation))
      ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate a random id"));
    if (new_columns(&row, descriptor) > 0)
      row.newest++;
    store(row.found ? "UPDATE seal_sync.reception SET incarnation = $3, newest = $4, columns = $5, numbers = $6 "
                      "WHERE origin OPERATOR(pg_catalog.=) $1 AND relation OPERATOR(pg_catalog.=) $2"
                    : "INSERT INTO seal_sync.reception (origin, relation, incarnation, newest, columns, numbers) "
                      "VALUES ($1, $2, $3, $4, $5, $6)",
          &name, descriptor->relation, &row);
  }
  reply->bytes(row.incarnation.data, sizeof row.incarnation.data);
  reply->varint(static_cast<uint64>(row.newest));
  for (int i = 0; i < descriptor->column_count; i++) {
    const AttrNumber attno = descriptor->columns[i].attno;
    reply->varint(static_cast<uint64>(attno));
    reply->varint(attno == 0 ? 0 : static_cast<uint64>(number_of(row, attno)));
  }
}

} // namespace seal_sync::apply

// See key_order.hpp.
#include "scan/key_order.hpp"

namespace seal_sync::scan {

KeyOrder *make_key_order(const config::Table *table) {
  auto *order = static_cast<KeyOrder *>(palloc0(sizeof(KeyOrder)));
  order->count = table->key_count;
  const Relation index = RelationIdGetRelation(table->key_index);
  if (!RelationIsValid(index))
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("a primary key was dropped meanwhile"));
  for (int i = 0; i < order->count; i++) {
    order->families[i] = index->rd_opfamily[i];
    order->types[i] = index->rd_opcintype[i];
    order->collations[i] = index->rd_indcollation[i];
    const Oid function = get_opfamily_proc(order->families[i], order->types[i], order->types[i], BTORDER_PROC);
    if (!OidIsValid(function))
      elog(ERROR, "missing support function in operator family %u for type %u", order->families[i], order->types[i]);
    fmgr_info(function, &order->compare[i]);
  }
  RelationClose(index);
  return order;
}

int compare_keys(KeyOrder *order, const Datum *left, const Datum *right) {
  for (int i = 0; i < order->count; i++) {
    const int result =
        DatumGetInt32(FunctionCall2Coll(&order->compare[i], order->collations[i], left[i], right[i]));
    if (result != 0)
      return result;
  }
  return 0;
}

} // namespace seal_sync::scan

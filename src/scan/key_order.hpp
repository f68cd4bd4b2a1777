#pragma once
// The order of a table's primary key, as its index has it.
//
// Used where keys have to be placed among others outside of a sort: base_map, copy_scan. Functions live in the
// context that was current when it was made.

#include "config/config.hpp"

namespace seal_sync::scan {

struct KeyOrder {
  int count;
  FmgrInfo compare[INDEX_MAX_KEYS]; // btree support function 1
  Oid collations[INDEX_MAX_KEYS];
  Oid families[INDEX_MAX_KEYS];
  Oid types[INDEX_MAX_KEYS]; // of the operator class
};

KeyOrder *make_key_order(const config::Table *table);
/// Below, at or above zero.
int compare_keys(KeyOrder *order, const Datum *left, const Datum *right);

} // namespace seal_sync::scan

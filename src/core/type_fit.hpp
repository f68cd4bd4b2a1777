#pragma once
// Whether a column's type takes every value of another one unchanged.
//
// Asked by the receiver of rows (apply/relation_map) before a table's rows are taken, and by schema_diff, which
// foretells the answer. Types are told by their names, a domain by what it is made of. Invariant: kNarrower is
// said of every pair of built-in types whose values could arrive cut, rounded or not at all, for nobody would
// notice the first two, and the third would hold back row by row what one ALTER TABLE cures. Pure.

#include <cstdint>
#include <string_view>

namespace seal_sync::core {

struct TypeName {
  std::string_view schema, name; // as in pg_namespace and pg_type
  std::int32_t typmod = -1;
};

enum class TypeFit {
  kSame,     // values travel as they are
  kWider,    // another type or a wider one, which has all values of it
  kNarrower, // has not
  kUnknown,  // one of them is not built in: a value that does not fit is refused by the type itself
};

TypeFit type_fit(TypeName sent, TypeName local);

} // namespace seal_sync::core

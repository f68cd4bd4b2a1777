// core/type_fit: which types take every value of which.
#include "core/type_fit.hpp"

#include <doctest/doctest.h>

using namespace seal_sync::core;

namespace {

TypeName builtin(const char *name, int typmod = -1) { return {"pg_catalog", name, typmod}; }
TypeName chars(const char *name, int length) { return builtin(name, length + 4); }
TypeName digits(int precision, int scale) { return builtin("numeric", ((precision << 16) | (scale & 0x7ff)) + 4); }

} // namespace

TEST_CASE("a type takes itself, and what is wider takes what is narrower") {
  CHECK(type_fit(builtin("int4"), builtin("int4")) == TypeFit::kSame);
  CHECK(type_fit(chars("varchar", 10), chars("varchar", 10)) == TypeFit::kSame);
  CHECK(type_fit(chars("varchar", 10), chars("varchar", 20)) == TypeFit::kWider);
  CHECK(type_fit(chars("varchar", 10), builtin("varchar")) == TypeFit::kWider);
  CHECK(type_fit(chars("varchar", 10), builtin("text")) == TypeFit::kWider);
  CHECK(type_fit(chars("bpchar", 5), chars("varchar", 5)) == TypeFit::kWider);
  CHECK(type_fit(builtin("int2"), builtin("int8")) == TypeFit::kWider);
  CHECK(type_fit(builtin("int8"), builtin("numeric")) == TypeFit::kWider);
  CHECK(type_fit(builtin("int4"), digits(12, 2)) == TypeFit::kWider);
  CHECK(type_fit(digits(10, 2), digits(12, 3)) == TypeFit::kWider);
  CHECK(type_fit(digits(10, -2), digits(12, 0)) == TypeFit::kWider);
  CHECK(type_fit(builtin("float4"), builtin("float8")) == TypeFit::kWider);
  CHECK(type_fit(builtin("timestamp", 3), builtin("timestamp")) == TypeFit::kWider);
  CHECK(type_fit(builtin("timestamp"), builtin("timestamp", 6)) == TypeFit::kWider);
  CHECK(type_fit(chars("_varchar", 10), chars("_varchar", 20)) == TypeFit::kWider);
  CHECK(type_fit(builtin("_int4"), builtin("_int8")) == TypeFit::kWider);
  CHECK(type_fit(builtin("_int4"), builtin("text")) == TypeFit::kWider);
  CHECK(type_fit(builtin("bit", 4), builtin("varbit", 4)) == TypeFit::kWider);
}

TEST_CASE("what would cut, round or refuse values is narrower") {
  CHECK(type_fit(chars("varchar", 20), chars("varchar", 10)) == TypeFit::kNarrower);
  CHECK(type_fit(builtin("varchar"), chars("varchar", 10)) == TypeFit::kNarrower);
  CHECK(type_fit(builtin("text"), chars("varchar", 10)) == TypeFit::kNarrower);
  CHECK(type_fit(chars("varchar", 5), chars("bpchar", 5)) == TypeFit::kNarrower); // trailing blanks
  CHECK(type_fit(builtin("int8"), builtin("int4")) == TypeFit::kNarrower);
  CHECK(type_fit(builtin("int8"), builtin("float8")) == TypeFit::kNarrower); // 2^53 + 1
  CHECK(type_fit(builtin("numeric"), digits(10, 2)) == TypeFit::kNarrower);
  CHECK(type_fit(digits(10, 2), digits(10, 1)) == TypeFit::kNarrower); // rounds
  CHECK(type_fit(digits(10, 2), digits(10, 3)) == TypeFit::kNarrower); // one whole digit less
  CHECK(type_fit(builtin("int8"), digits(19, 2)) == TypeFit::kNarrower);
  CHECK(type_fit(builtin("float8"), builtin("float4")) == TypeFit::kNarrower);
  CHECK(type_fit(builtin("timestamp"), builtin("timestamp", 0)) == TypeFit::kNarrower);
  CHECK(type_fit(builtin("timestamptz"), builtin("date")) == TypeFit::kNarrower);
  CHECK(type_fit(builtin("interval"), builtin("interval", 0x7fff0003)) == TypeFit::kNarrower);
  CHECK(type_fit(builtin("text"), builtin("int4")) == TypeFit::kNarrower); // 007
  CHECK(type_fit(builtin("json"), builtin("jsonb")) == TypeFit::kNarrower); // keys twice
  CHECK(type_fit(builtin("bit", 4), builtin("bit", 8)) == TypeFit::kNarrower);
  CHECK(type_fit(builtin("varbit", 4), builtin("bit")) == TypeFit::kNarrower);
  CHECK(type_fit(chars("_varchar", 20), chars("_varchar", 10)) == TypeFit::kNarrower);
  CHECK(type_fit(builtin("_int4"), builtin("int4")) == TypeFit::kNarrower);
}

TEST_CASE("types that are not built in decide themselves") {
  CHECK(type_fit({"public", "mood", -1}, {"public", "mood", -1}) == TypeFit::kSame);
  CHECK(type_fit({"public", "mood", -1}, {"app", "mood", -1}) == TypeFit::kUnknown);
  CHECK(type_fit({"public", "mood", -1}, builtin("text")) == TypeFit::kUnknown);
  CHECK(type_fit(builtin("text"), {"public", "mood", -1}) == TypeFit::kUnknown);
  CHECK(type_fit({"gis", "geometry", 5}, {"gis", "geometry", -1}) == TypeFit::kUnknown);
  CHECK(type_fit({"gis", "geometry", -1}, {"gis", "geometry", 5}) == TypeFit::kNarrower);
}

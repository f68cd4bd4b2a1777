// core/quoting: which texts of an error monitors may read.
#include "core/quoting.hpp"

#include <doctest/doctest.h>

using namespace seal_sync::core;

TEST_CASE("errors of connections and resources are told in full") {
  for (const char *state : {"08006", "28P01", "3D000", "53100", "55P03", "57P03", "SSW07", "XX000"}) {
    CHECK_FALSE(message_may_quote_rows(state));
    CHECK_FALSE(detail_may_quote_rows(state));
  }
}

TEST_CASE("constraints quote in the detail") {
  CHECK_FALSE(message_may_quote_rows("23505"));
  CHECK(detail_may_quote_rows("23505"));
}

TEST_CASE("values and the user's code quote everywhere") {
  for (const char *state : {"22P02", "44000", "P0001", "UE001", "", "2"}) {
    CHECK(message_may_quote_rows(state));
    CHECK(detail_may_quote_rows(state));
  }
}

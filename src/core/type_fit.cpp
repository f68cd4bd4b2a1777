// See type_fit.hpp.
#include "core/type_fit.hpp"

namespace seal_sync::core {

namespace {

bool is(const TypeName &type, std::string_view name) { return type.name == name; }

/// Characters or bits that a value may have; a typmod is 4 more where the type has a header.
std::int32_t length_of(const TypeName &type) {
  return type.typmod < 0 ? INT32_MAX : is(type, "bit") || is(type, "varbit") ? type.typmod : type.typmod - 4;
}

struct Digits {
  bool bounded;
  int whole, fraction;
};
Digits digits_of(const TypeName &type) {
  if (type.typmod < 4)
    return {false, 0, 0};
  const std::int32_t bits = type.typmod - 4;
  const int scale = ((bits & 0x7ff) ^ 1024) - 1024; // may be negative
  return {true, ((bits >> 16) & 0xffff) - scale, scale};
}

int second_digits(const TypeName &type) { return type.typmod < 0 ? 6 : type.typmod; }

/// Of one type: whether what its modifier allows is allowed there as well.
bool as_wide(const TypeName &sent, const TypeName &local) {
  if (sent.typmod == local.typmod || (local.typmod < 0 && !is(local, "bit")))
    return true;
  if (is(sent, "varchar") || is(sent, "bpchar") || is(sent, "varbit"))
    return length_of(local) >= length_of(sent);
  if (is(sent, "numeric")) {
    const Digits a = digits_of(sent);
    const Digits b = digits_of(local);
    return !b.bounded || (a.bounded && b.whole >= a.whole && b.fraction >= a.fraction);
  }
  if (is(sent, "time") || is(sent, "timetz") || is(sent, "timestamp") || is(sent, "timestamptz"))
    return second_digits(local) >= second_digits(sent);
  return false;
}

int whole_digits(const TypeName &type) { return is(type, "int2") ? 5 : is(type, "int4") ? 10 : is(type, "int8") ? 19 : 0; }

/// Of two types: the text of each value means the same value in the other.
bool converts(const TypeName &sent, const TypeName &local) {
  const int whole = whole_digits(sent);
  const bool unbounded = local.typmod < 0;
  if (is(local, "text") || (is(local, "varchar") && unbounded))
    return true;
  if (is(local, "varchar"))
    return (is(sent, "bpchar") && length_of(local) >= length_of(sent)) || (is(sent, "name") && length_of(local) >= 63) ||
           is(sent, "char");
  if (is(local, "int4"))
    return is(sent, "int2");
  if (is(local, "int8"))
    return is(sent, "int2") || is(sent, "int4");
  if (is(local, "numeric")) {
    const Digits digits = digits_of(local);
    return (whole > 0 && (!digits.bounded || (digits.whole >= whole && digits.fraction >= 0))) ||
           (unbounded && (is(sent, "float4") || is(sent, "float8")));
  }
  if (is(local, "float4"))
    return is(sent, "int2");
  if (is(local, "float8"))
    return is(sent, "float4") || is(sent, "int2") || is(sent, "int4");
  if (is(local, "timestamp"))
    return is(sent, "date");
  if (is(local, "json"))
    return is(sent, "jsonb");
  if (is(local, "inet"))
    return is(sent, "cidr");
  return is(local, "varbit") && is(sent, "bit") && length_of(local) >= length_of(sent);
}

} // namespace

TypeFit type_fit(TypeName sent, TypeName local) {
  const bool same = sent.schema == local.schema && sent.name == local.name;
  if (same && sent.typmod == local.typmod)
    return TypeFit::kSame;
  if (sent.schema != "pg_catalog" || local.schema != "pg_catalog")
    // A modifier of a type that we do not know: what it says of narrow and wide we do not know either.
    return same && local.typmod != -1 ? TypeFit::kNarrower : TypeFit::kUnknown;
  if (sent.name.starts_with('_') && local.name.starts_with('_')) { // arrays: by their elements
    sent.name.remove_prefix(1);
    local.name.remove_prefix(1);
  } else if (sent.name.starts_with('_') != local.name.starts_with('_')) {
    return is(local, "text") || (is(local, "varchar") && local.typmod < 0) ? TypeFit::kWider : TypeFit::kNarrower;
  }
  if (same)
    return as_wide(sent, local) ? TypeFit::kWider : TypeFit::kNarrower;
  return converts(sent, local) ? TypeFit::kWider : TypeFit::kNarrower;
}

} // namespace seal_sync::core

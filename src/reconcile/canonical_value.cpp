// See canonical_value.hpp.
#include "reconcile/canonical_value.hpp"

#include "core/canonical.hpp"
#include "scan/keys.hpp"

extern "C" {
#include "utils/date.h"
#include "utils/geo_decls.h"
#include "utils/inet.h"
#include "utils/multirangetypes.h"
#include "utils/rangetypes.h"
#include "utils/varbit.h"
}

namespace seal_sync::reconcile {

namespace canonical = core::canonical;

namespace {

constexpr Size kSlice = 256 * 1024; // of a large value

/// Numbers are told to the other side: a new rule gets a new one.
enum class Rule : uint8 {
  kFixed = 1,   // width bytes of the Datum
  kFloat4 = 2,
  kFloat8 = 3,
  kDoubles = 4, // so many float8, by reference
  kUuid = 5,
  kMacaddr = 6,
  kMacaddr8 = 7,
  kInterval = 8,
  kTimeTz = 9,
  kTid = 10,
  kName = 11,
  kText = 12,
  kBytes = 13,
  kBits = 14,
  kInet = 15,
  kPath = 16,
  kPolygon = 17,
  kNumeric = 18,
  kJsonb = 19,
  kEnum = 20,
  kArray = 21,
  kComposite = 22,
  kRange = 23,
  kMultirange = 24,
  kXml = 25,    // its output: what is stored may declare an encoding, which does not travel
  kOutput = 26
};

struct Known {
  Oid type;
  Rule rule;
  uint8 width; // kFixed: bytes, kDoubles: how many
};

constexpr Known kKnown[] = {
    {BOOLOID, Rule::kFixed, 1}, {CHAROID, Rule::kFixed, 1}, {INT2OID, Rule::kFixed, 2}, {INT4OID, Rule::kFixed, 4},
    {INT8OID, Rule::kFixed, 8}, {OIDOID, Rule::kFixed, 4}, {XIDOID, Rule::kFixed, 4}, {CIDOID, Rule::kFixed, 4},
    {XID8OID, Rule::kFixed, 8}, {PG_LSNOID, Rule::kFixed, 8}, {DATEOID, Rule::kFixed, 4}, {TIMEOID, Rule::kFixed, 8},
    {TIMESTAMPOID, Rule::kFixed, 8}, {TIMESTAMPTZOID, Rule::kFixed, 8}, {MONEYOID, Rule::kFixed, 8},
    {FLOAT4OID, Rule::kFloat4, 4}, {FLOAT8OID, Rule::kFloat8, 8},
    {POINTOID, Rule::kDoubles, 2}, {LINEOID, Rule::kDoubles, 3}, {CIRCLEOID, Rule::kDoubles, 3}, {LSEGOID, Rule::kDoubles, 4}, {BOXOID, Rule::kDoubles, 4},
    {UUIDOID, Rule::kUuid, 16}, {MACADDROID, Rule::kMacaddr, 6}, {MACADDR8OID, Rule::kMacaddr8, 8}, {INTERVALOID, Rule::kInterval, 16},
    {TIMETZOID, Rule::kTimeTz, 12}, {TIDOID, Rule::kTid, 6},
    {NAMEOID, Rule::kName, 0}, {TEXTOID, Rule::kText, 0}, {VARCHAROID, Rule::kText, 0}, {BPCHAROID, Rule::kText, 0}, {JSONOID, Rule::kText, 0},
    {BYTEAOID, Rule::kBytes, 0}, {BITOID, Rule::kBits, 0}, {VARBITOID, Rule::kBits, 0}, {INETOID, Rule::kInet, 0},
    {CIDROID, Rule::kInet, 0}, {PATHOID, Rule::kPath, 0}, {POLYGONOID, Rule::kPolygon, 0}, {NUMERICOID, Rule::kNumeric, 0}, {JSONBOID, Rule::kJsonb, 0},
};

struct Field {
  const char *name; // UTF-8
  AttrNumber attno;
  CanonicalType *type;
};

/// A database in SQL_ASCII does not know what it has.
bool is_converted() { return GetDatabaseEncoding() != PG_UTF8 && GetDatabaseEncoding() != PG_SQL_ASCII; }

/// Bytes of the server's encoding as UTF-8.
struct Utf8 {
  core::ByteSpan bytes;
  const char *converted; // palloc'd, or nullptr
};

Utf8 to_utf8(const char *text, Size size) {
  const char *converted = text;
  if (is_converted() && size > 0)
    converted = pg_server_to_any(text, static_cast<int>(size), PG_UTF8);
  if (converted == text)
    return {{reinterpret_cast<const uint8 *>(text), size}, nullptr};
  return {{reinterpret_cast<const uint8 *>(converted), strlen(converted)}, converted};
}

/// For what is short, and for plans: the copy stays in the current context.
core::ByteSpan as_utf8(const char *text, Size size) { return to_utf8(text, size).bytes; }

void done_with(const Utf8 &text) {
  if (text.converted != nullptr)
    pfree(const_cast<char *>(text.converted));
}

std::string_view as_view(core::ByteSpan bytes) { return {reinterpret_cast<const char *>(bytes.data()), bytes.size()}; }

} // namespace

struct CanonicalType {
  Oid type; // what a domain is made of
  int32 typmod;
  Rule rule;
  uint8 width;
  FmgrInfo output;         // kOutput, kEnum
  bool output_varlena;
  CanonicalType *element;  // kArray, kRange, kMultirange (its ranges)
  int16 element_length;
  bool element_by_value;
  char element_align;
  Field *fields;           // kComposite, by name in the order of bytes
  int field_count;
  TupleDesc row;           // of the composite type, as it was planned
  mutable uint64 row_identifier; // of the last look
  TypeCacheEntry *range;   // kRange; kMultirange: of its ranges
};

namespace {

int compare_fields(const void *a, const void *b) {
  return strcmp(static_cast<const Field *>(a)->name, static_cast<const Field *>(b)->name);
}

void plan_composite(CanonicalType *plan) {
  const TypeCacheEntry *entry = lookup_type_cache(plan->type, TYPECACHE_TUPDESC);
  if (entry->tupDesc == nullptr)
    ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("type %s is not composite", format_type_be(plan->type)));
  plan->row = CreateTupleDescCopy(entry->tupDesc);
  plan->row_identifier = entry->tupDesc_identifier;
  plan->fields = static_cast<Field *>(palloc0(sizeof(Field) * static_cast<Size>(Max(plan->row->natts, 1))));
  for (int i = 0; i < plan->row->natts; i++) {
    const Form_pg_attribute attribute = TupleDescAttr(plan->row, i);
    if (attribute->attisdropped)
      continue;
    plan->fields[plan->field_count++] = {utf8_name(NameStr(attribute->attname)), static_cast<AttrNumber>(i + 1),
                                         make_canonical(attribute->atttypid, attribute->atttypmod)};
  }
  qsort(plan->fields, static_cast<size_t>(plan->field_count), sizeof(Field), compare_fields);
}

void plan_output(CanonicalType *plan) {
  Oid function;
  getTypeOutputInfo(plan->type, &function, &plan->output_varlena);
  fmgr_info(function, &plan->output);
}

} // namespace

const char *utf8_name(const char *name) {
  const core::ByteSpan bytes = as_utf8(name, strlen(name));
  return pnstrdup(reinterpret_cast<const char *>(bytes.data()), bytes.size());
}

CanonicalType *make_canonical(Oid type, int32 typmod) {
  check_stack_depth();
  auto *plan = static_cast<CanonicalType *>(palloc0(sizeof(CanonicalType)));
  plan->typmod = typmod;
  plan->type = getBaseTypeAndTypmod(type, &plan->typmod);
  for (const Known &known : kKnown)
    if (known.type == plan->type) {
      plan->rule = known.rule;
      plan->width = known.width;
      return plan;
    }
  if (const Oid element = get_element_type(plan->type); OidIsValid(element)) {
    plan->rule = Rule::kArray;
    plan->element = make_canonical(element, plan->typmod);
    get_typlenbyvalalign(element, &plan->element_length, &plan->element_by_value, &plan->element_align);
    return plan;
  }
  if (plan->type == XMLOID) {
    plan->rule = Rule::kXml;
    plan_output(plan);
    return plan;
  }
  switch (get_typtype(plan->type)) {
  case TYPTYPE_ENUM:
    plan->rule = Rule::kEnum;
    plan_output(plan);
    break;
  case TYPTYPE_COMPOSITE:
    plan->rule = Rule::kComposite;
    plan_composite(plan);
    break;
  case TYPTYPE_RANGE:
    plan->rule = Rule::kRange;
    plan->range = lookup_type_cache(plan->type, TYPECACHE_RANGE_INFO);
    plan->element = make_canonical(plan->range->rngelemtype->type_id, -1);
    break;
  case TYPTYPE_MULTIRANGE:
    plan->rule = Rule::kMultirange;
    plan->range = lookup_type_cache(plan->type, TYPECACHE_MULTIRANGE_INFO)->rngtype;
    plan->element = make_canonical(plan->range->type_id, -1);
    break;
  default:
    plan->rule = Rule::kOutput;
    plan_output(plan);
  }
  return plan;
}

static bool is_string(Oid type) {
  char category;
  bool preferred;
  get_type_category_preferred(type, &category, &preferred);
  return category == TYPCATEGORY_STRING;
}

void describe_canonical(core::Buffer *out, const CanonicalType *type) {
  out->u8(static_cast<uint8>(type->rule));
  switch (type->rule) {
  case Rule::kArray:
  case Rule::kRange:
  case Rule::kMultirange:
    describe_canonical(out, type->element);
    return;
  case Rule::kComposite:
    out->varint(static_cast<uint64>(type->field_count));
    for (int i = 0; i < type->field_count; i++) {
      out->text(type->fields[i].name);
      describe_canonical(out, type->fields[i].type);
    }
    return;
  case Rule::kText: // all of them are what stands there; but what char(n) has is padded to its length
    out->text(type->type == BPCHAROID ? "char" : type->type == JSONOID ? "json" : "text");
    if (type->type == BPCHAROID)
      out->i64(type->typmod);
    return;
  default:
    break;
  }
  if (type->type == BITOID)
    out->i64(type->typmod);
  if (type->rule == Rule::kOutput && !is_string(type->type)) // hstore and tsvector keep their parts in the order of the encoding's bytes
    out->text(GetDatabaseEncodingName());
  char *name = format_type_be_qualified(type->type);
  out->text(as_view(as_utf8(name, strlen(name))));
}

Size raw_width(const CanonicalType *type) {
  switch (type->rule) {
  case Rule::kFixed:
  case Rule::kUuid:
  case Rule::kMacaddr:
  case Rule::kMacaddr8:
    return type->width;
  default:
    return 0;
  }
}

namespace {

/// By value, as a number of its width.
void put_fixed(core::Buffer *out, uint8 width, Datum value) {
  const auto whole = static_cast<uint64>(width == 8 ? DatumGetInt64(value) : static_cast<int64>(value));
  out->bytes(&whole, width);
}

core::ByteSpan bytes_behind(Datum value, Size size) { return {reinterpret_cast<const uint8 *>(DatumGetPointer(value)), size}; }

} // namespace

void write_raw(core::Buffer *out, const CanonicalType *type, Datum value) {
  if (type->rule == Rule::kFixed)
    put_fixed(out, type->width, value);
  else
    out->bytes(DatumGetPointer(value), type->width);
}

namespace {

// ---- values that may be large -------------------------------------------------------------------------

/// In pieces, so that they stand in memory once.
void put_bytes(core::RowHasher *hasher, core::ByteSpan value) {
  canonical::begin_bytes(*hasher->row(), value.size());
  for (Size at = 0; at < value.size(); at += kSlice) {
    const Size piece = Min(kSlice, value.size() - at);
    hasher->row()->bytes(value.data() + at, piece);
    hasher->spill();
  }
}

/// A varlena as it is: in slices where it lies outside of the row and is not compressed.
void write_stored_bytes(core::RowHasher *hasher, Datum value) {
  core::Buffer *out = hasher->row();
  auto *stored = reinterpret_cast<struct varlena *>(DatumGetPointer(value));
  if (VARATT_IS_EXTERNAL_ONDISK(stored)) {
    struct varatt_external pointer;
    VARATT_EXTERNAL_GET_POINTER(pointer, stored);
    const Size size = static_cast<Size>(pointer.va_rawsize) - VARHDRSZ;
    if (!VARATT_EXTERNAL_IS_COMPRESSED(pointer) && size > kSlice) {
      canonical::begin_bytes(*out, size);
      for (Size at = 0; at < size; at += kSlice) {
        CHECK_FOR_INTERRUPTS();
        struct varlena *slice = detoast_attr_slice(stored, static_cast<int32>(at), static_cast<int32>(Min(kSlice, size - at)));
        out->bytes(VARDATA_ANY(slice), VARSIZE_ANY_EXHDR(slice));
        pfree(slice);
        hasher->spill();
      }
      return;
    }
  }
  auto *flat = reinterpret_cast<struct varlena *>(PG_DETOAST_DATUM_PACKED(value));
  put_bytes(hasher, {reinterpret_cast<const uint8 *>(VARDATA_ANY(flat)), VARSIZE_ANY_EXHDR(flat)});
  if (flat != stored)
    pfree(flat);
}

void write_text(core::RowHasher *hasher, Datum value) {
  if (!is_converted()) {
    write_stored_bytes(hasher, value);
    return;
  }
  auto *flat = reinterpret_cast<struct varlena *>(PG_DETOAST_DATUM_PACKED(value));
  const Utf8 text = to_utf8(VARDATA_ANY(flat), VARSIZE_ANY_EXHDR(flat));
  put_bytes(hasher, text.bytes);
  done_with(text);
  if (PointerGetDatum(flat) != value)
    pfree(flat);
}

// ---- numbers ------------------------------------------------------------------------------------------

/// Through the send function: what lies on disk is numeric.c's own affair.
struct Sent {
  canonical::Numeric number;
  int16 *digits;
};

Sent sent_numeric(Datum value) {
  constexpr uint16 kNegative = 0x4000, kNan = 0xC000, kInfinity = 0xD000, kMinusInfinity = 0xF000;
  bytea *bytes = DatumGetByteaPP(DirectFunctionCall1(numeric_send, value));
  core::ByteSpan sent{reinterpret_cast<const uint8 *>(VARDATA_ANY(bytes)), VARSIZE_ANY_EXHDR(bytes)};
  const auto at = [&](Size i) { return static_cast<uint16>(sent[i * 2] << 8 | sent[i * 2 + 1]); };
  Sent out = {};
  const uint16 sign = at(2);
  out.number.count = at(0);
  out.number.weight = static_cast<int16>(at(1));
  out.number.scale = at(3);
  out.number.negative = sign == kNegative;
  out.number.kind = sign == kNan             ? canonical::NumericKind::kNan
                    : sign == kInfinity      ? canonical::NumericKind::kInfinity
                    : sign == kMinusInfinity ? canonical::NumericKind::kMinusInfinity
                                             : canonical::NumericKind::kFinite;
  out.digits = static_cast<int16 *>(palloc(sizeof(int16) * Max(out.number.count, 1U)));
  for (Size i = 0; i < out.number.count; i++)
    out.digits[i] = static_cast<int16>(at(4 + i));
  out.number.digits = out.digits;
  pfree(bytes); // never the argument; and it has a whole kilobyte
  return out;
}

// ---- jsonb --------------------------------------------------------------------------------------------

struct Pair {
  Utf8 key;
  core::Buffer value;
};

int compare_pairs(const void *a, const void *b) {
  const core::ByteSpan x = static_cast<const Pair *>(a)->key.bytes, y = static_cast<const Pair *>(b)->key.bytes;
  if (x.size() != y.size())
    return x.size() < y.size() ? -1 : 1;
  return memcmp(x.data(), y.data(), x.size());
}

void write_scalar(core::Buffer *out, const JsonbValue &value) {
  switch (value.type) {
  case jbvNull:
    canonical::json_null(*out);
    break;
  case jbvBool:
    canonical::json_bool(*out, value.val.boolean);
    break;
  case jbvNumeric: {
    const Sent sent = sent_numeric(NumericGetDatum(value.val.numeric));
    canonical::json_numeric(*out, sent.number);
    pfree(sent.digits);
    break;
  }
  case jbvString:
    {
      const Utf8 text = to_utf8(value.val.string.val, static_cast<Size>(value.val.string.len));
      canonical::json_string(*out, as_view(text.bytes));
      done_with(text);
    }
    break;
  default:
    elog(ERROR, "unexpected value in a jsonb");
  }
}

void write_container(core::Buffer *out, JsonbContainer *container);

void write_json(core::Buffer *out, const JsonbValue &value) {
  if (value.type == jbvBinary)
    write_container(out, value.val.binary.data);
  else
    write_scalar(out, value);
}

/// The server's order of keys is by length, then bytes, in its own encoding: in UTF-8 that is the canonical one.
void write_container(core::Buffer *out, JsonbContainer *container) {
  check_stack_depth();
  const bool reorder = is_converted();
  JsonbIterator *iterator = JsonbIteratorInit(container);
  JsonbValue value;
  Pair *pairs = nullptr;
  int count = 0;
  for (JsonbIteratorToken token; (token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE;) {
    CHECK_FOR_INTERRUPTS();
    switch (token) {
    case WJB_BEGIN_ARRAY:
      if (!value.val.array.rawScalar)
        canonical::json_array(*out, static_cast<uint32>(value.val.array.nElems));
      break;
    case WJB_BEGIN_OBJECT:
      canonical::json_object(*out, static_cast<uint32>(value.val.object.nPairs));
      if (reorder)
        pairs = static_cast<Pair *>(
            MemoryContextAllocExtended(CurrentMemoryContext, sizeof(Pair) * static_cast<Size>(Max(value.val.object.nPairs, 1)), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
      break;
    case WJB_KEY: {
      const Utf8 key = to_utf8(value.val.string.val, static_cast<Size>(value.val.string.len));
      if (pairs != nullptr) {
        pairs[count].key = key;
        scan::init_buffer(&pairs[count].value, CurrentMemoryContext);
      } else
        canonical::json_key(*out, as_view(key.bytes));
      break;
    }
    case WJB_VALUE:
      write_json(pairs != nullptr ? &pairs[count++].value : out, value);
      break;
    case WJB_ELEM:
      write_json(out, value);
      break;
    default:
      break;
    }
  }
  if (pairs == nullptr)
    return;
  qsort(pairs, static_cast<size_t>(count), sizeof(Pair), compare_pairs);
  for (int i = 0; i < count; i++) {
    canonical::json_key(*out, as_view(pairs[i].key.bytes));
    out->bytes(pairs[i].value.data, pairs[i].value.size);
    done_with(pairs[i].key);
    pfree(pairs[i].value.data);
  }
  pfree(pairs);
}

// ---- values made of others ----------------------------------------------------------------------------

void write_array(core::RowHasher *hasher, const CanonicalType *type, Datum value) {
  ArrayType *array = DatumGetArrayTypeP(value);
  canonical::begin_array(*hasher->row(), static_cast<uint32>(ARR_NDIM(array)), ARR_DIMS(array), ARR_LBOUND(array));
  Datum *elements;
  bool *nulls;
  int count;
  deconstruct_array(array, ARR_ELEMTYPE(array), type->element_length, type->element_by_value, type->element_align, &elements, &nulls, &count);
  for (int i = 0; i < count; i++) {
    CHECK_FOR_INTERRUPTS();
    write_canonical(hasher, type->element, elements[i], nulls[i]);
  }
}

/// An invalidation makes the cache forget what it knows; that need not mean that anything has changed.
bool same_row(TupleDesc a, TupleDesc b) {
  if (a->natts != b->natts)
    return false;
  for (int i = 0; i < a->natts; i++) {
    const Form_pg_attribute x = TupleDescAttr(a, i), y = TupleDescAttr(b, i);
    if (x->attisdropped != y->attisdropped || x->atttypid != y->atttypid || namestrcmp(&x->attname, NameStr(y->attname)) != 0)
      return false;
  }
  return true;
}

void write_composite(core::RowHasher *hasher, const CanonicalType *type, Datum value) {
  if (const TypeCacheEntry *entry = lookup_type_cache(type->type, TYPECACHE_TUPDESC); entry->tupDesc_identifier != type->row_identifier) {
    if (entry->tupDesc == nullptr || !same_row(entry->tupDesc, type->row))
      ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("type %s has changed", format_type_be(type->type)));
    type->row_identifier = entry->tupDesc_identifier;
  }
  HeapTupleHeader header = DatumGetHeapTupleHeader(value);
  HeapTupleData tuple = {};
  tuple.t_len = HeapTupleHeaderGetDatumLength(header);
  tuple.t_data = header;
  auto *values = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<Size>(Max(type->row->natts, 1))));
  auto *nulls = static_cast<bool *>(palloc(sizeof(bool) * static_cast<Size>(Max(type->row->natts, 1))));
  heap_deform_tuple(&tuple, type->row, values, nulls);
  canonical::begin_composite(*hasher->row(), static_cast<uint32>(type->field_count));
  for (int i = 0; i < type->field_count; i++) {
    const Field &field = type->fields[i];
    canonical::field(*hasher->row(), field.name);
    write_canonical(hasher, field.type, values[field.attno - 1], nulls[field.attno - 1]);
  }
}

void write_range(core::RowHasher *hasher, TypeCacheEntry *cache, const CanonicalType *element, const RangeType *range) {
  RangeBound lower, upper;
  bool empty;
  range_deserialize(cache, range, &lower, &upper, &empty);
  uint8 flags = empty ? canonical::kEmpty : 0;
  if (!empty) {
    if (lower.infinite || lower.inclusive)
      flags |= lower.infinite ? canonical::kLowerInfinite : canonical::kLowerInclusive;
    if (upper.infinite || upper.inclusive)
      flags |= upper.infinite ? canonical::kUpperInfinite : canonical::kUpperInclusive;
  }
  canonical::begin_range(*hasher->row(), flags);
  if (empty)
    return;
  if (!lower.infinite)
    write_canonical(hasher, element, lower.val, false);
  if (!upper.infinite)
    write_canonical(hasher, element, upper.val, false);
}

void write_multirange(core::RowHasher *hasher, const CanonicalType *type, Datum value) {
  int32 count;
  RangeType **ranges;
  multirange_deserialize(type->range, DatumGetMultirangeTypeP(value), &count, &ranges);
  canonical::begin_multirange(*hasher->row(), static_cast<uint32>(count));
  for (int i = 0; i < count; i++)
    write_range(hasher, type->range, type->element->element, ranges[i]);
}

// ---- the rest of the built-in types -------------------------------------------------------------------

void put_points(core::Buffer *out, const Point *points, int count) {
  for (int i = 0; i < count; i++) {
    out->u64(canonical::real_bits(points[i].x));
    out->u64(canonical::real_bits(points[i].y));
  }
}

void write_path(core::Buffer *out, Datum value) {
  const PATH *path = DatumGetPathP(value);
  canonical::begin_bytes(*out, 1 + sizeof(Point) * static_cast<Size>(path->npts));
  out->u8(path->closed != 0 ? 1 : 0);
  put_points(out, path->p, path->npts);
}

void write_polygon(core::Buffer *out, Datum value) {
  const POLYGON *polygon = DatumGetPolygonP(value);
  canonical::begin_bytes(*out, sizeof(Point) * static_cast<Size>(polygon->npts));
  put_points(out, polygon->p, polygon->npts);
}

void write_inet(core::Buffer *out, Datum value) {
  inet *address = DatumGetInetPP(value);
  const bool six = ip_family(address) != PGSQL_AF_INET;
  canonical::begin_bytes(*out, 2 + (six ? 16 : 4));
  out->u8(six ? 6 : 4);
  out->u8(ip_bits(address));
  out->bytes(ip_addr(address), six ? 16 : 4);
}

void write_bits(core::Buffer *out, Datum value) {
  const VarBit *bits = DatumGetVarBitP(value);
  canonical::begin_bytes(*out, sizeof(uint32) + VARBITBYTES(bits));
  out->u32(static_cast<uint32>(VARBITLEN(bits)));
  out->bytes(VARBITS(bits), VARBITBYTES(bits));
}

void write_interval(core::Buffer *out, const Interval *interval) {
  uint8 packed[16];
  memcpy(packed, &interval->time, 8);
  memcpy(packed + 8, &interval->day, 4);
  memcpy(packed + 12, &interval->month, 4);
  canonical::fixed(*out, core::ByteSpan(packed));
}

void write_timetz(core::Buffer *out, const TimeTzADT *time) {
  uint8 packed[12];
  memcpy(packed, &time->time, 8);
  memcpy(packed + 8, &time->zone, 4);
  canonical::fixed(*out, core::ByteSpan(packed));
}

void write_doubles(core::Buffer *out, uint8 count, Datum value) {
  double numbers[4];
  uint64 bits[4];
  memcpy(numbers, DatumGetPointer(value), sizeof(double) * count);
  for (int i = 0; i < count; i++)
    bits[i] = canonical::real_bits(numbers[i]);
  canonical::fixed(*out, {reinterpret_cast<const uint8 *>(bits), sizeof(uint64) * count});
}

void write_fixed(core::Buffer *out, uint8 width, Datum value) {
  canonical::tag(*out, canonical::Tag::kFixed);
  out->u8(width);
  put_fixed(out, width, value);
}

} // namespace

void write_canonical(core::RowHasher *hasher, const CanonicalType *type, Datum value, bool is_null) {
  core::Buffer *out = hasher->row();
  if (is_null) {
    canonical::null(*out);
    return;
  }
  switch (type->rule) {
  case Rule::kFixed:
    write_fixed(out, type->width, value);
    break;
  case Rule::kFloat4:
    canonical::real(*out, DatumGetFloat4(value));
    break;
  case Rule::kFloat8:
    canonical::real(*out, DatumGetFloat8(value));
    break;
  case Rule::kDoubles:
    write_doubles(out, type->width, value);
    break;
  case Rule::kUuid:
  case Rule::kMacaddr:
  case Rule::kMacaddr8:
  case Rule::kTid:
    canonical::fixed(*out, bytes_behind(value, type->width));
    break;
  case Rule::kInterval:
    write_interval(out, DatumGetIntervalP(value));
    break;
  case Rule::kTimeTz:
    write_timetz(out, DatumGetTimeTzADTP(value));
    break;
  case Rule::kName:
    canonical::bytes(*out, as_utf8(NameStr(*DatumGetName(value)), strlen(NameStr(*DatumGetName(value)))));
    break;
  case Rule::kText:
    write_text(hasher, value);
    break;
  case Rule::kBytes:
    write_stored_bytes(hasher, value);
    break;
  case Rule::kBits:
    write_bits(out, value);
    break;
  case Rule::kInet:
    write_inet(out, value);
    break;
  case Rule::kPath:
    write_path(out, value);
    break;
  case Rule::kPolygon:
    write_polygon(out, value);
    break;
  case Rule::kNumeric: {
    const Sent sent = sent_numeric(value);
    canonical::numeric(*out, sent.number);
    pfree(sent.digits);
    break;
  }
  case Rule::kJsonb:
    canonical::begin_json(*out);
    write_container(out, &DatumGetJsonbP(value)->root);
    break;
  case Rule::kEnum:
  case Rule::kXml:
  case Rule::kOutput: {
    char *text = OutputFunctionCall(const_cast<FmgrInfo *>(&type->output),
                                    type->output_varlena ? PointerGetDatum(PG_DETOAST_DATUM(value)) : value);
    const Utf8 shown = to_utf8(text, strlen(text));
    canonical::text(*out, shown.bytes);
    done_with(shown);
    pfree(text);
    break;
  }
  case Rule::kArray:
    write_array(hasher, type, value);
    break;
  case Rule::kComposite:
    write_composite(hasher, type, value);
    break;
  case Rule::kRange:
    write_range(hasher, type->range, type->element, DatumGetRangeTypeP(value));
    break;
  case Rule::kMultirange:
    write_multirange(hasher, type, value);
    break;
  }
  hasher->spill();
}

void collect_canonical(core::Buffer *out, const CanonicalType *type, Datum value, bool is_null) {
  core::RowHasher hasher;
  hasher.open(nullptr, out);
  write_canonical(&hasher, type, value, is_null);
}

int pin_settings() {
  const int level = NewGUCNestLevel();
  constexpr const char *kPinned[][2] = {{"DateStyle", "ISO, YMD"}, {"IntervalStyle", "postgres"}, {"TimeZone", "UTC"}, {"extra_float_digits", "1"},
                                        {"bytea_output", "hex"}, {"xmlbinary", "base64"}, {"lc_monetary", "C"}, {"quote_all_identifiers", "off"},
                                        {"search_path", "pg_catalog, pg_temp"}};
  for (const auto &pinned : kPinned)
    (void)set_config_option(pinned[0], pinned[1], PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
  return level;
}

} // namespace seal_sync::reconcile

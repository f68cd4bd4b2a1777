// See value_codec.hpp.
#include "apply/value_codec.hpp"

#include "apply/reply.hpp"
#include "pg/varlena.hpp"

extern "C" {
#include "utils/date.h"
}

namespace seal_sync::apply {

using core::wire::ColumnClass;

namespace {

/// Width of the types that may travel as their bytes; 0: none.
uint8 fixed_width(Oid type) {
  switch (type) {
  case BOOLOID:
  case CHAROID:
    return 1;
  case INT2OID:
    return 2;
  case INT4OID:
  case OIDOID:
  case FLOAT4OID:
  case DATEOID:
    return 4;
  case INT8OID:
  case FLOAT8OID:
  case TIMEOID:
  case TIMESTAMPOID:
  case TIMESTAMPTZOID:
  case MONEYOID:
    return 8;
  case UUIDOID:
    return 16;
  default:
    return 0;
  }
}

template <typename T> T load(core::ByteSpan bytes) {
  T value;
  memcpy(&value, bytes.data(), sizeof value);
  return value;
}

[[noreturn]] void out_of_range(Oid type) {
  ereport(ERROR, errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
          errmsg("value of type %s out of range", format_type_be(type)));
  pg_unreachable();
}

Datum decode_fixed(const ValueDecoder *decoder, core::ByteSpan bytes) {
  switch (decoder->type) {
  case BOOLOID:
    if (bytes[0] > 1)
      ereport(ERROR, errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
              errmsg("invalid value of type boolean"));
    return BoolGetDatum(bytes[0] == 1);
  case CHAROID:
    return CharGetDatum(static_cast<char>(bytes[0]));
  case INT2OID:
    return Int16GetDatum(load<int16>(bytes));
  case INT4OID:
    return Int32GetDatum(load<int32>(bytes));
  case OIDOID:
    return ObjectIdGetDatum(load<Oid>(bytes));
  case FLOAT4OID:
    return Float4GetDatum(load<float4>(bytes));
  case FLOAT8OID:
    return Float8GetDatum(load<float8>(bytes));
  case INT8OID:
  case MONEYOID:
    return Int64GetDatum(load<int64>(bytes));
  case DATEOID: {
    const auto date = load<DateADT>(bytes);
    if (!DATE_NOT_FINITE(date) && !IS_VALID_DATE(date))
      out_of_range(DATEOID);
    return DateADTGetDatum(date);
  }
  case TIMEOID: {
    auto time = load<TimeADT>(bytes);
    if (time < 0 || time > USECS_PER_DAY)
      out_of_range(TIMEOID);
    AdjustTimeForTypmod(&time, decoder->typmod);
    return TimeADTGetDatum(time);
  }
  case TIMESTAMPOID:
  case TIMESTAMPTZOID: {
    auto timestamp = load<Timestamp>(bytes);
    if (!TIMESTAMP_NOT_FINITE(timestamp) && !IS_VALID_TIMESTAMP(timestamp))
      out_of_range(decoder->type);
    if (decoder->typmod >= 0)
      (void)pg::adjust_timestamp(&timestamp, decoder->typmod);
    return TimestampGetDatum(timestamp);
  }
  default: // uuid: any 16 bytes, no alignment
    return PointerGetDatum(bytes.data());
  }
}

char *terminated(core::ByteSpan bytes) {
  char *const copy = static_cast<char *>(palloc(bytes.size() + 1));
  memcpy(copy, bytes.data(), bytes.size());
  copy[bytes.size()] = '\0';
  return copy;
}

/// Verified in the server's encoding; the same memory when nothing had to be converted.
core::ByteSpan to_server(core::ByteSpan bytes, int encoding) {
  const char *const text = reinterpret_cast<const char *>(bytes.data());
  const char *const converted = pg_any_to_server(text, static_cast<int>(bytes.size()), encoding);
  if (converted == text)
    return bytes;
  return {reinterpret_cast<const uint8 *>(converted), strlen(converted)};
}

Datum as_varlena(core::ByteSpan bytes) {
  if (bytes.size() > MaxAllocSize - VARHDRSZ)
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("value is too large"));
  return PointerGetDatum(pg::make_bytea(bytes));
}

/// Whether a text value is of the declared length as it is; otherwise the input function decides.
bool has_declared_length(const ValueDecoder *decoder, core::ByteSpan bytes) {
  if (decoder->typmod < static_cast<int32>(VARHDRSZ))
    return true;
  const std::size_t limit = static_cast<std::size_t>(decoder->typmod - VARHDRSZ);
  const char *const text = reinterpret_cast<const char *>(bytes.data());
  if (decoder->type == VARCHAROID)
    return bytes.size() <= limit ||
           static_cast<std::size_t>(pg_mbstrlen_with_len(text, static_cast<int>(bytes.size()))) <= limit;
  return static_cast<std::size_t>(pg_mbstrlen_with_len(text, static_cast<int>(bytes.size()))) == limit;
}

Datum decode_text(ValueDecoder *decoder, core::ByteSpan bytes) {
  const core::ByteSpan text = to_server(bytes, decoder->encoding);
  const bool plain = decoder->type == TEXTOID ||
                     ((decoder->type == VARCHAROID || decoder->type == BPCHAROID) &&
                      has_declared_length(decoder, text));
  if (plain)
    return as_varlena(text);
  // json is parsed, name is cut, lengths are enforced
  return InputFunctionCall(&decoder->input, terminated(text), decoder->io_param, decoder->typmod);
}

Datum decode_binary(ValueDecoder *decoder, core::ByteSpan bytes) {
  StringInfoData message;
  // Receive functions may rely on the terminating zero of a StringInfo.
  message.data = terminated(bytes);
  message.len = static_cast<int>(bytes.size());
  message.maxlen = message.len + 1;
  message.cursor = 0;
  const Datum value = ReceiveFunctionCall(&decoder->input, &message, decoder->io_param, decoder->typmod);
  if (message.cursor != message.len)
    ereport(ERROR, errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
            errmsg("incorrect binary data for type %s", format_type_be(decoder->type)));
  return value;
}

} // namespace

bool can_decode(ColumnClass cls, uint8 width, Oid type) {
  if (type >= FirstGenbkiObjectId)
    return cls == ColumnClass::kOutput;
  switch (cls) {
  case ColumnClass::kFixed:
    return width != 0 && fixed_width(type) == width;
  case ColumnClass::kBytes:
    return type == BYTEAOID;
  case ColumnClass::kText:
    return type == TEXTOID || type == VARCHAROID || type == BPCHAROID || type == JSONOID ||
           type == NAMEOID;
  case ColumnClass::kBinary: {
    HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
    if (!HeapTupleIsValid(tuple))
      return false;
    const auto *form = reinterpret_cast<Form_pg_type>(GETSTRUCT(tuple));
    const bool has_receive = OidIsValid(form->typreceive) && form->typtype != TYPTYPE_PSEUDO;
    ReleaseSysCache(tuple);
    return has_receive;
  }
  case ColumnClass::kOutput:
    return true;
  }
  return false;
}

void init_decoder(ValueDecoder *decoder, ColumnClass cls, uint8 width, Oid type, int32 typmod,
                  int encoding) {
  *decoder = {};
  decoder->cls = cls;
  decoder->width = width;
  decoder->type = type;
  decoder->typmod = typmod;
  decoder->encoding = encoding;
  Oid function = InvalidOid;
  if (cls == ColumnClass::kBinary)
    getTypeBinaryInputInfo(type, &function, &decoder->io_param);
  else if (cls == ColumnClass::kOutput || cls == ColumnClass::kText)
    getTypeInputInfo(type, &function, &decoder->io_param);
  if (OidIsValid(function))
    fmgr_info(function, &decoder->input);
}

void check_null(ValueDecoder *decoder) {
  if (decoder->cls == ColumnClass::kOutput && !decoder->input.fn_strict)
    (void)InputFunctionCall(&decoder->input, nullptr, decoder->io_param, decoder->typmod);
}

Datum decode_value(ValueDecoder *decoder, core::ByteSpan bytes) {
  if (bytes.size() > MaxAllocSize / 4) // conversion may need four times as much
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("value is too large"));
  switch (decoder->cls) {
  case ColumnClass::kFixed:
    return decode_fixed(decoder, bytes);
  case ColumnClass::kBytes:
    return as_varlena(bytes);
  case ColumnClass::kText:
    return decode_text(decoder, bytes);
  case ColumnClass::kBinary:
    return decode_binary(decoder, bytes);
  case ColumnClass::kOutput:
    break;
  }
  return InputFunctionCall(&decoder->input, terminated(to_server(bytes, decoder->encoding)),
                           decoder->io_param, decoder->typmod);
}

} // namespace seal_sync::apply

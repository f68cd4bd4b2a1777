#pragma once
// From the bytes of a wire class to a datum of a column's type.
//
// Called by apply for every value. Everything on the wire is hostile: fixed values are checked for
// their range, text for its encoding, binary values go through receive functions that must consume all
// of them, text values through input functions with the column's type modifier; domains check their
// constraints in their input function. Errors are data errors (class 22 or 23), except damage.
// Invariant: a datum never points into the received bytes unless its type needs no alignment.

#include "core/wire.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

struct ValueDecoder {
  core::wire::ColumnClass cls;
  uint8 width;
  Oid type;
  int32 typmod;
  int encoding;  // of the sender
  FmgrInfo input; // input or receive function; fn_oid InvalidOid where none is needed
  Oid io_param;
};

/// Whether values of a built-in type here may come in this class.
bool can_decode(core::wire::ColumnClass cls, uint8 width, Oid type);

void init_decoder(ValueDecoder *decoder, core::wire::ColumnClass cls, uint8 width, Oid type, int32 typmod,
                  int encoding);

/// Memory of the value: the current context, or `bytes`.
Datum decode_value(ValueDecoder *decoder, core::ByteSpan bytes);

/// Lets a domain refuse null.
void check_null(ValueDecoder *decoder);

} // namespace seal_sync::apply

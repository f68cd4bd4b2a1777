// See note_seal.hpp.
#include "scan/note_seal.hpp"

#include "config/config.hpp"

extern "C" {
#include "common/hmac.h"
#include "common/sha2.h"
}

namespace seal_sync::scan {

namespace {

struct Seal {
  uint8 bytes[PG_SHA256_DIGEST_LENGTH];
};

bytea *secret() {
  const Relation rel = table_open(config::own_relation("local_node"), AccessShareLock);
  const AttrNumber column = get_attnum(RelationGetRelid(rel), "secret");
  const SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr);
  const HeapTuple tuple = systable_getnext(scan);
  bytea *value = nullptr;
  if (HeapTupleIsValid(tuple)) {
    bool is_null;
    value = DatumGetByteaPCopy(heap_getattr(tuple, column, RelationGetDescr(rel), &is_null));
  }
  systable_endscan(scan);
  table_close(rel, AccessShareLock);
  if (value == nullptr)
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("this node has no identity"));
  return value;
}

Seal seal_of(core::ByteSpan body) {
  const bytea *key = secret();
  Seal seal;
  pg_hmac_ctx *hmac = pg_hmac_create(PG_SHA256);
  if (hmac == nullptr ||
      pg_hmac_init(hmac, reinterpret_cast<const uint8 *>(VARDATA_ANY(key)), VARSIZE_ANY_EXHDR(key)) < 0 ||
      pg_hmac_update(hmac, body.data(), body.size()) < 0 || pg_hmac_final(hmac, seal.bytes, sizeof seal.bytes) < 0)
    ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not seal the note of a stage"));
  pg_hmac_free(hmac);
  return seal;
}

} // namespace

void seal_note(core::Buffer *note) {
  const Seal seal = seal_of(note->span());
  note->bytes(seal.bytes, sizeof seal.bytes);
}

bool open_note(core::ByteSpan sealed, core::ByteSpan *body) {
  if (sealed.size() < sizeof(Seal))
    return false;
  *body = sealed.first(sealed.size() - sizeof(Seal));
  const Seal seal = seal_of(*body);
  uint8 differs = 0; // without a hint how far it is right
  for (size_t i = 0; i < sizeof seal.bytes; i++)
    differs = static_cast<uint8>(differs | (seal.bytes[i] ^ sealed[body->size() + i]));
  return differs == 0;
}

} // namespace seal_sync::scan

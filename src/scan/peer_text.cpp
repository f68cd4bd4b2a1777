// See peer_text.hpp.
#include "scan/peer_text.hpp"

#include "pg/boundary.hpp"

namespace seal_sync::scan {

namespace {

constexpr size_t kMostBytes = 4096;

void only_ascii(char *text) {
  for (; *text != '\0'; text++)
    if (IS_HIGHBIT_SET(*text))
      *text = '?';
}

} // namespace

char *peer_text(const Session *session, std::string_view text) {
  const size_t size = strnlen(text.data(), Min(text.size(), kMostBytes));
  char *copy = pnstrdup(text.data() == nullptr ? "" : text.data(), size);
  const int ours = GetDatabaseEncoding();
  int theirs = session->peer_encoding;
  if (!PG_VALID_BE_ENCODING(theirs) || ours == PG_SQL_ASCII)
    theirs = ours;
  if (pg_verify_mbstr(theirs, copy, static_cast<int>(size), true)) {
    if (theirs == ours)
      return copy;
    const Oid conversion = theirs == PG_SQL_ASCII ? InvalidOid : FindDefaultConversionProc(theirs, ours);
    if (OidIsValid(conversion)) {
      const int room = static_cast<int>(size) * MAX_CONVERSION_GROWTH + 1;
      auto *converted = static_cast<unsigned char *>(palloc(static_cast<Size>(room)));
      if (pg_do_encoding_conversion_buf(conversion, theirs, ours, reinterpret_cast<unsigned char *>(copy),
                                        static_cast<int>(size), converted, room, true) == static_cast<int>(size))
        return reinterpret_cast<char *>(converted);
    }
  }
  only_ascii(copy);
  return copy;
}

} // namespace seal_sync::scan

// See place.hpp.
#include "pg/place.hpp"

#include <sys/stat.h>
#include <unistd.h>

namespace seal_sync::pg {

namespace {

/// The n-th part of "inode|host|path"; the path comes last and may hold anything.
std::string_view part(std::string_view place, int number) {
  for (int i = 0; i < number; i++) {
    const size_t bar = place.find('|');
    if (bar == std::string_view::npos)
      return {};
    place.remove_prefix(bar + 1);
  }
  return number < 2 ? place.substr(0, place.find('|')) : place;
}

} // namespace

const char *place_here() {
  static char text[MAXPGPATH + 128];
  if (text[0] == '\0') {
    struct stat control = {};
    char host[65] = "";
    // Written in place for all its life, unlike the directory's other files.
    (void)stat("global/pg_control", &control); // the working directory of every server process is the data directory
    (void)gethostname(host, sizeof host - 1);
    snprintf(text, sizeof text, "%llu|%s|%s", static_cast<unsigned long long>(control.st_ino), host, DataDir);
  }
  return text;
}

int64 timeline_here() { return RecoveryInProgress() ? 0 : static_cast<int64>(GetWALInsertionTimeLine()); }

Move moved_from(const char *place, int64 timeline) {
  const int64 here = timeline_here();
  if (here == 0)
    return Move::kNone;
  const std::string_view then(place);
  const std::string_view now(place_here());
  if (part(then, 0) == part(now, 0) || (part(then, 1) == part(now, 1) && part(then, 2) == part(now, 2)))
    return Move::kNone;
  return here > timeline ? Move::kPromoted : Move::kCopy;
}

} // namespace seal_sync::pg

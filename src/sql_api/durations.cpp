// See durations.hpp.
#include "sql_api/durations.hpp"

namespace seal_sync::sql_api {

int64 to_milliseconds(const Interval *interval) {
  return interval->time / 1000 + (interval->day + int64{30} * interval->month) * int64{86400000};
}

std::string in_seconds(int64 milliseconds) {
  std::string text = std::to_string(milliseconds / 1000);
  if (milliseconds % 1000 != 0) {
    std::string fraction = std::to_string(1000 + milliseconds % 1000).substr(1);
    while (fraction.back() == '0')
      fraction.pop_back();
    text += "." + fraction;
  }
  return text + " s";
}

} // namespace seal_sync::sql_api

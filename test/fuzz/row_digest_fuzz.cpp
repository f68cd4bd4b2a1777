// A lookup table from the wire is hostile: reading and decoding it ends, stays inside its bounds, and says nothing or what accounts for
// the difference of the sums.
#include "core/row_digest.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

using namespace seal_sync::core;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  Reader in({data, size});
  const int bits = in.u8() % 7;
  const std::size_t key_bytes = in.u8() % 20;
  RunSeed seed = {};
  seed.bytes[0] = in.u8();
  RunSecret secret;
  make_secret(&secret, seed);
  DigestRoot ours, theirs;
  ours.sum = {in.u64(), in.u64()};
  ours.rows = in.u64();
  std::vector<LookupCell> cells(std::size_t{kLookupParts} << bits), mine(cells.size());
  LookupTable table{cells.data(), bits}, own{mine.data(), bits};
  // Some rows that are really there, so that peeling gets somewhere
  for (std::uint8_t left = in.u8() % 32; left > 0; left--) {
    const DigestedRow row{{{in.u64(), 0}}, {in.u64(), 0}};
    add(own, secret, row);
    ours.sum.low += row.hash.low;
    ours.rows++;
  }
  (void)read(in, table, key_bytes); // cut off: the rest of it is empty
  subtract(own, table);
  std::vector<LookupCell> before = mine;
  std::vector<DecodedRow> out(cells.size());
  std::vector<std::uint32_t> queue(cells.size());
  const auto count = decode(own, secret, ours, theirs, out, queue);
  if (!count)
    return 0;
  if (*count > out.size())
    std::abort();
  // What was decoded makes the table, and the sums
  std::vector<LookupCell> again(cells.size());
  LookupTable made{again.data(), bits}, other{before.data(), bits};
  std::uint64_t low = 0, rows = 0;
  for (std::size_t i = 0; i < *count; i++) {
    if (out[i].ours) {
      add(made, secret, {out[i].key, {out[i].hash, 0}});
      low += out[i].hash;
      rows++;
    } else {
      std::vector<LookupCell> one(cells.size());
      LookupTable single{one.data(), bits};
      add(single, secret, {out[i].key, {out[i].hash, 0}});
      subtract(made, single);
      low -= out[i].hash;
      rows--;
    }
  }
  subtract(made, other);
  if (!std::all_of(again.begin(), again.end(), [](const LookupCell &cell) { return cell.empty(); }) || low != ours.sum.low || rows != ours.rows)
    std::abort();
  return 0;
}

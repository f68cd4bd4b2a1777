// core/change_log_codec: keys packed into rows of the change log as capture does it, and walked as
// the scan does it. items_per_second counts keys, bytes_per_second the packed rows.
//
//   cmake -S . -B build && cmake --build build --target seal_sync_bench && build/seal_sync_bench
//   --benchmark_filter=log
//
// The argument is how many keys in a row share a run: all of a bulk statement's do, those of a
// transaction that goes from table to table do not.
#include "core/change_log_codec.hpp"

#include "micro_buffer.hpp"

#include <benchmark/benchmark.h>

using namespace seal_sync;
using bench::OwnBuffer;

namespace {

constexpr std::size_t kRowBytes = 8000; // as capture/key_buffer
const std::uint8_t kMask[1] = {0x02};

std::int64_t pack(OwnBuffer &row, std::int64_t keys_per_run) {
  core::ChangeRunWriter writer;
  core::ChangeRunWriter::begin_row(row);
  std::int64_t keys = 0;
  while (row.size < kRowBytes) {
    const auto root = static_cast<std::uint32_t>(16384 + keys / keys_per_run % 2);
    writer.select(row, core::ChangeKind::kUpdate, root, root, 1, kMask);
    row.u64(static_cast<std::uint64_t>(keys));
    writer.key_done(row);
    keys++;
  }
  return keys;
}

void log_encode(benchmark::State &state) {
  OwnBuffer row;
  std::int64_t keys = 0;
  for (auto _ : state) {
    keys += pack(row, state.range(0));
    benchmark::DoNotOptimize(row.data);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(keys);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(row.size));
}
BENCHMARK(log_encode)->Arg(1)->Arg(10)->Arg(1000000);

void log_decode(benchmark::State &state) {
  OwnBuffer row;
  const std::int64_t packed = pack(row, state.range(0));
  for (auto _ : state) {
    core::ChangeRunReader runs(row.span());
    core::ChangeRun run;
    std::uint64_t sum = 0;
    while (runs.next(run)) {
      core::Reader in(run.key_bytes);
      for (unsigned i = 0; i < run.keys; i++)
        sum += in.u64();
    }
    if (runs.damaged())
      state.SkipWithError("damaged");
    benchmark::DoNotOptimize(sum);
  }
  state.SetItemsProcessed(state.iterations() * packed);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(row.size));
}
BENCHMARK(log_decode)->Arg(1)->Arg(10)->Arg(1000000);

} // namespace

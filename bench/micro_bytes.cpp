// core/bytes: integers and short texts, written and read. items_per_second counts values.
//
//   cmake -S . -B build && cmake --build build --target seal_sync_bench && build/seal_sync_bench
//   --benchmark_filter=bytes
#include "core/bytes.hpp"

#include "micro_buffer.hpp"

#include <benchmark/benchmark.h>

using namespace seal_sync;
using bench::OwnBuffer;

namespace {

constexpr std::int64_t kValues = 1000;

/// Numbers of 1 to 10 bytes as a varint: the argument says how many bits.
std::uint64_t number(std::int64_t i, std::int64_t bits) {
  return (static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u) >> (64 - bits);
}

void bytes_write_varint(benchmark::State &state) {
  OwnBuffer out;
  for (auto _ : state) {
    out.size = 0;
    for (std::int64_t i = 0; i < kValues; i++)
      out.varint(number(i, state.range(0)));
    benchmark::DoNotOptimize(out.data);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kValues);
}
BENCHMARK(bytes_write_varint)->Arg(7)->Arg(20)->Arg(60);

void bytes_read_varint(benchmark::State &state) {
  OwnBuffer out;
  for (std::int64_t i = 0; i < kValues; i++)
    out.varint(number(i, state.range(0)));
  for (auto _ : state) {
    core::Reader in(out.span());
    std::uint64_t sum = 0;
    for (std::int64_t i = 0; i < kValues; i++)
      sum += in.varint();
    benchmark::DoNotOptimize(sum);
  }
  state.SetItemsProcessed(state.iterations() * kValues);
}
BENCHMARK(bytes_read_varint)->Arg(7)->Arg(20)->Arg(60);

void bytes_write_u64(benchmark::State &state) {
  OwnBuffer out;
  for (auto _ : state) {
    out.size = 0;
    for (std::int64_t i = 0; i < kValues; i++)
      out.u64(static_cast<std::uint64_t>(i));
    benchmark::DoNotOptimize(out.data);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kValues);
}
BENCHMARK(bytes_write_u64);

void bytes_read_u64(benchmark::State &state) {
  OwnBuffer out;
  for (std::int64_t i = 0; i < kValues; i++)
    out.u64(static_cast<std::uint64_t>(i));
  for (auto _ : state) {
    core::Reader in(out.span());
    std::uint64_t sum = 0;
    for (std::int64_t i = 0; i < kValues; i++)
      sum += in.u64();
    benchmark::DoNotOptimize(sum);
  }
  state.SetItemsProcessed(state.iterations() * kValues);
}
BENCHMARK(bytes_read_u64);

} // namespace

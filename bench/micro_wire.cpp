// core/wire: sections of narrow rows as they travel, written and walked, and the request that
// closes a batch. items_per_second counts rows (requests), bytes_per_second the chunk.
//
//   cmake -S . -B build && cmake --build build --target seal_sync_bench && build/seal_sync_bench
//   --benchmark_filter=wire
//
// The argument is how many rows a section has. What a row's values cost is not in it: that needs a
// server.
#include "core/wire.hpp"

#include "micro_buffer.hpp"

#include <benchmark/benchmark.h>
#include <string_view>

using namespace seal_sync;
using bench::OwnBuffer;
namespace wire = core::wire;

namespace {

constexpr std::size_t kChunkBytes = 256 * 1024; // as worker/route_batch
constexpr std::string_view kText = "row number 123456";

// bigint, int, text, timestamptz: a null bitmap, three fixed columns, one sized
void write_row(OwnBuffer &out, std::uint64_t id) {
  out.u8(0);
  out.u64(id);
  out.u32(static_cast<std::uint32_t>(id % 1000));
  out.text(kText);
  out.i64(static_cast<std::int64_t>(id));
}

std::int64_t write_chunk(OwnBuffer &out, std::int64_t rows_per_section) {
  out.size = 0;
  std::int64_t rows = 0;
  while (out.size < kChunkBytes) {
    out.u8('W');
    out.varint(1);
    out.varint(static_cast<std::uint64_t>(rows_per_section));
    const std::size_t size_at = out.size;
    out.u32(0);
    for (std::int64_t i = 0; i < rows_per_section; i++)
      write_row(out, static_cast<std::uint64_t>(rows++));
    out.patch<std::uint32_t>(size_at, static_cast<std::uint32_t>(out.size - size_at - 4));
  }
  return rows;
}

void wire_encode(benchmark::State &state) {
  OwnBuffer chunk;
  std::int64_t rows = 0;
  for (auto _ : state) {
    rows += write_chunk(chunk, state.range(0));
    benchmark::DoNotOptimize(chunk.data);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(rows);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(chunk.size));
}
BENCHMARK(wire_encode)->Arg(1)->Arg(1000);

void wire_decode(benchmark::State &state) {
  OwnBuffer chunk;
  const std::int64_t rows = write_chunk(chunk, state.range(0));
  for (auto _ : state) {
    wire::SectionReader sections(chunk.span());
    wire::Section section;
    std::uint64_t sum = 0;
    while (sections.next(section)) {
      core::Reader in(section.body);
      for (std::uint64_t i = 0; i < section.rows; i++) {
        sum += in.u8();
        sum += in.u64();
        sum += in.u32();
        sum += in.text().size();
        sum += static_cast<std::uint64_t>(in.i64());
      }
      if (!in.ok() || !in.at_end())
        state.SkipWithError("damaged");
    }
    if (sections.damaged())
      state.SkipWithError("damaged");
    benchmark::DoNotOptimize(sum);
  }
  state.SetItemsProcessed(state.iterations() * rows);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(chunk.size));
}
BENCHMARK(wire_decode)->Arg(1)->Arg(1000);

void wire_apply_request(benchmark::State &state) {
  OwnBuffer out;
  for (auto _ : state) {
    out.size = 0;
    wire::ApplyRequest request;
    request.batch = 123456;
    request.previous = 123455;
    request.rows = 10;
    wire::write(out, request);
    benchmark::DoNotOptimize(out.data);
    benchmark::ClobberMemory();
    wire::ApplyRequest back;
    core::Reader in(out.span());
    wire::read(in, back);
    benchmark::DoNotOptimize(back.rows);
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(wire_apply_request);

} // namespace

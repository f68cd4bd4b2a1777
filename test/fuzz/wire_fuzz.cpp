// Everything from the wire is hostile: no input may make the readers of core/wire misbehave.
#include "core/wire_sequences.hpp"

using namespace seal_sync::core;
using namespace seal_sync::core::wire;

namespace {
template <typename Message> void try_read(ByteSpan bytes) {
  Message message;
  Reader in(bytes);
  read(in, message);
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  const ByteSpan bytes(data, size);
  try_read<HelloRequest>(bytes);
  try_read<HelloReply>(bytes);
  try_read<ApplyRequest>(bytes);
  try_read<ApplyReply>(bytes);
  try_read<Refusal>(bytes);
  try_read<Standing>(bytes);
  try_read<StandingColumn>(bytes);
  try_read<HeartbeatReply>(bytes);
  try_read<StageUse>(bytes);
  try_read<StageRequest>(bytes);
  try_read<StageReply>(bytes);
  try_read<StageRecord>(bytes);
  try_read<StageDrop>(bytes);
  try_read<TableHead>(bytes);
  try_read<Column>(bytes);
  try_read<SlotClaim>(bytes);
  try_read<SplitClaim>(bytes);
  try_read<CarriedClaim>(bytes);
  try_read<SequencesRequest>(bytes);
  try_read<SequenceAnswer>(bytes);
  try_read<SequencesReply>(bytes);
  SectionReader sections(bytes);
  Section section;
  std::size_t total = 0;
  while (sections.next(section))
    for (const std::uint8_t byte : section.body)
      total += byte;
  return total == static_cast<std::size_t>(-1) ? 1 : 0;
}

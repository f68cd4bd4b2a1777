// See route_stages.hpp.
#include "worker/route_stages.hpp"

#include "pg/guc.hpp"
#include "pg/scopes.hpp"
#include "scan/copies.hpp"
#include "scan/note_seal.hpp"
#include "worker/bytes.hpp"

#include <algorithm>

namespace seal_sync::worker {

namespace wire = core::wire;

namespace {

std::size_t longest_note() { return guc::debug_part_size > 0 ? static_cast<std::size_t>(guc::debug_part_size) / 16 : 64 * 1024; }
constexpr int64 kFirstPauseUs = 10 * 1000 * 1000;
constexpr int64 kLongestPauseUs = 600 * 1000 * 1000LL;

} // namespace

void RouteStages::hold_back(Oid relation) {
  Refused &refused = refused_[relation];
  refused.pause_us = std::min(std::max(refused.pause_us * 2, kFirstPauseUs), kLongestPauseUs);
  refused.until_us = pg::monotonic_us() + refused.pause_us;
}

void RouteStages::forget() noexcept {
  for (const auto &stage : stages_) {
    scan::BaseMap *map = stage->map;
    pg::call_or_exit([map] { scan::drop_base_map(map); });
  }
  stages_.clear();
  loaded_ = 0;
}

void RouteStages::erase(const wire::Id &id) noexcept {
  for (auto stage = stages_.begin(); stage != stages_.end(); ++stage)
    if ((*stage)->id == id) {
      scan::BaseMap *map = (*stage)->map;
      pg::call_or_exit([map] { scan::drop_base_map(map); });
      stages_.erase(stage);
      return;
    }
}

Stage *RouteStages::find_backlog() noexcept {
  for (const auto &stage : stages_)
    if (stage->map->kind == core::StageKind::kBacklog)
      return stage.get();
  return nullptr;
}

Stage *RouteStages::copy(const wire::Id &id) noexcept {
  for (const auto &stage : stages_)
    if (stage->id == id && stage->map->kind == core::StageKind::kCopy)
      return stage.get();
  return nullptr;
}

void RouteStages::load() {
  if (!possible() || loaded_ == link_.hellos())
    return;
  forget();
  const remote::Bytes answer = link_.connection().call("wire_stages", pg::Deadline::in_ms(guc::reply_timeout));
  core::Reader reader(answer);
  std::vector<wire::Id> strange;
  for (std::uint64_t left = reader.varint(); left > 0 && reader.ok(); left--) {
    wire::StageRecord record;
    wire::read(reader, record);
    if (!reader.ok())
      break;
    pg::Transaction transaction;
    const bool follows = record.previous == link_.held().number && record.previous_id == link_.held().id;
    const char *peer = NameStr(link_.session()->peer);
    scan::BaseMap *map = pg::call([&]() -> scan::BaseMap * {
      core::ByteSpan body;
      if (!scan::open_note(record.note, &body))
        return nullptr;
      scan::BaseMap *read = scan::read_note(TopMemoryContext, body);
      if (read == nullptr)
        return nullptr;
      // Sealed for another stage, not of this content, or by a data directory that knew more than this one.
      if (read->stage == record.stage && read->chunks == record.chunks && read->rows == record.rows &&
          read->number <= scan::last_sent(peer).number)
        return read;
      scan::drop_base_map(read);
      return nullptr;
    });
    transaction.commit();
    if (map == nullptr || (map->kind == core::StageKind::kBacklog && (!follows || find_backlog() != nullptr))) {
      pg::call([map] { scan::drop_base_map(map); });
      strange.push_back(record.stage);
      continue;
    }
    auto stage = std::make_unique<Stage>();
    stage->id = record.stage;
    stage->map = map;
    stage->previous = record.previous;
    stage->previous_id = record.previous_id;
    stage->chunks = record.chunks;
    stage->rows = record.rows;
    stage->bytes = record.bytes;
    stages_.push_back(std::move(stage));
  }
  if (!reader.ok())
    throw core::Error("08P01", "the peer's answer about stages cannot be read");
  for (const wire::Id &id : strange)
    drop(id, pg::Deadline::in_ms(guc::reply_timeout));
  loaded_ = link_.hellos();
}

/// Stages that were good for tables or clusters as they were, and copies that nobody here asks for.
std::vector<wire::Id> RouteStages::of_no_use() {
  std::vector<wire::Id> out;
  pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
  const char *peer = NameStr(link_.session()->peer);
  struct Jobs {
    scan::CopyJob *jobs;
    int count;
    uint64 fingerprint;
  };
  const Jobs known = pg::call([&] {
    config::refresh();
    Jobs jobs = {};
    jobs.count = scan::load_copies(peer, &jobs.jobs);
    jobs.fingerprint = scan::session_fingerprint(link_.session());
    return jobs;
  });
  for (const auto &stage : stages_) {
    const scan::BaseMap *map = stage->map;
    bool good = pg::call([&] { return scan::still_good(map, known.fingerprint); });
    if (good && map->kind == core::StageKind::kCopy) {
      good = false;
      for (int i = 0; i < known.count; i++)
        good = good || (known.jobs[i].relation == map->relation && known.jobs[i].stage == stage->id);
    }
    if (!good)
      out.push_back(stage->id);
  }
  transaction.commit();
  return out;
}

void RouteStages::check() {
  load();
  if (stages_.empty())
    return;
  for (const wire::Id &id : of_no_use())
    drop(id, pg::Deadline::in_ms(guc::reply_timeout));
}

scan::Stages RouteStages::view(double inline_bytes) {
  scan::Stages out;
  copies_.clear();
  for (const auto &stage : stages_)
    if (stage->map->kind == core::StageKind::kBacklog)
      out.backlog = stage->map;
    else
      copies_.push_back({stage->id, stage->map});
  out.copies = copies_.data();
  out.copy_count = static_cast<int>(copies_.size());
  held_back_.clear();
  for (const auto &[relation, refused] : refused_)
    if (refused.until_us > pg::monotonic_us())
      held_back_.push_back(relation);
  out.held_back = held_back_.data();
  out.held_back_count = static_cast<int>(held_back_.size());
  out.stale_copy = stale_copy;
  out.inline_bytes = inline_bytes;
  return out;
}

Stage &RouteStages::begin(core::StageKind kind, Oid relation, std::uint32_t pass) {
  auto stage = std::make_unique<Stage>();
  if (!pg_strong_random(stage->id.bytes, sizeof stage->id.bytes))
    throw core::Error("XX000", "could not generate a random stage id");
  stage->previous = link_.held().number;
  stage->previous_id = link_.held().id;
  const scan::Session *session = link_.session();
  const wire::Id &id = stage->id;
  stage->map = pg::call([&] {
    scan::BaseMap *map = scan::make_base_map(TopMemoryContext, kind, relation, pass, scan::session_fingerprint(session));
    map->stage = id;
    return map;
  });
  stages_.push_back(std::move(stage));
  return *stages_.back();
}

void RouteStages::commit(Stage &stage, std::uint32_t pass, std::uint64_t chunks, std::uint64_t rows,
                         const pg::Deadline &deadline) {
  ByteBuffer note;
  core::Buffer *bytes = &*note;
  stage.map->number = link_.next_number() - 1;
  stage.map->chunks = stage.chunks + chunks;
  stage.map->rows = stage.rows + rows;
  pg::call([&] {
    // It travels, and is written anew over there, with each part.
    do {
      bytes->size = 0;
      scan::write_note(stage.map, bytes);
    } while (bytes->size > longest_note() && scan::shrink(stage.map));
    scan::seal_note(bytes);
  });
  wire::StageRequest request;
  request.generation = link_.generation();
  request.stage = stage.id;
  request.previous = stage.previous;
  request.previous_id = stage.previous_id;
  request.pass = pass;
  request.chunks = chunks;
  request.rows = rows;
  request.note = note->span();
  ByteBuffer message;
  wire::write(*message, request);
  const remote::Bytes answer = link_.connection().call("wire_stage", message->span(), deadline);
  core::Reader reader(answer);
  wire::StageReply reply;
  wire::read(reader, reply);
  if (!reader.ok())
    throw core::Error("08P01", "the peer's answer about a stage cannot be read");
  // How long the peer may take to apply it goes by this.
  if (reply.chunks != stage.map->chunks || reply.rows != stage.map->rows)
    throw core::Error("08P01", "the peer has staged something else than was sent");
  stage.chunks = reply.chunks;
  stage.rows = reply.rows;
  stage.bytes = reply.bytes;
}

void RouteStages::done(const wire::Id &id) noexcept { erase(id); }

void RouteStages::drop(const wire::Id &id, const pg::Deadline &deadline) {
  ByteBuffer request;
  wire::write(*request, wire::StageDrop{link_.generation(), id});
  (void)link_.connection().call("wire_stage_drop", request->span(), deadline);
  erase(id);
}

} // namespace seal_sync::worker

// See route_copy.hpp.
#include "worker/route_copy.hpp"

#include "pg/guc.hpp"
#include "pg/scopes.hpp"
#include "scan/copies.hpp"
#include "scan/keys.hpp"
#include "worker/bytes.hpp"
#include "worker/copy_waits.hpp"

#include <algorithm>

namespace seal_sync::worker {

namespace wire = core::wire;

namespace {

constexpr std::size_t kChunkBytes = 256 * 1024;
constexpr int64 kPartUs = 500 * 1000;
constexpr double kLeastPart = kChunkBytes;
constexpr double kMostPart = 64 * 1024 * 1024;

class Part {
public:
  Part(RouteLink &link, RouteStages &stages, RouteStatus &status, ToldProblems &told)
      : link_(link), stages_(stages), status_(status), told_(told) {}

  CopyPart run() {
    CopyPart out;
    if (!stages_.possible())
      return out;
    stages_.check();
    scan::CopyJob job;
    {
      pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
      const bool found = pg::call([&] {
        return scan::next_to_stage(link_.session(), stages_.view(inline_copy_bytes(link_)), &job);
      });
      transaction.commit();
      if (!found)
        return out;
    }
    out.any = true;
    stage_ = job.begun ? stages_.copy(job.stage) : nullptr;
    const bool fresh = stage_ == nullptr;
    if (fresh)
      stage_ = &stages_.begin(core::StageKind::kCopy, job.relation, 1);
    bool kept = false;
    try {
      kept = in_transaction(job, fresh, &out);
    } catch (const core::Error &error) {
      if (fresh)
        stages_.done(stage_->id);
      if (std::string_view(error.sqlstate()) != "53400") // seal_sync.max_stage_size there
        throw;
      stages_.hold_back(job.relation);
      stages_.load_again();
      waits_.add(job.job, "refused", error.message(), error.hint());
      link_.connection().put({}, deadline());
      link_.connection().finish_puts(deadline());
      note_waits();
      return out;
    } catch (...) {
      if (fresh)
        stages_.done(stage_->id);
      throw;
    }
    stages_.stale_copy = kept ? InvalidOid : job.relation;
    if (!kept && fresh)
      stages_.done(stage_->id);
    note_waits();
    return out;
  }

private:
  [[nodiscard]] static pg::Deadline deadline() { return pg::Deadline::in_ms(guc::reply_timeout); }

  /// False: nothing was staged.
  bool in_transaction(const scan::CopyJob &job, bool fresh, CopyPart *out) {
    pg::Transaction transaction;
    if (link_.claims_changed())
      return false; // the next scan says hello again
    scan::Batch *batch = pg::call([&] { return scan::open_copy(link_.session(), job.relation, stage_->map); });
    if (stale(batch))
      return false;
    describe_tables(link_, batch, status_, told_, deadline());
    if (stale(batch))
      return false;
    if (!pg::call([batch] { return scan::worth_shipping(batch); })) {
      waits_.remember(batch);
      finish(batch, transaction);
      return false;
    }
    // On disk before anything read under the snapshot leaves the node (trap T1).
    const std::uint64_t number = link_.next_number();
    pg::call([&] { scan::commit_to_history(batch, number, stage_->id); });
    link_.note_sent(number);
    const bool all = put_chunks(batch);
    if (stale(batch)) {
      link_.connection().put({}, deadline());
      link_.connection().finish_puts(deadline());
      return false;
    }
    const auto rows = static_cast<std::uint64_t>(pg::call([batch] { return scan::shipped_rows(batch); }));
    const std::uint32_t pass = stage_->map->pass;
    const bool fits = pg::call([&] {
      const scan::Reached to = scan::reached(batch);
      scan::note_tables(batch, stage_->map);
      if (OidIsValid(to.scope) && !scan::advance(stage_->map, to.scope, to.key, scan::position(batch)))
        return false;
      if (all)
        scan::finish_pass(stage_->map, scan::position(batch));
      return true;
    });
    if (!fits)
      throw core::Error("40001", "a table has changed while it was copied");
    // The peer first: no row here is locked while it is waited for. What is known there and not here is dropped, or goes on.
    stages_.commit(*stage_, pass, chunks_, rows, deadline());
    const bool mine = pg::call([&] {
      bool done = true;
      if (!job.begun)
        done = scan::begin_copy_job(job.job, stage_->id, link_.held().position);
      else if (fresh)
        done = scan::restart_copy_job(job.job, stage_->id);
      return done && scan::note_copied(job.job, scan::copy_rows_read(batch), static_cast<int64>(rows), static_cast<int64>(bytes_), all);
    });
    if (!mine) // taken out of the configuration meanwhile, perhaps not for good: the stage is dropped when it is known
      throw core::Error("55P03", "the copy of a table cannot be noted", "Somebody has changed it and not committed yet.");
    finish(batch, transaction);
    out->more = true;
    out->bytes = static_cast<int64>(bytes_);
    status_.update([&](pg::RouteSlot &slot) {
      slot.last_contact_at = GetCurrentTimestamp();
      slot.bytes_raw += static_cast<int64>(bytes_);
    });
    return true;
  }

  static bool stale(const scan::Batch *batch) {
    return pg::call([batch] { return scan::stale(batch); });
  }

  static void finish(scan::Batch *batch, pg::Transaction &transaction) {
    pg::call([batch] { scan::close(batch); });
    transaction.commit();
  }

  void note_waits() {
    if (waits_.empty())
      return;
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    waits_.note();
    transaction.commit();
  }

  /// True: to the end of the table.
  bool put_chunks(scan::Batch *batch) {
    const int64 began = pg::monotonic_us();
    core::Buffer chunk;
    pg::call([&] { scan::init_buffer(&chunk, CurrentMemoryContext); });
    bool more = true;
    const std::size_t chunk_bytes = guc::debug_part_size > 0 ? static_cast<std::size_t>(guc::debug_part_size) : kChunkBytes;
    if (guc::debug_part_size > 0)
      stages_.part_bytes = guc::debug_part_size;
    while (more && static_cast<double>(bytes_) < stages_.part_bytes && pg::monotonic_us() - began < kPartUs) {
      more = pg::call([&] { return scan::next_chunk(batch, &chunk, chunk_bytes); });
      if (stale(batch))
        return false;
      if (chunk.size == 0)
        continue;
      link_.connection().put(link_.packed(chunk.span()), deadline());
      chunks_++;
      bytes_ += chunk.size;
      chunk.size = 0;
    }
    link_.connection().finish_puts(deadline());
    const auto took = static_cast<double>(pg::monotonic_us() - began + 1);
    stages_.part_bytes = std::clamp(static_cast<double>(bytes_) * kPartUs / took, kLeastPart, kMostPart);
    return !more;
  }

  RouteLink &link_;
  RouteStages &stages_;
  RouteStatus &status_;
  ToldProblems &told_;
  Stage *stage_ = nullptr;
  CopyWaits waits_;
  std::uint64_t chunks_ = 0, bytes_ = 0;
};

} // namespace

CopyPart copy_part(RouteLink &link, RouteStages &stages, RouteStatus &status, ToldProblems &told) {
  return Part(link, stages, status, told).run();
}

} // namespace seal_sync::worker

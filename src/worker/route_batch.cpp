// See route_batch.hpp.
#include "worker/route_batch.hpp"

#include "pg/guc.hpp"
#include "pg/scopes.hpp"
#include "scan/base_map.hpp"
#include "scan/copies.hpp"
#include "scan/descriptor.hpp"
#include "scan/keys.hpp"
#include "worker/bytes.hpp"
#include "worker/copy_waits.hpp"

#include <optional>

namespace seal_sync::worker {

namespace wire = core::wire;

namespace {

constexpr std::size_t kChunkBytes = 256 * 1024;
constexpr std::size_t kInlineBytes = 32 * 1024; // up to here the last chunk travels inside wire_apply
constexpr int kMostRepeats = 50;
// A batch of more than so many chunks is applied while it is sent, if these went at that rate: on a slower
// link the peer's rows would be locked for as long as the transfer takes.
constexpr std::uint64_t kChunksFirst = 4;
constexpr double kFastBytesPerMs = 32 * 1024;
// A batch that has been on its way for seal_sync.stage_after is kept on the peer from then on, in parts of half that time (trap T13).
int64 stage_after_us() { return int64{guc::stage_after} * 1000; }
int64 stage_every_us() { return int64{guc::stage_after} * 500; }
constexpr double kInlineFar = 16e6;
constexpr double kInlineNear = 4e9;
// How fast a peer applies what is staged, at worst, and the longest that the snapshot is held for it.
constexpr double kStagedRowsPerMs = 5;
constexpr double kStagedBytesPerMs = 4096;
constexpr double kLongestApplyMs = 24 * 3600 * 1000.0;
constexpr int kMostNamed = 1024; // tables copied within a batch, stages activated by it

/// What an error of the peer means for the batch under way.
enum class Reaction { kPutWanted, kRepeat, kDescribeAgain, kPutAgain, kHelloAgain, kCareful, kGiveUp };

Reaction reaction_to(const core::Error &error) {
  const std::string_view state(error.sqlstate());
  if (state == wire::kNeedRows)
    return Reaction::kPutWanted;
  if (state == wire::kRepeat)
    return Reaction::kRepeat;
  if (state == wire::kSchemaChanged)
    return Reaction::kDescribeAgain;
  if (state == wire::kNotPut)
    return Reaction::kPutAgain;
  if (state == wire::kRulesChanged)
    return Reaction::kHelloAgain;
  // Not the data's fault: connection, shutdown, resources, locks, deadlock, transaction state, rights.
  for (const std::string_view transient : {"08", "57", "53", "40", "25", "42501", "55000", "55P03", wire::kContradiction})
    if (state.starts_with(transient))
      return Reaction::kGiveUp;
  return Reaction::kCareful;
}

double ms_since(int64 start_us) { return static_cast<double>(pg::monotonic_us() - start_us) / 1000; }

struct Times {
  double scan = 0, read = 0, encode = 0, send = 0, apply = 0, commit = 0;
};

class Shipment {
public:
  Shipment(RouteLink &link, RouteStages &stages, RouteStatus &status, RouteSequences &sequences, ToldProblems &told, uint64 rules)
      : link_(link), stages_(stages), status_(status), sequences_(sequences), told_(told), rules_(rules), age_(pg::Deadline::in_ms(guc::max_snapshot_age)),
        started_us_(pg::monotonic_us()), sent_before_(link.connection().bytes_sent()) {}

  ~Shipment() {
    if (!goes_on_)
      status_.batch_over();
  }
  Shipment(const Shipment &) = delete;
  Shipment &operator=(const Shipment &) = delete;

  ScanResult run() {
    stages_.check();
    const ScanResult result = in_transaction();
    for (const wire::Id &id : useless_)
      stages_.drop(id, pg::Deadline::in_ms(guc::reply_timeout));
    if (too_much_.empty() && waits_.empty())
      return result;
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    for (const int64 job : too_much_)
      pg::call([&] { (void)scan::stage_copy_job(job); });
    waits_.note();
    transaction.commit();
    return result;
  }

private:
  ScanResult in_transaction() {
    pg::Transaction transaction;
    if (link_.claims_changed())
      return {ScanOutcome::kHelloAgain};
    const scan::Stages stages = stages_.view(inline_copy_bytes(link_));
    batch_ = pg::call([&] { return scan::open(link_.session(), link_.held().position, stages); });
    find_useless();
    // Now that the snapshot is taken: what it sees may have been committed after a pause.
    const ScanResult result = pg::rules_count() == rules_ ? ship() : ScanResult{ScanOutcome::kRulesChanged};
    // Otherwise the transaction is rolled back, and the batch with it.
    if (result.outcome == ScanOutcome::kNothing || result.outcome == ScanOutcome::kShipped) {
      pg::call([this] { scan::close(batch_); });
      transaction.commit();
      if (result.outcome == ScanOutcome::kShipped)
        report(result.collected);
    }
    return result;
  }

  ScanResult ship() {
    ScanResult result;
    result.started_us = started_us_;
    result.taken_at = pg::call([this] { return scan::taken_at(batch_); });
    result.collected = pg::call([this] { return scan::collected(batch_); });
    times_.scan = ms_since(started_us_);
    if (stale())
      return {ScanOutcome::kStale};
    if (result.collected == 0 && stages_.backlog() == nullptr) { // all may be staged, and nothing have changed since
      describe_tables(link_, batch_, status_, told_, deadline()); // those that DDL may have changed
      waits_.remember(batch_); // a copy is not asked about again between its parts when its table does not fit
      return result;
    }
    status_.update([&](pg::RouteSlot &slot) {
      if (slot.oldest_pending_at == 0)
        slot.oldest_pending_at = result.taken_at;
    });
    status_.batch_collected(started_us_, result.taken_at, result.collected, pg::call([this] { return scan::staged(batch_); }),
                            pg::call([this] { return scan::left_to_copies(batch_); }));
    status_.batch_applies_afterwards(true);
    describe_tables(link_, batch_, status_, told_, deadline());
    waits_.remember(batch_);
    if (Stage *backlog = stages_.backlog(); backlog != nullptr && !pg::call([this] { return scan::stage_fits(batch_); })) {
      stages_.drop(backlog->id, deadline()); // the rest of it is left in the change log as ever
      return {ScanOutcome::kStale};
    }
    sequences_.tell_first(link_); // later than the snapshot: it shows no number that they are not beyond
    if (!pg::call([this] { return scan::worth_shipping(batch_); }))
      return result;

    number_ = link_.next_number();
    if (!pg_strong_random(id_.bytes, sizeof id_.bytes))
      throw core::Error("XX000", "could not generate a random batch id");
    pg::call([this] { scan::commit_to_history(batch_, number_, id_); });
    link_.note_sent(number_);

    ScanOutcome instead = ScanOutcome::kStale;
    std::optional<remote::Bytes> answer;
    staged_us_ = pg::monotonic_us() + stage_after_us() - stage_every_us();
    expected_ = result.collected;
    try {
      if (put_chunks(&instead))
        answer = streaming_ ? apply_streamed() : apply(&instead);
    } catch (const core::Error &error) {
      if (!streaming_)
        throw;
      instead = after_stream(error);
    }
    if (!answer) {
      goes_on_ = instead == ScanOutcome::kStaged;
      if (!goes_on_)
        drop_chunks();
      result.outcome = instead;
      return result;
    }
    acknowledge(*answer);
    for (const wire::Id &id : named())
      stages_.done(id);
    stages_.schema_changes = 0;
    for (const auto &[job, relation] : copied(true))
      stages_.let_go(relation);
    if (streaming_)
      link_.note_stream_done();
    result.outcome = ScanOutcome::kShipped;
    result.rows = rows_;
    result.busy_us = static_cast<int64>((times_.scan + times_.read + times_.encode + times_.apply) * 1000);
    return result;
  }

  [[nodiscard]] bool stale() const {
    return pg::call([this] { return scan::stale(batch_); });
  }

  /// No single answer may take longer than reply_timeout, all together not longer than the snapshot may live.
  /// Rows take time to apply, and that is no sign of a dead peer: a thousand a second at worst.
  [[nodiscard]] pg::Deadline deadline(int64 more_ms = 0) const {
    return pg::Deadline::earlier(age_, pg::Deadline::in_ms(guc::reply_timeout + more_ms));
  }

  /// Once, early in a large batch: over a fast link the rest is applied while it is sent.
  void try_to_stream() {
    const int64 waiting = pg::monotonic_us();
    link_.connection().finish_puts(deadline());
    times_.send += ms_since(waiting);
    if (static_cast<double>(bytes_) < kFastBytesPerMs * times_.send || too_long_to_stream() || !named().empty() ||
        !link_.may_stream())
      return;
    link_.note_stream_begins();
    ByteBuffer request;
    write_header(request, false, 0);
    if (stale())
      return;
    streaming_ = true;
    status_.batch_applies_afterwards(false);
    link_.connection().begin(request->span(), deadline());
  }

  /// The rows on the peer are locked all the while, and a break begins it anew.
  [[nodiscard]] bool too_long_to_stream() const {
    const double row = static_cast<double>(bytes_) / static_cast<double>(std::max<int64>(rows(), 1));
    const double to_come = row * static_cast<double>(expected_) + pg::call([this] { return scan::inline_bytes(batch_); });
    return to_come / kFastBytesPerMs > static_cast<double>(guc::max_snapshot_age) / 4;
  }

  // ---- staging ----------------------------------------------------------------------------------

  /// Most batches have to do with none, and pay for none.
  [[nodiscard]] bool has_copies() const {
    return pg::call([this] { return scan::has_copies(batch_); });
  }

  /// Stages that go with this batch, in the order in which they are to be applied.
  std::vector<wire::Id> named() {
    std::vector<wire::Id> ids;
    if (has_copies()) {
      ids.resize(kMostNamed);
      ids.resize(static_cast<size_t>(pg::call([&] { return scan::activated(batch_, ids.data(), kMostNamed); })));
    }
    if (const Stage *backlog = stages_.backlog())
      ids.push_back(backlog->id);
    return ids;
  }

  [[nodiscard]] bool time_to_stage() const {
    return !streaming_ && stages_.possible() && pg::monotonic_us() - staged_us_ > stage_every_us() &&
           pg::call([this] { return scan::may_stage(batch_); });
  }

  /// What was put so far is kept on the peer, and how far that is. False: it cannot be.
  bool stage() {
    for (const auto &[job, relation] : copied(false))
      too_much_.push_back(job);
    if (!too_much_.empty())
      return false;
    link_.connection().finish_puts(deadline());
    Stage *backlog = stages_.backlog();
    if (backlog == nullptr) // a first pass may not meet rows of a copy: then there is none
      backlog = &stages_.begin(core::StageKind::kBacklog, InvalidOid,
                               has_copies() ? 2 : 1);
    const bool fits = pg::call([&] {
      const scan::Reached to = scan::reached(batch_);
      scan::note_tables(batch_, backlog->map);
      return !OidIsValid(to.scope) || scan::advance(backlog->map, to.scope, to.key, scan::position(batch_));
    });
    if (fits)
      commit_stage(*backlog, backlog->map->pass);
    else
      useless_.push_back(backlog->id);
    return fits;
  }

  void commit_stage(Stage &backlog, std::uint32_t pass) {
    stages_.commit(backlog, pass, chunks_, static_cast<std::uint64_t>(rows() - staged_rows_), deadline());
    chunks_ = 0;
    staged_rows_ = rows();
    staged_us_ = pg::monotonic_us();
    status_.update([](pg::RouteSlot &slot) { slot.last_contact_at = GetCurrentTimestamp(); });
  }

  /// All keys that the pass still owed are put. It was begun under an older snapshot, so there is more since then.
  void end_pass() {
    put(last_);
    link_.connection().finish_puts(deadline());
    Stage &backlog = *stages_.backlog();
    const std::uint32_t pass = backlog.map->pass;
    pg::call([&] {
      scan::note_tables(batch_, backlog.map);
      scan::finish_pass(backlog.map, scan::position(batch_));
    });
    commit_stage(backlog, pass);
  }

  [[nodiscard]] bool snapshot_is_old() const {
    return (pg::monotonic_us() - started_us_) / 1000 > guc::max_snapshot_age / 2;
  }

  // ---- putting and applying ---------------------------------------------------------------------

  /// Nothing: the rules have changed since the rows were read.
  std::optional<remote::Bytes> apply_streamed() {
    ByteBuffer request;
    write_request(request, false);
    if (stale())
      return std::nullopt;
    const int64 began = pg::monotonic_us();
    remote::Bytes answer = link_.connection().apply(request->span(), deadline(rows()));
    answered_ms_ = ms_since(began);
    return answer;
  }

  /// What is to be done about an error while the batch was applied as it went. Errors of rows are for a batch
  /// that is collected first.
  ScanOutcome after_stream(const core::Error &error) {
    const Reaction reaction = reaction_to(error);
    if (reaction == Reaction::kGiveUp)
      throw core::Error(error);
    if (reaction == Reaction::kDescribeAgain)
      pg::call([this] { scan::forget_tables(link_.session()); });
    return reaction == Reaction::kHelloAgain ? ScanOutcome::kHelloAgain : ScanOutcome::kStale;
  }

  /// All but the last chunk, which stays in last_ when it is small. False: the batch is stale, or for now a stage.
  bool put_chunks(ScanOutcome *instead) {
    pg::call([this] { scan::init_buffer(&last_, CurrentMemoryContext); });
    for (bool more = true; more;) {
      last_.size = 0;
      const int64 reading = pg::monotonic_us();
      more = pg::call([this] { return scan::next_chunk(batch_, &last_, kChunkBytes); });
      times_.read += ms_since(reading);
      if (stale())
        return false;
      show_progress();
      if (more || last_.size > kInlineBytes)
        put(last_);
      if (more && chunks_ == kChunksFirst && staged_rows_ == 0 && link_.facts().streams)
        try_to_stream();
      if (more && time_to_stage()) {
        if (!stage())
          return false;
        if (snapshot_is_old()) {
          *instead = ScanOutcome::kStaged;
          return false;
        }
      }
    }
    if (pg::call([this] { return scan::mid_pass(batch_); })) {
      end_pass();
      *instead = ScanOutcome::kStaged;
      return false;
    }
    const int64 sending = pg::monotonic_us();
    link_.connection().finish_puts(deadline(streaming_ ? rows() : 0));
    times_.send += ms_since(sending);
    return true;
  }

  /// What the peer has not answered yet is not done: it may be most of a batch, and the peer slow.
  void show_progress() {
    const auto sent = static_cast<double>(link_.connection().bytes_sent() - sent_before_);
    const auto out = static_cast<double>(link_.connection().bytes_out());
    const auto keys = static_cast<double>(pg::call([this] { return scan::taken(batch_); }));
    const double answered = sent > 0 ? 1 - std::min(1.0, out / sent) : 0;
    status_.batch_sent(static_cast<int64>(keys * answered), static_cast<int64>(static_cast<double>(rows()) * answered));
  }

  void put(core::Buffer &chunk) {
    if (chunk.size == 0)
      return;
    const int64 sending = pg::monotonic_us();
    link_.connection().put(link_.packed(chunk.span()), deadline(streaming_ ? rows() : 0));
    times_.send += ms_since(sending);
    chunks_++;
    bytes_ += chunk.size;
    chunk.size = 0;
  }

  /// The peer forgets what it has collected of a batch that will not be applied.
  void drop_chunks() {
    if (streaming_)
      link_.connection().roll_back(deadline());
    link_.connection().put({}, deadline());
    link_.connection().finish_puts(deadline());
  }

  /// Nothing: the batch has to be abandoned, and *instead is to be done.
  std::optional<remote::Bytes> apply(ScanOutcome *instead) {
    bool careful = false;
    for (int repeats = 0;;) {
      ByteBuffer request;
      write_request(request, careful);
      if (stale())
        return std::nullopt;
      status_.batch_applying();
      std::optional<core::Error> problem;
      const int64 began = pg::monotonic_us();
      try {
        remote::Bytes answer = link_.connection().apply(request->span(), apply_deadline());
        answered_ms_ = ms_since(began);
        return answer;
      } catch (const core::Error &error) {
        problem = error;
      }
      switch (reaction_to(*problem)) {
      case Reaction::kPutWanted:
        if (++repeats > kMostRepeats)
          throw core::Error(*problem);
        if (!put_wanted())
          return std::nullopt;
        break;
      case Reaction::kRepeat: // the receiver counts: it knows whether this leads anywhere
        break;
      case Reaction::kDescribeAgain:
        pg::call([this] { scan::forget_tables(link_.session()); });
        if (++stages_.schema_changes > 1)
          drop_named();
        return std::nullopt;
      case Reaction::kPutAgain:
        drop_named();
        return std::nullopt;
      case Reaction::kHelloAgain:
        *instead = ScanOutcome::kHelloAgain;
        return std::nullopt;
      case Reaction::kCareful:
        if (careful) {
          if (!without_copies(*problem))
            throw core::Error(*problem);
          return std::nullopt;
        }
        careful = true;
        break;
      case Reaction::kGiveUp:
        throw core::Error(*problem);
      }
    }
  }

  std::vector<std::pair<int64, Oid>> copied(bool staged) {
    std::vector<std::pair<int64, Oid>> out;
    if (!has_copies())
      return out;
    std::vector<int64> jobs(kMostNamed);
    std::vector<Oid> relations(kMostNamed);
    const int count = pg::call([&] { return scan::copied_jobs(batch_, staged, jobs.data(), relations.data(), kMostNamed); });
    for (int i = 0; i < count; i++)
      out.emplace_back(jobs[static_cast<size_t>(i)], relations[static_cast<size_t>(i)]);
    return out;
  }

  /// The peer refuses the batch as a whole, and tables are copied by it: the next one goes without them, so that the
  /// copy of one table does not stand in the way of all. False: there are none.
  bool without_copies(const core::Error &problem) {
    const auto copies = copied(true);
    for (const auto &[job, relation] : copies) {
      stages_.hold_back(relation);
      waits_.add(job, "refused", problem.message(), "The copy is tried again by itself; where a key must refer to a row that is missing there, copy that table, too.");
    }
    return !copies.empty();
  }

  void find_useless() {
    std::vector<wire::Id> ids;
    if (has_copies()) {
      ids.resize(kMostNamed);
      ids.resize(static_cast<size_t>(pg::call([&] { return scan::useless_copies(batch_, ids.data(), kMostNamed); })));
    }
    if (const Stage *backlog = stages_.backlog(); backlog != nullptr && pg::call([this] { return scan::backlog_useless(batch_); }))
      ids.push_back(backlog->id);
    useless_ = std::move(ids);
  }

  /// What is staged is not as the peer wants it any more: it is read again.
  void drop_named() {
    for (const wire::Id &id : named())
      stages_.drop(id, pg::Deadline::in_ms(guc::reply_timeout));
  }

  /// With stages the snapshot's age is no limit: they have taken long to arrive, and would have to be applied again.
  [[nodiscard]] pg::Deadline apply_deadline() {
    double staged_ms = 0;
    for (const wire::Id &id : named()) {
      const Stage *stage = stages_.copy(id) != nullptr ? stages_.copy(id) : stages_.backlog();
      staged_ms += static_cast<double>(stage->rows) / kStagedRowsPerMs + static_cast<double>(stage->bytes) / kStagedBytesPerMs;
    }
    return staged_ms == 0 ? deadline(rows())
                          : pg::Deadline::in_ms(guc::reply_timeout + rows() + static_cast<int64>(std::min(staged_ms, kLongestApplyMs)));
  }

  [[nodiscard]] int64 rows() const {
    return pg::call([this] { return scan::shipped_rows(batch_); });
  }

  void write_header(ByteBuffer &request, bool careful, uint64 row_count) {
    ByteBuffer clusters;
    core::Buffer *cluster_records = &*clusters;
    wire::ApplyRequest apply;
    apply.batch = number_;
    apply.batch_id = id_;
    apply.previous = link_.held().number;
    apply.previous_id = link_.held().id;
    apply.generation = link_.generation();
    apply.complete_until = pg::call([this] { return scan::taken_at(batch_); });
    const std::vector<wire::Id> stages = streaming_ ? std::vector<wire::Id>{} : named();
    apply.flags = static_cast<std::uint8_t>((careful ? wire::kApplyCareful : 0) | (stages.empty() ? 0 : wire::kApplyStages) |
                                            (link_.facts().tells_standing ? wire::kApplyTellStanding : 0));
    apply.chunks = chunks_;
    apply.rows = row_count;
    apply.clusters = pg::call([&] { return scan::write_clusters(batch_, cluster_records); });
    wire::write(*request, apply);
    request->bytes(cluster_records->data, cluster_records->size);
    if (stages.empty())
      return;
    request->varint(stages.size());
    for (const wire::Id &id : stages) {
      const Stage *stage = stages_.copy(id) != nullptr ? stages_.copy(id) : stages_.backlog();
      wire::write(*request, wire::StageUse{id, stage->chunks, stage->rows});
    }
  }

  void write_request(ByteBuffer &request, bool careful) {
    write_header(request, careful, static_cast<uint64>(rows() - staged_rows_));
    const core::ByteSpan last = link_.packed(last_.span());
    request->bytes(last.data(), last.size());
  }

  bool put_wanted() {
    const remote::Bytes wanted = link_.connection().call("wire_wanted", deadline());
    core::Reader reader(wanted);
    ByteBuffer buffer;
    core::Buffer *out = &*buffer;
    const int64 reading = pg::monotonic_us();
    pg::call([&] { scan::write_wanted(batch_, &reader, out); });
    times_.read += ms_since(reading);
    if (stale())
      return false;
    put(*buffer);
    link_.connection().finish_puts(deadline());
    return true;
  }

  /// The batch is committed over there. Should this fail, the next hello finds that out and asks again.
  remote::Bytes ask_for_refusals() {
    ByteBuffer request;
    write_request(request, false);
    return link_.connection().apply(request->span(), pg::Deadline::in_ms(guc::reply_timeout));
  }

  void acknowledge(const remote::Bytes &answer) {
    core::Reader reader(answer);
    wire::read(reader, reply_);
    if (!reader.ok())
      throw core::Error("08P01", "the peer's answer to a batch cannot be read");
    remote::Bytes refusals;
    if (reply_.complete == 0) {
      refusals = ask_for_refusals();
      reader = core::Reader(refusals);
      wire::ApplyReply again;
      wire::read(reader, again);
      if (!reader.ok() || again.status != wire::ApplyStatus::kAppliedBefore)
        throw core::Error("08P01", "the peer does not say what it has refused of a batch");
      reply_.refusals = again.refusals;
    }
    const int64 acknowledging = pg::monotonic_us();
    pg::call([&] { scan::acknowledge(batch_, id_, &reader, reply_.refusals); });
    link_.note_held(number_, id_, *pg::call([this] { return &scan::position(batch_); }));
    rows_ = rows();
    deletes_ = pg::call([this] { return scan::shipped_deletes(batch_); });
    bytes_ += last_.size;
    times_.encode = std::min(times_.read, pg::call([this] { return scan::encode_ms(batch_); }));
    times_.read -= times_.encode;
    times_.apply = static_cast<double>(reply_.apply_us) / 1000;
    if (!streaming_) // while it streams, that is mostly waiting for us
      status_.batch_applied(rows_applied(), static_cast<int64>(reply_.apply_us));
    // While it streams, sending waits for the peer to apply.
    const double travelling = std::max(0.0, times_.send + answered_ms_ - times_.apply);
    if (streaming_)
      times_.send = std::min(times_.send, travelling);
    times_.commit = (streaming_ ? travelling - times_.send : std::max(0.0, answered_ms_ - times_.apply)) +
                    ms_since(acknowledging);
  }

  /// Those of this pass, and all that earlier ones have staged.
  int64 rows_applied() {
    int64 count = rows_ - staged_rows_;
    for (const wire::Id &id : named()) {
      const Stage *stage = stages_.copy(id) != nullptr ? stages_.copy(id) : stages_.backlog();
      count += static_cast<int64>(stage->rows);
    }
    return count;
  }

  void report(int64 collected) {
    status_.worked_off(collected, pg::monotonic_us() - started_us_);
    const double whole = ms_since(started_us_);
    const LeftOutTables tables = left_out(link_.session());
    status_.update([&](pg::RouteSlot &slot) {
      const TimestampTz now = GetCurrentTimestamp();
      slot.last_batch = static_cast<int64>(number_);
      slot.last_batch_keys = rows_;
      slot.last_batch_at = slot.last_contact_at = now;
      slot.batches++;
      slot.keys += rows_;
      slot.deletes += deletes_;
      slot.upserts += rows_ - deletes_;
      slot.bytes_raw += static_cast<int64>(bytes_);
      slot.bytes_wire += static_cast<int64>(link_.connection().bytes_sent() - sent_before_);
      slot.parked_tables = tables.parked;
      slot.scan_ms += slot.last_scan_ms = times_.scan;
      slot.read_ms += slot.last_read_ms = times_.read;
      slot.encode_ms += slot.last_encode_ms = times_.encode;
      slot.send_ms += slot.last_send_ms = times_.send;
      slot.apply_ms += slot.last_apply_ms = times_.apply;
      slot.commit_ms += slot.last_commit_ms = times_.commit;
      slot.max_batch_ms = std::max(slot.max_batch_ms, whole);
    });
  }

  RouteLink &link_;
  RouteStages &stages_;
  RouteStatus &status_;
  RouteSequences &sequences_;
  ToldProblems &told_;
  const uint64 rules_;
  const pg::Deadline age_;
  const int64 started_us_;
  const uint64 sent_before_;
  scan::Batch *batch_ = nullptr;
  uint64 number_ = 0;
  wire::Id id_;
  core::Buffer last_; // in the transaction's memory
  bool streaming_ = false;
  bool goes_on_ = false; // the next pass has the rest of it
  int64 expected_ = 0;     // keys, repeated ones included
  int64 staged_us_ = 0;    // when something was staged last
  int64 staged_rows_ = 0;  // of this round
  std::vector<int64> too_much_;   // jobs of tables that are not to be copied within one batch
  std::vector<wire::Id> useless_; // stages
  CopyWaits waits_;
  uint64 chunks_ = 0;
  std::size_t bytes_ = 0;
  wire::ApplyReply reply_;
  int64 rows_ = 0;
  int64 deletes_ = 0;
  double answered_ms_ = 0;
  Times times_;
};

} // namespace

/// Once per process: a table that does not fit is asked for again with each connection. Not before something waits: that two
/// sides differ where nothing changes is a matter for check() and schema_diff().
static void tell(scan::Batch *batch, int table, RouteStatus &status, ToldProblems &told) {
  const char *hint = nullptr;
  const char *message = pg::call([&] { return scan::table_problem(batch, table, &hint); });
  if (message == nullptr)
    return;
  const int64 keys = pg::call([&] { return scan::table_keys(batch, table); });
  if (keys == 0 && !pg::call([&] { return scan::to_be_copied(batch, table); }))
    return;
  if (!told.insert(keys > 0 ? std::string(message) : std::string("copy: ") + message).second)
    return;
  pg::call([&] {
    ereport(LOG, errmsg("seal_sync route \"%s\": %s", NameStr(status.slot()->peer), message),
            keys > 0 ? errdetail(INT64_FORMAT " changes wait; all other tables go on.", keys)
                     : errdetail("Existing rows wait to be copied; all other tables go on."),
            hint != nullptr && hint[0] != '\0' ? errhint("%s", hint) : 0);
  });
}

void describe_tables(RouteLink &link, scan::Batch *batch, RouteStatus &status, ToldProblems &told,
                     const pg::Deadline &deadline) {
  int table;
  while ((table = pg::call([batch] { return scan::undescribed(batch); })) >= 0) {
    ByteBuffer description;
    core::Buffer *out = &*description;
    pg::call([&] { scan::write_describe(batch, table, out); });
    if (pg::call([batch] { return scan::stale(batch); })) // DDL has it: nothing was written
      return;
    const remote::Bytes answer = link.connection().call("wire_describe", out->span(), deadline);
    core::Reader reader(answer);
    pg::call([&] { (void)scan::read_describe(batch, table, &reader); });
  }
  const int count = pg::call([batch] { return scan::table_count(batch); });
  for (table = 0; table < count; table++)
    tell(batch, table, status, told);
}

double inline_copy_bytes(RouteLink &link) {
  if (!link.facts().stages)
    return scan::kNoLimit;
  if (guc::debug_stage_copies)
    return 0;
  return link.connection().local() ? kInlineNear : kInlineFar;
}

ScanResult scan_and_ship(RouteLink &link, RouteStages &stages, RouteStatus &status, RouteSequences &sequences, ToldProblems &told, uint64 rules) {
  return Shipment(link, stages, status, sequences, told, rules).run();
}

LeftOutTables left_out(const scan::Session *session) {
  LeftOutTables out;
  if (session->tables == nullptr)
    return out;
  HASH_SEQ_STATUS sequence;
  hash_seq_init(&sequence, session->tables);
  while (const auto *sent = static_cast<const scan::SentTable *>(hash_seq_search(&sequence))) {
    out.parked += sent->fit == scan::TableFit::kParked;
    out.waiting += sent->fit == scan::TableFit::kWaitingPeer;
  }
  return out;
}

} // namespace seal_sync::worker

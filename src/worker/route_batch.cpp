// See route_batch.hpp.
#include "worker/route_batch.hpp"

#include "pg/guc.hpp"
#include "pg/scopes.hpp"
#include "scan/descriptor.hpp"
#include "scan/keys.hpp"
#include "worker/bytes.hpp"

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
  Shipment(RouteLink &link, RouteStatus &status, ToldProblems &told, uint64 rules)
      : link_(link), status_(status), told_(told), rules_(rules), age_(pg::Deadline::in_ms(guc::max_snapshot_age)),
        started_us_(pg::monotonic_us()), sent_before_(link.connection().bytes_sent()) {}

  ScanResult run() {
    pg::Transaction transaction;
    if (link_.claims_changed())
      return {ScanOutcome::kHelloAgain};
    batch_ = pg::call([this] { return scan::open(link_.session(), link_.held().position); });
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

private:
  ScanResult ship() {
    ScanResult result;
    result.started_us = started_us_;
    result.taken_at = pg::call([this] { return scan::taken_at(batch_); });
    result.collected = pg::call([this] { return scan::collected(batch_); });
    times_.scan = ms_since(started_us_);
    if (stale())
      return {ScanOutcome::kStale};
    if (result.collected == 0)
      return result;
    status_.update([&](pg::RouteSlot &slot) {
      if (slot.oldest_pending_at == 0)
        slot.oldest_pending_at = result.taken_at;
    });
    describe_tables();
    if (!pg::call([this] { return scan::worth_shipping(batch_); }))
      return result;

    number_ = link_.next_number();
    if (!pg_strong_random(id_.bytes, sizeof id_.bytes))
      throw core::Error("XX000", "could not generate a random batch id");
    pg::call([this] { scan::commit_to_history(batch_, number_, id_); });
    link_.note_sent(number_);

    ScanOutcome instead = ScanOutcome::kStale;
    std::optional<remote::Bytes> answer;
    try {
      if (put_chunks())
        answer = streaming_ ? apply_streamed() : apply(&instead);
    } catch (const core::Error &error) {
      if (!streaming_)
        throw;
      instead = after_stream(error);
    }
    if (!answer) {
      drop_chunks();
      return {instead};
    }
    acknowledge(*answer);
    if (streaming_)
      link_.note_stream_done();
    result.outcome = ScanOutcome::kShipped;
    result.rows = rows_;
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

  void describe_tables() {
    for (;;) {
      const int table = pg::call([this] { return scan::undescribed(batch_); });
      if (table < 0)
        return;
      ByteBuffer description;
      core::Buffer *out = &*description;
      pg::call([&] { scan::write_describe(batch_, table, out); });
      const remote::Bytes answer = link_.connection().call("wire_describe", out->span(), deadline());
      core::Reader reader(answer);
      const scan::TableFit fit = pg::call([&] { return scan::read_describe(batch_, table, &reader); });
      if (fit != scan::TableFit::kFits)
        tell(table);
    }
  }

  /// Once per process: a table that does not fit is asked for again with each connection.
  void tell(int table) {
    const char *hint = nullptr;
    const char *message = pg::call([&] { return scan::table_problem(batch_, table, &hint); });
    if (message == nullptr || !told_.insert(message).second)
      return;
    const int64 keys = pg::call([&] { return scan::table_keys(batch_, table); });
    pg::call([&] {
      ereport(LOG, errmsg("seal_sync route \"%s\": %s", NameStr(status_.slot()->peer), message),
              errdetail(INT64_FORMAT " changes wait; all other tables go on.", keys),
              hint != nullptr && hint[0] != '\0' ? errhint("%s", hint) : 0);
    });
  }

  /// Once, early in a large batch: over a fast link the rest is applied while it is sent.
  void try_to_stream() {
    const int64 waiting = pg::monotonic_us();
    link_.connection().finish_puts(deadline());
    times_.send += ms_since(waiting);
    if (static_cast<double>(bytes_) < kFastBytesPerMs * times_.send || !link_.may_stream())
      return;
    link_.note_stream_begins();
    ByteBuffer request;
    write_header(request, false, 0);
    streaming_ = true;
    link_.connection().begin(request->span(), deadline());
  }

  remote::Bytes apply_streamed() {
    ByteBuffer request;
    write_request(request, false);
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

  /// All but the last chunk, which stays in last_ when it is small. False: the batch is stale.
  bool put_chunks() {
    pg::call([this] { scan::init_buffer(&last_, CurrentMemoryContext); });
    for (bool more = true; more;) {
      last_.size = 0;
      const int64 reading = pg::monotonic_us();
      more = pg::call([this] { return scan::next_chunk(batch_, &last_, kChunkBytes); });
      times_.read += ms_since(reading);
      if (stale())
        return false;
      if (more || last_.size > kInlineBytes)
        put(last_);
      if (more && chunks_ == kChunksFirst && link_.facts().streams)
        try_to_stream();
    }
    const int64 sending = pg::monotonic_us();
    link_.connection().finish_puts(deadline(streaming_ ? rows() : 0));
    times_.send += ms_since(sending);
    return true;
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
      std::optional<core::Error> problem;
      const int64 began = pg::monotonic_us();
      try {
        remote::Bytes answer = link_.connection().apply(request->span(), deadline(rows()));
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
        return std::nullopt;
      case Reaction::kPutAgain:
        return std::nullopt;
      case Reaction::kHelloAgain:
        *instead = ScanOutcome::kHelloAgain;
        return std::nullopt;
      case Reaction::kCareful:
        if (careful)
          throw core::Error(*problem);
        careful = true;
        break;
      case Reaction::kGiveUp:
        throw core::Error(*problem);
      }
    }
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
    apply.flags = careful ? wire::kApplyCareful : 0;
    apply.chunks = chunks_;
    apply.rows = row_count;
    apply.clusters = pg::call([&] { return scan::write_clusters(batch_, cluster_records); });
    wire::write(*request, apply);
    request->bytes(cluster_records->data, cluster_records->size);
  }

  void write_request(ByteBuffer &request, bool careful) {
    write_header(request, careful, static_cast<uint64>(rows()));
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
    // While it streams, sending waits for the peer to apply.
    const double travelling = std::max(0.0, times_.send + answered_ms_ - times_.apply);
    if (streaming_)
      times_.send = std::min(times_.send, travelling);
    times_.commit = (streaming_ ? travelling - times_.send : std::max(0.0, answered_ms_ - times_.apply)) +
                    ms_since(acknowledging);
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
  RouteStatus &status_;
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
  uint64 chunks_ = 0;
  std::size_t bytes_ = 0;
  wire::ApplyReply reply_;
  int64 rows_ = 0;
  int64 deletes_ = 0;
  double answered_ms_ = 0;
  Times times_;
};

} // namespace

ScanResult scan_and_ship(RouteLink &link, RouteStatus &status, ToldProblems &told, uint64 rules) {
  return Shipment(link, status, told, rules).run();
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

#pragma once
// The wire format between two nodes: what travels in the bytea arguments and results of the wire
// functions (seal_sync.wire_hello, wire_describe, wire_put, wire_apply, wire_wanted, wire_heartbeat,
// wire_stage, wire_stages, wire_stage_drop). Written by the sender (scan/, worker/) and by the receiver's
// answers (apply/).
//
// Names travel, never object identifiers. Everything is read with core::Reader, which is total:
// the receiver checks ok() and then the meaning of what it got.
//
//   wire_hello(HelloRequest)      -> HelloReply       once per connection; ends a predecessor first
//   wire_describe(table, ...)     -> DescribeReply    once per table and connection
//   wire_put(chunk)               -> void             collects, takes no lock, applies nothing
//   wire_apply(ApplyRequest)      -> ApplyReply       applies all that was put plus the last chunk,
//                                                     inside the BEGIN/COMMIT of ONE simple query
//   wire_wanted()                 -> WantedReply      after SQLSTATE kNeedRows
//   wire_heartbeat(Heartbeat)     -> HeartbeatReply   "nothing pending up to this time"
//   wire_stage(StageRequest)      -> StageReply       what was put becomes part of a stage, durably
//   wire_stages()                 -> count, StageRecords  the stages of this sender, after a break
//   wire_stage_drop(StageDrop)    -> void             forgets one
//
// A batch that takes long is not kept in the session: every few megabytes or seconds wire_stage commits what was
// put into a stage of the receiver, which outlives connections and crashes of both sides. Later passes put what
// has changed since the first one read it. At last an ApplyRequest with kApplyStages names the stages, in order:
// their chunks come before those that were put for the batch, and all of it is applied as ONE batch. A key of a
// table occurs once in a pass of a stage; where it occurs again in a later pass, a later stage or in what was
// put, a later 'W' or 'D' stands for all earlier rows of the key, which are not looked at; a later 'P' comes
// after them. Tables keep the number and the description under which their rows were put.
//
// A chunk is a sequence of whole sections; sections never span chunks:
//   section := kind(u8) table(varint) rows(varint) body_size(u32) body
//   kind 'D' (delete):  body = rows x keyrow
//   kind 'W' (whole):   body = rows x row over all shipped columns
//   kind 'P' (partial): body = mask(sized; bit i = shipped column i, key columns always set) then
//                       rows x row over the columns of the mask
//   row := null bitmap (ceil(n/8) bytes, bit set = NULL) then each non-null column:
//          kFixed: exactly `width` bytes; every other class: varint size, bytes
//   keyrow := a row over the key columns, ordered by key_position
// A whole chunk may travel packed instead (core/compression.hpp), to a receiver that has kFeatureZstd.
// Within one section keys are distinct and ascend in the sender's index order. Within one batch a
// key of a table occurs once, except that a 'W' row put after kNeedRows replaces its 'P' row.

#include "core/bytes.hpp"

namespace seal_sync::core::wire {

inline constexpr std::uint32_t kProtocol = 1;    // newest spoken
inline constexpr std::uint32_t kProtocolMin = 1; // oldest spoken

// What a receiver understands beyond its protocol: bits of the varint at the very end of its answer to a hello.
// An older one does not send it, an older sender does not read it; a bit that is not known means nothing.
inline constexpr std::uint64_t kFeatureZstd = 1; // packed chunks
inline constexpr std::uint64_t kFeatureStream = 2; // wire_begin(ApplyRequest, without a last chunk)
inline constexpr std::uint64_t kFeatureSequences = 8; // wire_sequences, core/wire_sequences.hpp
inline constexpr std::uint64_t kFeatureStanding = 16; // kApplyTellStanding
inline constexpr std::uint64_t kFeatureStage = 32; // wire_stage, wire_stages, wire_stage_drop, kApplyStages
inline constexpr std::uint64_t kFeatures = kFeatureZstd | kFeatureStream | kFeatureSequences | kFeatureStanding | kFeatureStage;

// SQLSTATEs with which wire_apply asks the sender for something (class SS, W for wire).
inline constexpr char kNeedRows[] = "SSW01";      // partial updates without a row: wire_wanted()
inline constexpr char kSchemaChanged[] = "SSW02"; // a descriptor no longer holds: describe again
inline constexpr char kRepeat[] = "SSW03";        // refused keys are known now: apply again
inline constexpr char kContradiction[] = "SSW04"; // numbers, ids or generation contradict: halt
inline constexpr char kNotPut[] = "SSW05";        // chunks are incomplete: put all again
inline constexpr char kRulesChanged[] = "SSW06";  // a cluster is not the sender's here any more: say hello again
// In a HelloReply: the speaker is not declared here (yet). Try again later.
inline constexpr char kNotPeer[] = "SSW07";

/// How a column's values travel.
enum class ColumnClass : std::uint8_t {
  kFixed = 'F',  // built-in fixed-width scalar, the datum's bytes (width 1, 2, 4, 8 or 16)
  kBytes = 'Y',  // bytea: raw
  kText = 'T',   // text, varchar, bpchar, json, name: raw, in the sender's server encoding
  kBinary = 'B', // other built-in types: send/receive functions
  kOutput = 'O', // everything else: output/input functions under pinned settings
};

struct TableHead {
  std::string_view schema;
  std::string_view name;
  std::uint64_t columns = 0;
};

struct Column {
  std::string_view name;
  std::string_view type_schema;
  std::string_view type_name; // as in pg_type.typname
  std::int32_t typmod = -1;
  ColumnClass cls = ColumnClass::kOutput;
  std::uint8_t width = 0;
  std::uint8_t key_position = 0; // 1.. for primary-key columns, 0 otherwise
};

inline void write(Buffer &out, const TableHead &head) {
  out.text(head.schema);
  out.text(head.name);
  out.varint(head.columns);
}
inline void read(Reader &in, TableHead &head) {
  head.schema = in.text();
  head.name = in.text();
  head.columns = in.varint();
}
inline void write(Buffer &out, const Column &column) {
  out.text(column.name);
  out.text(column.type_schema);
  out.text(column.type_name);
  out.u32(static_cast<std::uint32_t>(column.typmod));
  out.u8(static_cast<std::uint8_t>(column.cls));
  out.u8(column.width);
  out.u8(column.key_position);
}
inline void read(Reader &in, Column &column) {
  column.name = in.text();
  column.type_schema = in.text();
  column.type_name = in.text();
  column.typmod = static_cast<std::int32_t>(in.u32());
  column.cls = static_cast<ColumnClass>(in.u8());
  column.width = in.u8();
  column.key_position = in.u8();
}

/// 16 bytes of a uuid.
struct Id {
  std::uint8_t bytes[16] = {};
  [[nodiscard]] bool operator==(const Id &other) const noexcept {
    return std::memcmp(bytes, other.bytes, sizeof bytes) == 0;
  }
};
inline void write(Buffer &out, const Id &id) { out.bytes(id.bytes, sizeof id.bytes); }
inline void read(Reader &in, Id &id) {
  const ByteSpan span = in.bytes(sizeof id.bytes);
  if (span.size() == sizeof id.bytes)
    std::memcpy(id.bytes, span.data(), sizeof id.bytes);
}

/// What went wrong, as it is shown to a person.
struct Problem {
  std::string_view sqlstate; // empty: no problem
  std::string_view message;
  std::string_view detail;
  std::string_view hint;
};
inline void write(Buffer &out, const Problem &problem) {
  out.text(problem.sqlstate);
  out.text(problem.message);
  out.text(problem.detail);
  out.text(problem.hint);
}
inline void read(Reader &in, Problem &problem) {
  problem.sqlstate = in.text();
  problem.message = in.text();
  problem.detail = in.text();
  problem.hint = in.text();
}

struct HelloRequest {
  std::uint32_t protocol_min = kProtocolMin;
  std::uint32_t protocol = kProtocol;
  std::string_view node;     // who speaks
  Id token;                  // and its identity
  std::string_view expected; // the node it wants to reach
  std::uint64_t generation = 0; // as last issued by this peer and stored durably, 0: never
  std::string_view encoding;    // server encoding of the speaker
  std::string_view version;     // of the library
  std::int64_t clock = 0;       // microseconds since 2000-01-01 UTC (TimestampTz)
  std::uint64_t clusters = 0;   // how many cluster records follow: name(text) epoch(u64)
};
inline void write(Buffer &out, const HelloRequest &h) {
  out.u32(h.protocol_min);
  out.u32(h.protocol);
  out.text(h.node);
  write(out, h.token);
  out.text(h.expected);
  out.u64(h.generation);
  out.text(h.encoding);
  out.text(h.version);
  out.i64(h.clock);
  out.varint(h.clusters);
}
inline void read(Reader &in, HelloRequest &h) {
  h.protocol_min = in.u32();
  h.protocol = in.u32();
  h.node = in.text();
  read(in, h.token);
  h.expected = in.text();
  h.generation = in.u64();
  h.encoding = in.text();
  h.version = in.text();
  h.clock = in.i64();
  h.clusters = in.varint();
}

/// Cluster record of a hello: name and epoch of a cluster the speaker is primary of; the reply
/// repeats each with the receiver's verdict.
struct ClusterClaim {
  std::string_view name;
  std::uint64_t epoch = 0;
};
enum class ClusterVerdict : std::uint8_t {
  kAccepted = 0,
  kUnknown = 1,      // not declared there (yet): keep its keys, state waiting_peer
  kNotPrimary = 2,   // declared with another primary, or a higher epoch: nothing may be shipped
};

struct HelloReply {
  Problem problem;           // not empty: refused, nothing below is meaningful
  std::uint32_t protocol = 0; // the one to speak
  std::string_view node;
  Id token;
  std::uint64_t generation = 0; // newly issued; to be stored durably before the first batch
  std::uint8_t has_batch = 0;   // whether this peer has applied any batch of the speaker
  std::uint64_t batch = 0;
  Id batch_id;
  std::string_view encoding;
  std::string_view version;
  std::int64_t clock = 0;
  std::uint64_t config = 0;   // of the receiver's rules, see HeartbeatReply
  std::uint64_t clusters = 0; // records follow: name(text) verdict(u8) epoch(u64) primary(text);
                              // then features(varint), unless the receiver is older
};
inline void write(Buffer &out, const HelloReply &h) {
  write(out, h.problem);
  out.u32(h.protocol);
  out.text(h.node);
  write(out, h.token);
  out.u64(h.generation);
  out.u8(h.has_batch);
  out.u64(h.batch);
  write(out, h.batch_id);
  out.text(h.encoding);
  out.text(h.version);
  out.i64(h.clock);
  out.u64(h.config);
  out.varint(h.clusters);
}
inline void read(Reader &in, HelloReply &h) {
  read(in, h.problem);
  h.protocol = in.u32();
  h.node = in.text();
  read(in, h.token);
  h.generation = in.u64();
  h.has_batch = in.u8();
  h.batch = in.u64();
  read(in, h.batch_id);
  h.encoding = in.text();
  h.version = in.text();
  h.clock = in.i64();
  h.config = in.u64();
  h.clusters = in.varint();
}

/// wire_describe: table(varint: the number it gets on this connection), TableHead, its Columns,
/// then the cluster rule: cluster_column(text) or empty and constant cluster(text).
/// The reply: problem; when empty, one u8 per column, 1 = send this column as kOutput instead.
/// problem.sqlstate 42P01 (table unknown or not registered there) means waiting_peer,
/// anything else parks the table.

/// Bits of ApplyRequest::flags.
inline constexpr std::uint8_t kApplyCareful = 1; // else no subtransactions, any error fails the batch
inline constexpr std::uint8_t kApplyStages = 2;  // stages are named; only to a receiver with kFeatureStage
inline constexpr std::uint8_t kApplyTellStanding = 4; // refusals come with what stands here; only to a receiver with kFeatureStanding

struct ApplyRequest {
  std::uint64_t batch = 0;
  Id batch_id;
  std::uint64_t previous = 0; // 0 and a zero id: this is the first batch of the route
  Id previous_id;
  std::uint64_t generation = 0;
  std::int64_t complete_until = 0; // TimestampTz: all commits before it are in this batch or earlier
  std::uint8_t flags = 0;
  std::uint64_t chunks = 0;        // how many wire_put calls belong to this batch, stages not counted
  std::uint64_t rows = 0;          // rows in those chunks, the last one included
  std::uint64_t clusters = 0;      // records follow: name(text) epoch(u64); with kApplyStages then
                                   // count(varint) and so many StageUse; then the last chunk to the end
};
inline void write(Buffer &out, const ApplyRequest &a) {
  out.u64(a.batch);
  write(out, a.batch_id);
  out.u64(a.previous);
  write(out, a.previous_id);
  out.u64(a.generation);
  out.i64(a.complete_until);
  out.u8(a.flags);
  out.varint(a.chunks);
  out.varint(a.rows);
  out.varint(a.clusters);
}
inline void read(Reader &in, ApplyRequest &a) {
  a.batch = in.u64();
  read(in, a.batch_id);
  a.previous = in.u64();
  read(in, a.previous_id);
  a.generation = in.u64();
  a.complete_until = in.i64();
  a.flags = in.u8();
  a.chunks = in.varint();
  a.rows = in.varint();
  a.clusters = in.varint();
}

/// A stage that belongs to a batch; the numbers are what wire_stage has answered last. They are gone with the
/// batch's commit.
struct StageUse {
  Id stage;
  std::uint64_t chunks = 0;
  std::uint64_t rows = 0;
};
inline void write(Buffer &out, const StageUse &s) {
  write(out, s.stage);
  out.u64(s.chunks);
  out.u64(s.rows);
}
inline void read(Reader &in, StageUse &s) {
  read(in, s.stage);
  s.chunks = in.u64();
  s.rows = in.u64();
}

enum class ApplyStatus : std::uint8_t { kApplied = 0, kAppliedBefore = 1 };

struct ApplyReply {
  ApplyStatus status = ApplyStatus::kApplied;
  std::uint64_t inserted = 0;
  std::uint64_t updated = 0;
  std::uint64_t deleted = 0;
  std::uint64_t unchanged = 0; // deletes of absent rows and the like
  std::uint64_t apply_us = 0;  // time spent in wire_apply
  // 0: there are refusals, too many to be sent while the transaction is open. The same wire_apply once
  // more brings them, with kAppliedBefore.
  std::uint8_t complete = 1;
  std::uint64_t refusals = 0; // records follow
};
inline void write(Buffer &out, const ApplyReply &r) {
  out.u8(static_cast<std::uint8_t>(r.status));
  out.varint(r.inserted);
  out.varint(r.updated);
  out.varint(r.deleted);
  out.varint(r.unchanged);
  out.varint(r.apply_us);
  out.u8(r.complete);
  out.varint(r.refusals);
}
inline void read(Reader &in, ApplyReply &r) {
  r.status = static_cast<ApplyStatus>(in.u8());
  r.inserted = in.varint();
  r.updated = in.varint();
  r.deleted = in.varint();
  r.unchanged = in.varint();
  r.apply_us = in.varint();
  r.complete = in.u8();
  r.refusals = in.varint();
}

/// One key the receiver refused. Stored with the batch's progress row, so that a sender that lost
/// the answer gets it again with kAppliedBefore. `key` is the keyrow exactly as it was sent.
struct Refusal {
  std::string_view schema;
  std::string_view table;
  std::uint8_t kind = 'W'; // section kind
  ByteSpan key;
  std::string_view sqlstate;
  std::string_view message;
  std::string_view detail;
  std::string_view constraint;
};
inline void write(Buffer &out, const Refusal &r) {
  out.text(r.schema);
  out.text(r.table);
  out.u8(r.kind);
  out.sized(r.key);
  out.text(r.sqlstate);
  out.text(r.message);
  out.text(r.detail);
  out.text(r.constraint);
}
inline void read(Reader &in, Refusal &r) {
  r.schema = in.text();
  r.table = in.text();
  r.kind = in.u8();
  r.key = in.sized();
  r.sqlstate = in.text();
  r.message = in.text();
  r.detail = in.text();
  r.constraint = in.text();
}

/// What stands behind refusals, if that was asked for: one for each, in their order, after the last of
/// them. Texts are in the receiver's encoding.
struct Standing {
  static constexpr std::uint8_t kOther = 1;       // names another key
  static constexpr std::uint8_t kOtherStands = 2; // whose row stands there and is in the way; else one that is missing there
  static constexpr std::uint8_t kImage = 4;       // `columns` records follow: what stands under the refused key
  static constexpr std::uint8_t kKnown = kOther | kOtherStands | kImage;
  std::uint8_t flags = 0;
  std::string_view schema, table; // of the other key
  ByteSpan key;                   // keyrow, as the sender sends keys of that table on this connection
  std::string_view cluster;       // of the row that stands there; empty: not known
  std::uint64_t columns = 0;
};
struct StandingColumn {
  static constexpr std::uint8_t kNull = 0, kWhole = 1, kCut = 2; // kCut: a part of it, and its marker
  std::string_view name;
  std::uint8_t state = kNull;
  std::string_view text;
};
inline void write(Buffer &out, const Standing &s) {
  out.u8(s.flags);
  if ((s.flags & Standing::kOther) != 0) {
    out.text(s.schema);
    out.text(s.table);
    out.sized(s.key);
    out.text(s.cluster);
  }
  if ((s.flags & Standing::kImage) != 0)
    out.varint(s.columns);
}
inline void read(Reader &in, Standing &s) {
  s.flags = in.u8();
  if ((s.flags & ~Standing::kKnown) != 0)
    in.fail();
  if ((s.flags & Standing::kOther) != 0) {
    s.schema = in.text();
    s.table = in.text();
    s.key = in.sized();
    s.cluster = in.text();
  }
  s.columns = (s.flags & Standing::kImage) != 0 ? in.varint() : 0;
  if (s.columns > in.remaining())
    in.fail();
}
inline void write(Buffer &out, const StandingColumn &c) {
  out.text(c.name);
  out.u8(c.state);
  if (c.state != StandingColumn::kNull)
    out.text(c.text);
}
inline void read(Reader &in, StandingColumn &c) {
  c.name = in.text();
  c.state = in.u8();
  if (c.state > StandingColumn::kCut)
    in.fail();
  c.text = c.state != StandingColumn::kNull ? in.text() : std::string_view();
}

/// wire_wanted reply: count(varint), then each: table(varint) key(sized keyrow). The sender answers
/// with 'W' rows (or 'D' keyrows when the row is gone) for exactly these keys, put after the other
/// chunks, and applies again with the larger chunk count.

/// wire_heartbeat: generation(u64) complete_until(i64) -> HeartbeatReply.
struct HeartbeatReply {
  Problem problem;
  std::uint64_t batch = 0; // last applied of the speaker
  Id batch_id;
  std::int64_t clock = 0;
  std::uint64_t config = 0; // changes whenever the receiver's rules change: describe/hello again
};
inline void write(Buffer &out, const HeartbeatReply &h) {
  write(out, h.problem);
  out.u64(h.batch);
  write(out, h.batch_id);
  out.i64(h.clock);
  out.u64(h.config);
}
inline void read(Reader &in, HeartbeatReply &h) {
  read(in, h.problem);
  h.batch = in.u64();
  read(in, h.batch_id);
  h.clock = in.i64();
  h.config = in.u64();
}

inline constexpr std::size_t kMaxStageNote = std::size_t{1} << 20;
inline constexpr std::uint64_t kMaxStages = 256; // of one sender at a time

/// A statement of its own. A stage that is not there is begun. What is wrong with the counts is kNotPut, and
/// what was put is forgotten then.
struct StageRequest {
  std::uint64_t generation = 0;
  Id stage;                   // chosen by the sender
  std::uint64_t previous = 0; // the batch that the peer holds when the stage is begun; the same ever after
  Id previous_id;
  std::uint32_t pass = 1;     // from 1 on; never less than before
  std::uint64_t chunks = 0;   // put since the last wire_stage or wire_apply
  std::uint64_t rows = 0;
  ByteSpan note; // the sender's own, at most kMaxStageNote; replaces the former one
};
inline void write(Buffer &out, const StageRequest &s) {
  out.u64(s.generation);
  write(out, s.stage);
  out.u64(s.previous);
  write(out, s.previous_id);
  out.u32(s.pass);
  out.varint(s.chunks);
  out.varint(s.rows);
  out.sized(s.note);
}
inline void read(Reader &in, StageRequest &s) {
  s.generation = in.u64();
  read(in, s.stage);
  s.previous = in.u64();
  read(in, s.previous_id);
  s.pass = in.u32();
  s.chunks = in.varint();
  s.rows = in.varint();
  s.note = in.sized();
}

/// Totals of the stage, this call included.
struct StageReply {
  std::uint64_t chunks = 0;
  std::uint64_t rows = 0;
  std::uint64_t bytes = 0;
};
inline void write(Buffer &out, const StageReply &s) {
  out.u64(s.chunks);
  out.u64(s.rows);
  out.u64(s.bytes);
}
inline void read(Reader &in, StageReply &s) {
  s.chunks = in.u64();
  s.rows = in.u64();
  s.bytes = in.u64();
}

/// wire_stages reply: count(varint), then so many of these.
struct StageRecord {
  Id stage;
  std::uint64_t previous = 0;
  Id previous_id;
  std::uint64_t chunks = 0;
  std::uint64_t rows = 0;
  std::uint64_t bytes = 0;
  ByteSpan note;
};
inline void write(Buffer &out, const StageRecord &s) {
  write(out, s.stage);
  out.u64(s.previous);
  write(out, s.previous_id);
  out.u64(s.chunks);
  out.u64(s.rows);
  out.u64(s.bytes);
  out.sized(s.note);
}
inline void read(Reader &in, StageRecord &s) {
  read(in, s.stage);
  s.previous = in.u64();
  read(in, s.previous_id);
  s.chunks = in.u64();
  s.rows = in.u64();
  s.bytes = in.u64();
  s.note = in.sized();
}

/// Not there: no error.
struct StageDrop {
  std::uint64_t generation = 0;
  Id stage;
};
inline void write(Buffer &out, const StageDrop &s) {
  out.u64(s.generation);
  write(out, s.stage);
}
inline void read(Reader &in, StageDrop &s) {
  s.generation = in.u64();
  read(in, s.stage);
}

struct Section {
  std::uint8_t kind = 0;
  std::uint64_t table = 0;
  std::uint64_t rows = 0;
  ByteSpan body;
};

/// Walks the sections of a chunk. next() is false at the end and on damage; tell them by damaged().
class SectionReader {
public:
  explicit SectionReader(ByteSpan chunk) noexcept : reader_(chunk) {}
  bool next(Section &section) noexcept {
    if (!reader_.ok() || reader_.at_end())
      return false;
    section.kind = reader_.u8();
    section.table = reader_.varint();
    section.rows = reader_.varint();
    section.body = reader_.bytes(reader_.u32());
    if (section.kind != 'D' && section.kind != 'W' && section.kind != 'P')
      reader_.fail();
    return reader_.ok();
  }
  [[nodiscard]] bool damaged() const noexcept { return !reader_.ok(); }

private:
  Reader reader_;
};

} // namespace seal_sync::core::wire

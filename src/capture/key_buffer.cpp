// See key_buffer.hpp.
//
// Memory bound: a level writes itself out at kLevelBound; once all levels together hold more than
// kTotalBound, at kTightBound. So N open savepoints cost at most kTotalBound + N * kTightBound.

#include "capture/key_buffer.hpp"

#include "capture/capture.hpp"
#include "capture/change_log.hpp"
#include "capture/guard.hpp"
#include "pg/guc.hpp"
#include "pg/shared_state.hpp"

namespace seal_sync::capture {

namespace {

// A log row must fit its page beside header and xid, so that it is never compressed or moved to TOAST.
constexpr size_t kRowBytes = 8000;
constexpr size_t kLevelBound = 64 * 1024;
constexpr size_t kTotalBound = 4 * 1024 * 1024;
constexpr size_t kTightBound = 1024;
constexpr int kMaxFullRows = kLevelBound / 4096 + 4;

struct Level {
  Level *parent;
  int nest;
  core::Buffer row; // under construction
  core::ChangeRunWriter writer;
  core::ByteSpan full[kMaxFullRows]; // finished rows, palloc'd
  int full_count;
  size_t bytes; // of row and full rows
};

Level *top = nullptr;
size_t total_bytes = 0;
MemoryContext context = nullptr; // child of TopTransactionContext
bool wrote = false;              // this transaction has rows in the log
core::Buffer scratch;            // one encoded key

uint8_t *grow(uint8_t *old, size_t, size_t wanted, void *owner) {
  if (old == nullptr)
    return static_cast<uint8_t *>(MemoryContextAlloc(static_cast<MemoryContext>(owner), wanted));
  return static_cast<uint8_t *>(repalloc(old, wanted));
}

void forget_everything() noexcept {
  top = nullptr;
  total_bytes = 0;
  context = nullptr; // goes with its parent
  wrote = false;
  end_of_transaction();
  forget_overridden();
}

void free_level(Level *level) {
  total_bytes -= level->bytes;
  for (int i = 0; i < level->full_count; i++)
    pfree(const_cast<uint8_t *>(level->full[i].data()));
  if (level->row.data != nullptr)
    pfree(level->row.data);
  pfree(level);
}

/// Writes all of a level. It must be the current one, and then every row becomes part of it.
void write_out(Level *level) {
  core::ByteSpan rows[kMaxFullRows + 1];
  int count = 0;
  for (int i = 0; i < level->full_count; i++)
    rows[count++] = level->full[i];
  if (level->row.size > 1)
    rows[count++] = level->row.span();
  if (count > 0) {
    const MemoryContext old = MemoryContextSwitchTo(context);
    append_to_log(rows, count);
    MemoryContextSwitchTo(old);
    wrote = true;
  }
  for (int i = 0; i < level->full_count; i++)
    pfree(const_cast<uint8_t *>(level->full[i].data()));
  level->full_count = 0;
  core::ChangeRunWriter::begin_row(level->row);
  level->writer.reset();
  total_bytes -= level->bytes;
  level->bytes = 0;
}

/// Puts the open row aside and starts a new one.
void finish_row(Level *level) {
  const core::ByteSpan open = level->row.span();
  auto *copy = static_cast<uint8_t *>(MemoryContextAlloc(context, open.size()));
  memcpy(copy, open.data(), open.size());
  level->full[level->full_count++] = core::ByteSpan(copy, open.size());
  core::ChangeRunWriter::begin_row(level->row);
  level->writer.reset();
}

void account(Level *level, size_t added) {
  level->bytes += added;
  total_bytes += added;
}

bool over_bound(const Level *level) {
  return level->bytes > (total_bytes > kTotalBound ? kTightBound : kLevelBound) ||
         level->full_count > kMaxFullRows - 3;
}

Level *current_level() {
  const int nest = GetCurrentTransactionNestLevel();
  if (top != nullptr && top->nest == nest)
    return top;
  if (context == nullptr)
    context = AllocSetContextCreate(TopTransactionContext, "seal_sync captured keys",
                                    ALLOCSET_DEFAULT_SIZES);
  auto *level = static_cast<Level *>(MemoryContextAllocZero(context, sizeof(Level)));
  level->parent = top;
  level->nest = nest;
  level->row.grow = grow;
  level->row.owner = context;
  core::ChangeRunWriter::begin_row(level->row);
  top = level;
  return level;
}

/// The current level, with room for that many bytes beside a run's head.
Level *make_room(size_t bytes) {
  constexpr size_t kRunHead = 24;
  Level *level = current_level();
  if (level->row.size > 1 && level->row.size + bytes + kRunHead > kRowBytes) {
    finish_row(level);
    if (over_bound(level))
      write_out(level);
  }
  return level;
}

/// Hands a committed child's keys to its parent level.
void hand_up(Level *child) {
  Level *parent = child->parent;
  if (parent == nullptr || parent->nest != child->nest - 1) {
    child->nest--; // the parent has captured nothing: the child's buffer becomes its
    return;
  }
  for (int i = 0; i < child->full_count; i++) {
    if (parent->full_count == kMaxFullRows) // prevented by pre_commit_sub
      elog(ERROR, "seal_sync: captured keys of a savepoint were not written in time");
    parent->full[parent->full_count++] = child->full[i];
  }
  child->full_count = 0;
  if (child->row.size > 1) {
    if (parent->row.size + child->row.size > kRowBytes)
      finish_row(parent);
    parent->row.bytes(child->row.data + 1, child->row.size - 1); // without the version byte
    parent->writer.reset();                                      // the next key opens a run
  }
  parent->bytes += child->bytes;
  child->bytes = 0;
  top = parent;
  free_level(child);
}

void on_subtransaction(SubXactEvent event, SubTransactionId, SubTransactionId, void *) {
  const int nest = GetCurrentTransactionNestLevel();
  if (event == SUBXACT_EVENT_COMMIT_SUB || event == SUBXACT_EVENT_ABORT_SUB)
    end_overridden_level(nest, event == SUBXACT_EVENT_COMMIT_SUB);
  if (top == nullptr)
    return;
  switch (event) {
  case SUBXACT_EVENT_PRE_COMMIT_SUB:
    // Written here, where the child is still the current level, when the parent could not hold it.
    if (top->nest == nest && top->parent != nullptr && top->parent->nest == nest - 1 &&
        (top->bytes + top->parent->bytes > (total_bytes > kTotalBound ? kTightBound : kLevelBound) ||
         top->full_count + top->parent->full_count + 2 > kMaxFullRows))
      write_out(top);
    break;
  case SUBXACT_EVENT_COMMIT_SUB:
    if (top->nest == nest)
      hand_up(top);
    break;
  case SUBXACT_EVENT_ABORT_SUB:
    while (top != nullptr && top->nest >= nest) {
      Level *level = top;
      top = level->parent;
      free_level(level);
    }
    break;
  default:
    break;
  }
}

void on_transaction(XactEvent event, void *) {
  switch (event) {
  case XACT_EVENT_PRE_COMMIT:
  case XACT_EVENT_PRE_PREPARE:
    tell_overridden();
    // Deferred triggers and held cursors have run; nothing can capture after this.
    if (top != nullptr)
      write_out(top);
    break;
  case XACT_EVENT_COMMIT:
    // The transaction has left the process array: whoever is woken sees its rows.
    if (wrote)
      pg::wake_routes();
    forget_everything();
    break;
  case XACT_EVENT_ABORT:
  case XACT_EVENT_PREPARE:
    forget_everything();
    break;
  default:
    break;
  }
}

void append_key(core::Buffer &out, const config::Table *table, TupleTableSlot *row) {
  for (int i = 0; i < table->key_count; i++) {
    const config::KeyColumn &column = table->keys[i];
    bool is_null;
    const Datum value = slot_getattr(row, column.attno, &is_null);
    if (is_null)
      elog(ERROR, "null in primary key column %d of relation %u", column.attno, table->relation);
    if (column.by_value) {
      uint8_t raw[sizeof(Datum)];
      memcpy(raw, &value, sizeof raw); // little-endian: the low bytes are the value
      out.bytes(raw, static_cast<size_t>(column.width));
    } else if (column.width > 0) {
      out.bytes(DatumGetPointer(value), static_cast<size_t>(column.width));
    } else if (column.width == -1) {
      auto *stored = reinterpret_cast<struct varlena *>(DatumGetPointer(value));
      struct varlena *plain = pg_detoast_datum_packed(stored);
      out.sized({reinterpret_cast<const uint8_t *>(VARDATA_ANY(plain)), VARSIZE_ANY_EXHDR(plain)});
      if (plain != stored)
        pfree(plain);
    } else {
      out.text(DatumGetCString(value));
    }
  }
}

} // namespace

namespace {

/// What becomes of a change while the log is full: refused, or left out with a mark that the table
/// needs all its rows shipped again. Deletes are recorded all the same, for no row would tell of them.
bool left_out_as_full(core::ChangeKind kind, const config::Table *table, const config::Cluster *cluster) {
  pg::DatabaseSlot *slot = pg::my_database_slot();
  if (likely(slot == nullptr || pg_atomic_read_u32(&slot->log_full) == 0))
    return false;
  if (guc::log_full_action == guc::kRefuseWrites)
    ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
            errmsg("the change log is full"),
            errdetail("It has reached seal_sync.max_log_size, and seal_sync.log_full_action is refuse_writes."),
            errhint("See seal_sync.health for the peer that does not take its changes."));
  if (kind == core::ChangeKind::kDelete)
    return false;
  Level *level = make_room(0);
  const size_t start = level->row.size;
  level->writer.select(level->row, core::ChangeKind::kMark, table->root, table->relation,
                       static_cast<uint32_t>(cluster->id), {});
  account(level, level->row.size - start);
  return true;
}

} // namespace

void remember(core::ChangeKind kind, const config::Table *table, const config::Cluster *cluster,
              core::ByteSpan mask, TupleTableSlot *row) {
  if (scratch.grow == nullptr) {
    scratch.grow = grow;
    scratch.owner = TopMemoryContext;
  }
  if (left_out_as_full(kind, table, cluster))
    return;
  scratch.size = 0;
  append_key(scratch, table, row);
  if (scratch.size > core::kMaxRunBytes / 2)
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
            errmsg("primary key of a row of table \"%s.%s\" is too long to be recorded",
                   get_namespace_name(get_rel_namespace(table->root)), get_rel_name(table->root)),
            errdetail("It takes %zu bytes, at most %zu are possible.", scratch.size,
                      core::kMaxRunBytes / 2));

  Level *level = make_room(mask.size() + scratch.size);
  const size_t start = level->row.size;
  level->writer.select(level->row, kind, table->root, table->relation,
                       static_cast<uint32_t>(cluster->id), mask);
  level->row.bytes(scratch.data, scratch.size);
  level->writer.key_done(level->row);
  account(level, level->row.size - start);
  if (level->bytes > kTightBound && over_bound(level))
    write_out(level);
}

void init() {
  RegisterXactCallback(on_transaction, nullptr);
  RegisterSubXactCallback(on_subtransaction, nullptr);
  init_trigger();
}

} // namespace seal_sync::capture

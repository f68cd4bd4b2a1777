// See route_status.hpp.
#include "worker/route_status.hpp"

#include "core/quoting.hpp"
#include "core/wire.hpp"
#include "pg/boundary.hpp"
#include "pg/latch.hpp"

#include <algorithm>

namespace seal_sync::worker {

namespace {

/// Into a field of fixed size, never through the middle of a character.
template <std::size_t N> void copy_text(char (&field)[N], const char *text) {
  const int size = pg_mbcliplen(text, static_cast<int>(strlen(text)), static_cast<int>(N) - 1);
  memcpy(field, text, static_cast<std::size_t>(size));
  field[size] = '\0';
}

// What monitors may read of an error. The log has all of it.

std::string shown_message(const char *sqlstate, const char *message) {
  if (core::message_may_quote_rows(sqlstate))
    return std::string("a row was refused with SQLSTATE ") + sqlstate;
  return message != nullptr ? message : "";
}

std::string shown_hint(const char *sqlstate, const char *hint) {
  return hint == nullptr || core::message_may_quote_rows(sqlstate) ? "" : hint;
}

std::string shown_message(const core::Error &error) { return shown_message(error.sqlstate(), error.message().c_str()); }

std::string full_text(const core::Error &error) {
  const std::string message = shown_message(error);
  return error.detail().empty() || core::detail_may_quote_rows(error.sqlstate()) ? message : message + ": " + error.detail();
}

} // namespace

pg::RouteSlot RouteStatus::read() const {
  LWLockAcquire(pg::shared_lock(), LW_SHARED);
  const pg::RouteSlot copy = *slot_;
  LWLockRelease(pg::shared_lock());
  return copy;
}

void RouteStatus::enter(pg::RouteState state, const std::string &reason) {
  // What the peer lacks is news even when it lacked something else before.
  const bool changed = state != state_ || (state == pg::RouteState::kWaitingPeer && reason != reason_);
  state_ = state;
  reason_ = reason;
  update([&](pg::RouteSlot &slot) {
    if (slot.state != state)
      slot.state_since = GetCurrentTimestamp();
    slot.state = state;
    copy_text(slot.state_reason, reason.c_str());
    if (state != pg::RouteState::kRetrying)
      slot.next_retry_at = 0;
  });
  if (changed && state != pg::RouteState::kStarting)
    log(state, reason, {}, {});
}

void RouteStatus::log(pg::RouteState state, const std::string &reason, const std::string &detail,
                      const std::string &hint) {
  pg::call([&] {
    ereport(LOG,
            errmsg("seal_sync route \"%s\": %s%s%s", NameStr(slot_->peer), pg::to_text(state),
                   reason.empty() ? "" : ": ", reason.c_str()),
            detail.empty() ? 0 : errdetail_internal("%s", detail.c_str()),
            hint.empty() ? 0 : errhint("%s", hint.c_str()));
  });
}

void RouteStatus::note_error(const char *sqlstate, const std::string &text, const std::string &hint) {
  update([&](pg::RouteSlot &slot) {
    slot.last_error_at = GetCurrentTimestamp();
    strlcpy(slot.last_error_sqlstate, sqlstate, sizeof slot.last_error_sqlstate);
    copy_text(slot.last_error, text.c_str());
    copy_text(slot.last_error_hint, hint.c_str());
  });
}

void RouteStatus::retrying(const core::Error &error, int64 pause_ms, int retries) {
  const bool not_ready = std::string_view(error.sqlstate()) == core::wire::kNotPeer;
  const pg::RouteState state = not_ready ? pg::RouteState::kWaitingPeer : pg::RouteState::kRetrying;
  note_error(error.sqlstate(), full_text(error), shown_hint(error.sqlstate(), error.hint().c_str()));
  const bool changed = state_ != state;
  state_ = state;
  reason_ = error.message();
  const std::string shown = shown_message(error);
  update([&](pg::RouteSlot &slot) {
    const TimestampTz now = GetCurrentTimestamp();
    if (slot.state != state)
      slot.state_since = now;
    slot.state = state;
    copy_text(slot.state_reason, shown.c_str());
    slot.retries = retries;
    slot.next_retry_at = now + pause_ms * 1000;
  });
  const bool known = std::find(logged_.begin(), logged_.end(), error.sqlstate()) != logged_.end();
  if (changed || !known)
    log(state, error.message(), error.detail(), error.hint());
  if (!known)
    logged_.emplace_back(error.sqlstate());
}

void RouteStatus::halted(const core::Error &error) {
  note_error(error.sqlstate(), full_text(error), shown_hint(error.sqlstate(), error.hint().c_str()));
  const bool changed = state_ != pg::RouteState::kHalted;
  state_ = pg::RouteState::kHalted;
  const std::string shown = shown_message(error);
  update([&](pg::RouteSlot &slot) {
    if (slot.state != pg::RouteState::kHalted)
      slot.state_since = GetCurrentTimestamp();
    slot.state = pg::RouteState::kHalted;
    copy_text(slot.state_reason, shown.c_str());
    slot.next_retry_at = 0;
  });
  if (changed)
    log(pg::RouteState::kHalted, error.message(), error.detail(), error.hint());
}

void RouteStatus::failed(const ErrorData *error) noexcept {
  const char *sqlstate = unpack_sql_state(error->sqlerrcode);
  const std::string message = shown_message(sqlstate, error->message);
  const std::string hint = shown_hint(sqlstate, error->hint);
  update([&](pg::RouteSlot &slot) {
    const TimestampTz now = GetCurrentTimestamp();
    if (slot.state != pg::RouteState::kRetrying)
      slot.state_since = now;
    slot.state = pg::RouteState::kRetrying;
    slot.retries++;
    slot.last_error_at = now;
    strlcpy(slot.last_error_sqlstate, sqlstate, sizeof slot.last_error_sqlstate);
    copy_text(slot.last_error, message.c_str());
    copy_text(slot.last_error_hint, hint.c_str());
    copy_text(slot.state_reason, slot.last_error);
  });
}

void RouteStatus::worked_off(int64 keys, int64 busy_us) {
  rate_.add(keys, busy_us, pg::monotonic_us());
  update([this](pg::RouteSlot &slot) {
    slot.keys_per_second = rate_.per_second();
    slot.typical_batch = rate_.typical_batch();
  });
}

void RouteStatus::batch_collected(int64 started_us, TimestampTz since, int64 keys, int64 staged, int64 left) {
  batch_.begin(started_us, pg::monotonic_us(), keys, staged);
  batch_staged_ = staged;
  update([=](pg::RouteSlot &slot) {
    slot.batch_keys = keys + staged + left;
    slot.batch_done = staged;
    slot.batch_since = since;
    if (staged == 0) // else as the pass before has left it
      slot.batch_left_us = -1;
  });
}

void RouteStatus::batch_sent(int64 keys_done, int64 rows_done) {
  batch_.advance(keys_done, pg::monotonic_us(), rows_done);
  show_batch();
}

/// As long as earlier batches took; before the first one nothing is known of it.
void RouteStatus::batch_applies_afterwards(bool yes) {
  const double rate = apply_rate_.per_second();
  batch_.apply_afterwards(yes && rate > 0 ? 1e6 / rate : 0);
}

void RouteStatus::batch_applying() {
  batch_.applying(pg::monotonic_us());
  show_batch();
}

void RouteStatus::batch_applied(int64 keys, int64 apply_us) { apply_rate_.add(keys, apply_us, pg::monotonic_us()); }

void RouteStatus::batch_over() {
  update([](pg::RouteSlot &slot) { slot.batch_keys = slot.batch_done = 0; });
}

void RouteStatus::show_batch() {
  const std::optional<double> rate = batch_.per_second();
  const std::optional<double> left = batch_.left_us(pg::monotonic_us());
  update([&](pg::RouteSlot &slot) {
    slot.batch_done = batch_staged_ + batch_.done();
    slot.batch_left_us = left.value_or(-1);
    slot.batch_left_at = GetCurrentTimestamp();
    // As soon as it has shown more than the batches before it
    if (rate && static_cast<double>(batch_.done()) >= slot.typical_batch) {
      slot.keys_per_second = *rate;
      slot.typical_batch = static_cast<double>(batch_.done());
    }
  });
}

void RouteStatus::recovered() {
  logged_.clear();
  update([](pg::RouteSlot &slot) { slot.retries = 0; });
}

} // namespace seal_sync::worker

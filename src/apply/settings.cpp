// See settings.hpp.
#include "apply/settings.hpp"

#include "pg/guc.hpp"

namespace seal_sync::apply {

namespace {

void set(const char *name, const char *value, GucAction action) {
  (void)set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, action, true, 0, false);
}

} // namespace

void require_durable_commit() {
  // remote_write waits for local flush too; only "off" and "local" acknowledge less than promised.
  if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_WRITE)
    set("synchronous_commit", "on", GUC_ACTION_LOCAL);
}

void bound_lock_waits() {
  // A wait is checked for a deadlock once. When this session closes the circle, it finds it after 10 ms
  // and is the victim. When an application's transaction closes it, that one finds it after its own
  // deadlock_timeout: by then this session must have given up.
  char value[32];
  const int others_look_after = Max(DeadlockTimeout, 10);
  snprintf(value, sizeof value, "%d", Min(guc::apply_lock_timeout, others_look_after - others_look_after / 10));
  set("lock_timeout", value, GUC_ACTION_LOCAL);
  set("deadlock_timeout", "10", GUC_ACTION_LOCAL);
}

void bound_silence(int milliseconds) {
  char value[32];
  snprintf(value, sizeof value, "%d", milliseconds);
  set("idle_in_transaction_session_timeout", value, GUC_ACTION_LOCAL);
}

int pin_settings(int sender_encoding) {
  const int level = NewGUCNestLevel();
  set("search_path", "pg_catalog, pg_temp", GUC_ACTION_SAVE);
  set("DateStyle", "ISO, YMD", GUC_ACTION_SAVE);
  set("IntervalStyle", "postgres", GUC_ACTION_SAVE);
  set("extra_float_digits", "3", GUC_ACTION_SAVE);
  set("array_nulls", "on", GUC_ACTION_SAVE);
  set("xmloption", "content", GUC_ACTION_SAVE);
  set("lc_monetary", "C", GUC_ACTION_SAVE);
  // Text inside binary values is converted from the client's encoding by the receive functions.
  set("client_encoding", pg_encoding_to_char(sender_encoding), GUC_ACTION_SAVE);
  // TimeZone stays the server's: values carry their offset, and local defaults mean local time.
  return level;
}

void restore_settings(int nest_level) { AtEOXact_GUC(false, nest_level); }

void enter_replica_role() { set("session_replication_role", "replica", GUC_ACTION_SAVE); }

} // namespace seal_sync::apply

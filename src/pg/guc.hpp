#pragma once
// Every setting of the extension, as plain variables that PostgreSQL writes.
//
// A setting stands here when something reads it. Times are milliseconds unless the name of the
// declaring unit in guc.cpp says otherwise.

namespace seal_sync::guc {

enum Guard : int { kGuardRefuse, kGuardWarn, kGuardOff };
enum LogFullAction : int { kMarkDirty, kRefuseWrites };

extern int apply_lock_timeout; // ms
extern int connect_timeout;    // ms
extern int debug_part_size; // bytes
extern int debug_rotation_period;
extern bool debug_stage_copies;
extern int copy_max_rate;      // kB a second, 0: no limit
extern char *databases;        // list of names, empty: all
extern bool enabled;
extern int event_retention; // s
extern int guard;           // Guard
extern int log_full_action; // LogFullAction
extern int max_batch_size;  // MB
extern int max_stage_size;  // MB
extern int max_log_size;    // MB, 0: no limit
extern int max_snapshot_age; // ms
extern int reply_timeout;    // ms
extern int resend_window;    // s
extern int stage_retention;  // s
extern int retry_max;        // ms
extern int retry_min;        // ms
extern int scan_period;      // ms
extern int sequence_head_room; // s
extern int stage_after;      // ms
extern bool wake_on_commit;

void init(); // _PG_init, first of all

} // namespace seal_sync::guc

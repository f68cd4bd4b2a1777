// See guc.hpp. Alphabetical; the unit stands in the flags, so that SHOW prints it.
#include "pg/guc.hpp"

#include "pg/postgres.hpp"

extern "C" {
#include "utils/varlena.h"
}

namespace seal_sync::guc {

int apply_lock_timeout = 2000;
int connect_timeout = 10000;
int debug_part_size = 0;
int debug_rotation_period = 5000;
bool debug_stage_copies = false;
int copy_max_rate = 0;
char *databases = nullptr;
bool enabled = true;
int event_retention = 400 * 24 * 60 * 60;
int guard = kGuardRefuse;
int log_full_action = kMarkDirty;
int max_batch_size = 65536;
int max_stage_size = 262144;
int max_log_size = 10240;
int max_snapshot_age = 300000;
int reply_timeout = 60000;
int resend_window = 900;
int stage_retention = 7 * 86400;
int retry_max = 5000;
int retry_min = 1000;
int scan_period = 1000;
int sequence_head_room = 3600;
int stage_after = 2000;
bool wake_on_commit = true;

namespace {

constexpr config_enum_entry kGuardOptions[] = {{"refuse", kGuardRefuse, false},
                                               {"warn", kGuardWarn, false},
                                               {"off", kGuardOff, false},
                                               {nullptr, 0, false}};
constexpr config_enum_entry kLogFullOptions[] = {{"mark_dirty", kMarkDirty, false},
                                                 {"refuse_writes", kRefuseWrites, false},
                                                 {nullptr, 0, false}};
constexpr int kDay = 24 * 60 * 60;

extern "C" bool check_databases(char **value, void **, GucSource) {
  if (*value == nullptr)
    return true;
  char *copy = pstrdup(*value);
  List *names = NIL;
  const bool fine = SplitIdentifierString(copy, ',', &names);
  list_free(names);
  pfree(copy);
  if (!fine)
    GUC_check_errdetail("List syntax is invalid.");
  return fine;
}

void define_ms(const char *name, const char *what, const char *more, int *variable, int lowest,
               int highest) {
  DefineCustomIntVariable(name, what, more, variable, *variable, lowest, highest, PGC_SIGHUP,
                          GUC_UNIT_MS, nullptr, nullptr, nullptr);
}

} // namespace

void init() {
  define_ms("seal_sync.apply_lock_timeout",
            "How long applying a batch on the peer may wait for a lock there.",
            "Beyond, the batch is rolled back and repeated: applications on the peer come first.",
            &apply_lock_timeout, 1, kDay * 1000);
  define_ms("seal_sync.connect_timeout", "How long connecting to a peer may take.", nullptr,
            &connect_timeout, 100, kDay * 1000);
  DefineCustomIntVariable("seal_sync.copy_max_rate", "How much of tables that are copied is sent in a second, to each peer.",
                          "Before compression. 0 means no limit.", &copy_max_rate, 0, 0, INT_MAX / 2048, PGC_SIGHUP,
                          GUC_UNIT_KB, nullptr, nullptr, nullptr);
  DefineCustomStringVariable("seal_sync.databases", "Databases in which workers run.",
                             "Empty: every database that has the extension.", &databases, "",
                             PGC_SIGHUP, GUC_LIST_INPUT, check_databases, nullptr, nullptr);
  DefineCustomIntVariable("seal_sync.debug_part_size", "Largest part of a copy, in bytes; its notes are a sixteenth of that.", "For tests. 0: as fast as the link.",
                          &debug_part_size, 0, 0, INT_MAX, PGC_SIGHUP, GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("seal_sync.debug_rotation_period", "How often the change log is rotated.",
                          "For tests.", &debug_rotation_period, debug_rotation_period, 10, kDay * 1000, PGC_SIGHUP,
                          GUC_UNIT_MS | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE, nullptr, nullptr, nullptr);
  DefineCustomBoolVariable("seal_sync.debug_stage_copies", "Whether every copy of a table is made in parts.", "For tests and measurements.",
                           &debug_stage_copies, false, PGC_SIGHUP, GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE, nullptr, nullptr, nullptr);
  DefineCustomBoolVariable("seal_sync.enabled", "Whether anything is shipped from this server.",
                           "Off as the first line of the configuration of a clone.", &enabled, true,
                           PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("seal_sync.event_retention", "How long it is kept who did what.",
                          "See the view seal_sync.events.", &event_retention, event_retention, 0, INT_MAX,
                          PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr, nullptr);
  DefineCustomEnumVariable("seal_sync.guard",
                           "What happens to a change of a row whose cluster has its primary elsewhere.",
                           nullptr, &guard, kGuardRefuse, kGuardOptions, PGC_SUSET, 0, nullptr,
                           nullptr, nullptr);
  DefineCustomEnumVariable("seal_sync.log_full_action",
                           "What happens when the change log has reached seal_sync.max_log_size.",
                           "mark_dirty: changes are not logged, tables are marked, and their rows shipped again later.",
                           &log_full_action, kMarkDirty, kLogFullOptions, PGC_SIGHUP, 0, nullptr,
                           nullptr, nullptr);
  DefineCustomIntVariable("seal_sync.max_batch_size", "Largest batch that a peer may send.",
                          "It is collected in temporary files before it is applied. What a peer stages is not counted.", &max_batch_size,
                          max_batch_size, 1, INT_MAX / 2, PGC_SIGHUP, GUC_UNIT_MB, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("seal_sync.max_log_size", "Largest size of the change log.",
                          "0 means no limit.", &max_log_size, max_log_size, 0, INT_MAX / 2, PGC_SIGHUP,
                          GUC_UNIT_MB, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("seal_sync.max_stage_size", "How much one peer may stage here.",
                          "Copies of large tables and long backlogs are kept in the database until they are whole. 0 means no limit.",
                          &max_stage_size, max_stage_size, 0, INT_MAX / 2, PGC_SIGHUP, GUC_UNIT_MB, nullptr, nullptr, nullptr);
  define_ms("seal_sync.max_snapshot_age", "How long one batch may hold its snapshot.",
            "A batch that takes longer is abandoned and taken anew.", &max_snapshot_age, 1000,
            kDay * 1000);
  define_ms("seal_sync.reply_timeout", "How long to wait for an answer of a peer.",
            "Applying a batch is given more, in proportion to its rows.", &reply_timeout, 100,
            kDay * 1000);
  DefineCustomIntVariable("seal_sync.resend_window", "How long acknowledged changes are kept.",
                          "A peer that fell back by less than this is healed by sending again.",
                          &resend_window, resend_window, 0, 7 * kDay, PGC_SIGHUP, GUC_UNIT_S, nullptr,
                          nullptr, nullptr);
  define_ms("seal_sync.retry_max", "Longest pause between attempts to reach a peer.", nullptr,
            &retry_max, 100, kDay * 1000);
  define_ms("seal_sync.retry_min", "First pause after a failed attempt to reach a peer.",
            "It doubles with each failure up to seal_sync.retry_max.", &retry_min, 10, kDay * 1000);
  define_ms("seal_sync.scan_period", "How often the change log is looked at.",
            "Commits wake the workers as well, see seal_sync.wake_on_commit.", &scan_period, 10,
            kDay * 1000);
  DefineCustomIntVariable("seal_sync.sequence_head_room",
                          "How much use of a carried sequence a standby is kept ahead by.",
                          "As many numbers as were used in that time, at least the head_room of the sequence.",
                          &sequence_head_room, sequence_head_room, 0, 7 * kDay, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr, nullptr);
  define_ms("seal_sync.stage_after", "How long a batch may be on its way before its parts are kept on the peer.",
            "From then on a break of the connection costs what was sent since the last part, not the batch.", &stage_after, 10,
            kDay * 1000);
  DefineCustomIntVariable("seal_sync.stage_retention", "How long what a peer has staged is kept for it.",
                          "Counted from its last part; a peer that comes back later sends it again.", &stage_retention, stage_retention, 60,
                          INT_MAX, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr, nullptr);
  DefineCustomBoolVariable("seal_sync.wake_on_commit",
                           "Whether a commit that changed registered tables wakes the workers.",
                           nullptr, &wake_on_commit, true, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
  MarkGUCPrefixReserved("seal_sync");
}

} // namespace seal_sync::guc

// See trigger_filter.hpp.
#include "apply/trigger_filter.hpp"

extern "C" {
#include "catalog/pg_proc.h"
}

namespace seal_sync::apply {

namespace {

bool is_ours(Oid function) {
  static const char kName[] = "seal_sync";
  const Oid extension = getExtensionOfObject(ProcedureRelationId, function);
  return OidIsValid(extension) && extension == get_extension_oid(kName, true);
}

bool fires(const Trigger &trigger) {
  return (trigger.tgenabled == TRIGGER_FIRES_ALWAYS || trigger.tgenabled == TRIGGER_FIRES_ON_REPLICA) &&
         TRIGGER_FOR_ROW(trigger.tgtype) && !is_ours(trigger.tgfoid);
}

/// What SetTriggerFlags of trigger.c does, for the row triggers that can be here.
void set_flags(TriggerDesc *desc, const Trigger &trigger) {
  const int16 type = trigger.tgtype;
  const auto is = [type](int16 timing, int16 event) {
    return TRIGGER_TYPE_MATCHES(type, TRIGGER_TYPE_ROW, timing, event);
  };
  desc->trig_insert_before_row |= is(TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_INSERT);
  desc->trig_insert_after_row |= is(TRIGGER_TYPE_AFTER, TRIGGER_TYPE_INSERT);
  desc->trig_update_before_row |= is(TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_UPDATE);
  desc->trig_update_after_row |= is(TRIGGER_TYPE_AFTER, TRIGGER_TYPE_UPDATE);
  desc->trig_delete_before_row |= is(TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_DELETE);
  desc->trig_delete_after_row |= is(TRIGGER_TYPE_AFTER, TRIGGER_TYPE_DELETE);
}

} // namespace

TriggerDesc *replica_triggers(TriggerDesc *all) {
  if (all == nullptr)
    return nullptr;
  int count = 0;
  for (int i = 0; i < all->numtriggers; ++i)
    count += fires(all->triggers[i]) ? 1 : 0;
  if (count == 0)
    return nullptr;
  auto *kept = static_cast<TriggerDesc *>(palloc0(sizeof(TriggerDesc)));
  kept->triggers = static_cast<Trigger *>(palloc(sizeof(Trigger) * count));
  // Catalogs are read again: never keep more than were counted.
  for (int i = 0; i < all->numtriggers && kept->numtriggers < count; ++i)
    if (fires(all->triggers[i])) {
      Trigger *const trigger = &kept->triggers[kept->numtriggers++];
      *trigger = all->triggers[i];
      // A deferred one could not be queued under restricted security: all fire with their row.
      trigger->tgdeferrable = trigger->tginitdeferred = false;
      set_flags(kept, *trigger);
    }
  return kept;
}

} // namespace seal_sync::apply

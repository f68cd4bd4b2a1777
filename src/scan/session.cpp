// What one connection has agreed on: declared in batch.hpp, made anew at each connect.
#include "scan/descriptor.hpp"

namespace seal_sync::scan {

Session *open_session(const char *peer, MemoryContext parent) {
  const MemoryContext context = AllocSetContextCreate(parent, "seal_sync session", ALLOCSET_DEFAULT_SIZES);
  auto *session = static_cast<Session *>(MemoryContextAllocZero(context, sizeof(Session)));
  session->context = context;
  namestrcpy(&session->peer, peer);
  session->config_version = config::version();
  // Values that travel as text must not depend on the server's settings.
  const struct {
    const char *name;
    const char *value;
  } pins[] = {{"DateStyle", "ISO, YMD"},   {"IntervalStyle", "postgres"}, {"extra_float_digits", "3"},
              {"bytea_output", "hex"},     {"lc_monetary", "C"},          {"search_path", "pg_catalog"},
              {"xmloption", "content"}};
  for (const auto &pin : pins)
    SetConfigOption(pin.name, pin.value, PGC_SUSET, PGC_S_OVERRIDE);
  return session;
}

void close_session(Session *session) { MemoryContextDelete(session->context); }

void accept_cluster(Session *session, int32 cluster_id) {
  const MemoryContext old = MemoryContextSwitchTo(session->context);
  const size_t size = sizeof(int32) * static_cast<size_t>(session->accepted_count + 1);
  session->accepted_clusters = static_cast<int32 *>(
      session->accepted_clusters == nullptr ? palloc(size) : repalloc(session->accepted_clusters, size));
  session->accepted_clusters[session->accepted_count++] = cluster_id;
  MemoryContextSwitchTo(old);
}

void forget_tables(Session *session) {
  if (session->tables == nullptr)
    return;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->tables);
  while (auto *sent = static_cast<SentTable *>(hash_seq_search(&status)))
    sent->columns = nullptr; // made and described anew when next needed
}

} // namespace seal_sync::scan

// See base_map.hpp.
#include "scan/base_map.hpp"

#include "config/config.hpp"
#include "scan/keys.hpp"

namespace seal_sync::scan {

namespace {

constexpr int kNever = -1;

template <typename T> T *append(MemoryContext context, T **list, int *count, int *capacity) {
  if (*count == *capacity) {
    *capacity = Max(8, *capacity * 2);
    const Size size = sizeof(T) * static_cast<Size>(*capacity);
    *list = static_cast<T *>(*list == nullptr ? MemoryContextAllocHuge(context, size) : repalloc_huge(*list, size));
  }
  T *added = &(*list)[(*count)++];
  *added = T{};
  return added;
}

bool same_position(const Position &a, const Position &b) {
  return a.xmin == b.xmin && a.xmax == b.xmax && a.running == b.running &&
         (a.running == 0 || memcmp(a.xip, b.xip, sizeof(uint64) * a.running) == 0);
}

int position_index(BaseMap *map, const Position &position) {
  for (int i = map->position_count - 1; i >= 0; i--)
    if (same_position(map->positions[i], position))
      return i;
  *append(map->context, &map->positions, &map->position_count, &map->position_capacity) =
      copy_position(position, map->context);
  return map->position_count - 1;
}

BaseMap *empty_map(MemoryContext parent) {
  const MemoryContext context = AllocSetContextCreate(parent, "seal_sync stage", ALLOCSET_SMALL_SIZES);
  auto *map = static_cast<BaseMap *>(MemoryContextAllocZero(context, sizeof(BaseMap)));
  map->context = context;
  map->rest = kNever;
  return map;
}

core::ByteSpan keep(MemoryContext context, core::ByteSpan bytes) {
  if (bytes.empty())
    return {};
  auto *copy = static_cast<uint8_t *>(MemoryContextAlloc(context, bytes.size()));
  memcpy(copy, bytes.data(), bytes.size());
  return {copy, bytes.size()};
}

} // namespace

BaseMap *make_base_map(MemoryContext parent, core::StageKind kind, Oid relation, uint32 pass, uint64 fingerprint) {
  BaseMap *map = empty_map(parent);
  map->kind = kind;
  map->relation = relation;
  map->pass = pass;
  map->fingerprint = fingerprint;
  return map;
}

void drop_base_map(BaseMap *map) {
  if (map != nullptr)
    MemoryContextDelete(map->context);
}

// ---- the note -------------------------------------------------------------------------------------

void write_note(const BaseMap *map, core::Buffer *out) {
  core::StageNoteHead head;
  head.kind = map->kind;
  head.pass = map->pass;
  head.relation = map->relation;
  head.pass_cuts = static_cast<std::uint32_t>(map->pass_cuts);
  head.fingerprint = map->fingerprint;
  memcpy(head.stage, map->stage.bytes, sizeof head.stage);
  head.number = map->number;
  head.chunks = map->chunks;
  head.rows = map->rows;
  core::write(*out, head);
  out->varint(static_cast<uint64>(map->position_count));
  for (int i = 0; i < map->position_count; i++) {
    const Position &position = map->positions[i];
    out->varint(position.xmin);
    out->varint(position.xmax - position.xmin);
    core::write_xids(*out, position.xmin, position.xip, position.running);
  }
  out->varint(static_cast<uint64>(map->table_count));
  for (int i = 0; i < map->table_count; i++) {
    out->u32(map->tables[i].relation);
    out->u32(map->tables[i].pass);
    out->u64(map->tables[i].signature);
  }
  out->varint(static_cast<uint64>(map->cut_count));
  for (int i = 0; i < map->cut_count; i++) {
    const Cut &cut = map->cuts[i];
    out->u32(cut.scope);
    out->u8(cut.at_end ? 1 : 0);
    out->varint(static_cast<uint64>(cut.base + 1));
    out->sized(cut.key);
  }
  out->varint(static_cast<uint64>(map->rest + 1));
}

BaseMap *read_note(MemoryContext parent, core::ByteSpan note) {
  core::Reader in(note);
  core::StageNoteHead head;
  core::read(in, head);
  BaseMap *map = make_base_map(parent, head.kind, head.relation, head.pass, head.fingerprint);
  memcpy(map->stage.bytes, head.stage, sizeof head.stage);
  map->number = head.number;
  map->chunks = head.chunks;
  map->rows = head.rows;
  const size_t positions = core::read_count(in, 3);
  for (size_t i = 0; i < positions && in.ok(); i++) {
    Position position;
    position.xmin = in.varint();
    position.xmax = position.xmin + in.varint();
    const size_t running = core::read_count(in, 1);
    position.running = static_cast<uint32>(running);
    if (running > 0)
      position.xip = static_cast<uint64 *>(MemoryContextAllocHuge(map->context, sizeof(uint64) * running));
    core::read_xids(in, position.xmin, position.xip, running);
    if (position.xmax < position.xmin)
      in.fail();
    *append(map->context, &map->positions, &map->position_count, &map->position_capacity) = position;
  }
  const auto read_base = [&] {
    const uint64 base = in.varint();
    if (base > positions)
      in.fail();
    return static_cast<int>(base) - 1;
  };
  const size_t tables = core::read_count(in, 16);
  for (size_t i = 0; i < tables && in.ok(); i++) {
    BaseMap::Noted noted = {};
    noted.relation = in.u32();
    noted.pass = in.u32();
    noted.signature = in.u64();
    *append(map->context, &map->tables, &map->table_count, &map->table_capacity) = noted;
  }
  const size_t cuts = core::read_count(in, 7);
  for (size_t i = 0; i < cuts && in.ok(); i++) {
    Cut cut = {};
    cut.scope = in.u32();
    cut.at_end = in.u8() != 0;
    cut.base = read_base();
    cut.key = keep(map->context, in.sized());
    if (cut.at_end != cut.key.empty() || (i > 0 && cut.scope < map->cuts[i - 1].scope))
      in.fail();
    *append(map->context, &map->cuts, &map->cut_count, &map->cut_capacity) = cut;
  }
  map->rest = read_base();
  map->pass_cuts = static_cast<int>(head.pass_cuts);
  if (!in.ok() || !in.at_end() || head.pass_cuts > cuts) {
    drop_base_map(map);
    return nullptr;
  }
  return map;
}

/// Pairs of the cuts [begin, end) become one, which ends where the second ended. Returns how many are left, from `to` on.
static int merge_cuts(BaseMap *map, int begin, int end, int to) {
  const int first = to;
  for (int i = begin; i < end; i += 2) {
    Cut cut = map->cuts[i];
    if (i + 1 < end) {
      // Stretches of one pass were read one after the other: the first one's base is the older one. "Never" is older than all.
      const int base = map->cuts[i + 1].base == kNever ? kNever : cut.base;
      if (!cut.key.empty())
        pfree(const_cast<uint8_t *>(cut.key.data()));
      cut = map->cuts[i + 1];
      cut.base = base;
    }
    map->cuts[to++] = cut;
  }
  return to - first;
}

bool shrink(BaseMap *map) {
  if (map->cut_count <= 2)
    return false;
  const int of_pass = merge_cuts(map, 0, map->pass_cuts, 0);
  map->cut_count = of_pass + merge_cuts(map, map->pass_cuts, map->cut_count, of_pass);
  map->pass_cuts = of_pass;
  // Positions that no stretch has any more
  auto *to = static_cast<int *>(MemoryContextAllocZero(map->context, sizeof(int) * static_cast<Size>(map->position_count + 1)));
  int kept = 0;
  const auto keep_position = [&](int *base) {
    if (*base == kNever)
      return;
    if (to[*base] == 0)
      to[*base] = ++kept;
    *base = to[*base] - 1;
  };
  for (int i = 0; i < map->cut_count; i++)
    keep_position(&map->cuts[i].base);
  keep_position(&map->rest);
  auto *positions = static_cast<Position *>(MemoryContextAllocHuge(map->context, sizeof(Position) * static_cast<Size>(Max(kept, 1))));
  for (int i = 0; i < map->position_count; i++)
    if (to[i] > 0)
      positions[to[i] - 1] = map->positions[i];
    else if (map->positions[i].xip != nullptr)
      pfree(map->positions[i].xip);
  if (map->positions != nullptr)
    pfree(map->positions);
  map->positions = positions;
  map->position_count = kept;
  map->position_capacity = Max(kept, 1);
  pfree(to);
  return true;
}

// ---- where a key stands ---------------------------------------------------------------------------

/// The cuts with their values, for one batch.
struct Places {
  struct Place {
    bool at_end;
    Datum values[INDEX_MAX_KEYS];
    KeyOrder *order; // shared by the cuts of one scope
  } *places;
};

static bool tables_stand(const BaseMap *map) {
  for (int i = 0; i < map->table_count; i++) {
    const config::Table *table = config::find_table(map->tables[i].relation);
    if (table == nullptr || table->root != map->tables[i].relation || table->signature != map->tables[i].signature)
      return false;
  }
  return true;
}

bool still_good(const BaseMap *map, uint64 fingerprint) {
  return map->fingerprint == fingerprint && tables_stand(map);
}

bool prepare(BaseMap *map) {
  if (!tables_stand(map))
    return false;
  map->places = static_cast<Places *>(palloc0(sizeof(Places)));
  map->places->places = static_cast<Places::Place *>(
      palloc0(sizeof(Places::Place) * static_cast<Size>(Max(map->cut_count, 1))));
  KeyOrder *order = nullptr;
  for (int i = 0; i < map->cut_count; i++) {
    const Cut &cut = map->cuts[i];
    Places::Place *place = &map->places->places[i];
    place->at_end = cut.at_end;
    if (cut.at_end)
      continue;
    const config::Table *table = config::find_table(cut.scope);
    if (table == nullptr || !table->usable || !OidIsValid(table->key_index)) {
      place->at_end = true; // a partition that is gone: so are its rows
      continue;
    }
    if (i == 0 || map->cuts[i - 1].scope != cut.scope || order == nullptr)
      order = make_key_order(table);
    place->order = order;
    core::Reader reader(cut.key);
    read_key(&reader, table, place->values);
    if (i > 0 && map->cuts[i - 1].scope == cut.scope &&
        (place[-1].at_end || compare_keys(order, place[-1].values, place->values) >= 0))
      return false;
  }
  return true;
}

Standing standing_of(const BaseMap *map, Oid scope, const Datum *values) {
  int low = 0;
  int high = map->cut_count; // the first cut that is not before the key
  while (low < high) {
    const int middle = (low + high) / 2;
    const Places::Place &place = map->places->places[middle];
    const Oid at = map->cuts[middle].scope;
    const bool reached =
        at != scope ? at > scope : place.at_end || compare_keys(place.order, place.values, values) >= 0;
    if (reached)
      high = middle;
    else
      low = middle + 1;
  }
  const int base = low < map->cut_count ? map->cuts[low].base : map->rest;
  return {low < map->pass_cuts, base == kNever ? nullptr : &map->positions[base]};
}

static const BaseMap::Noted *find_noted(const BaseMap *map, Oid relation) {
  for (int i = 0; i < map->table_count; i++)
    if (map->tables[i].relation == relation)
      return &map->tables[i];
  return nullptr;
}

bool met_before(const BaseMap *map, Oid relation) {
  const BaseMap::Noted *noted = find_noted(map, relation);
  return noted != nullptr && noted->pass < map->pass;
}

// ---- going on -------------------------------------------------------------------------------------

void note_table(BaseMap *map, Oid relation, uint64 signature) {
  if (find_noted(map, relation) == nullptr)
    *append(map->context, &map->tables, &map->table_count, &map->table_capacity) = {relation, map->pass, signature};
}

bool advance(BaseMap *map, Oid scope, core::ByteSpan key, const Position &position) {
  const config::Table *table = key.empty() ? nullptr : config::find_table(scope);
  if (!key.empty() && (table == nullptr || !table->usable || !OidIsValid(table->key_index)))
    return false;
  const int base = position_index(map, position);
  // What is left of the pass before: the cuts behind this key. They were prepared for this batch, and stand still in it.
  Datum values[INDEX_MAX_KEYS];
  if (!key.empty()) {
    core::Reader reader(key);
    read_key(&reader, table, values);
  }
  int behind = map->pass_cuts;
  while (behind < map->cut_count) {
    const Cut &cut = map->cuts[behind];
    if (cut.scope != scope ? cut.scope > scope : !key.empty() && (cut.at_end || [&] {
          Datum theirs[INDEX_MAX_KEYS];
          core::Reader reader(cut.key);
          read_key(&reader, table, theirs);
          return compare_keys(make_key_order(table), theirs, values) > 0;
        }()))
      break;
    behind++;
  }
  // A stretch that goes on under the same snapshot grows.
  int at = map->pass_cuts;
  if (at > 0 && map->cuts[at - 1].base == base)
    at--;
  Cut cut = {scope, key.empty(), keep(map->context, key), base};
  const int keep_from = behind;
  const int kept = map->cut_count - keep_from;
  if (at == keep_from) { // nothing to write over: make room
    (void)append(map->context, &map->cuts, &map->cut_count, &map->cut_capacity);
    map->cut_count--;
  }
  memmove(&map->cuts[at + 1], &map->cuts[keep_from], sizeof(Cut) * static_cast<Size>(kept));
  map->cuts[at] = cut;
  map->cut_count = at + 1 + kept;
  map->pass_cuts = at + 1;
  return true;
}

void finish_pass(BaseMap *map, const Position &position) {
  map->rest = position_index(map, position);
  map->cut_count = map->pass_cuts;
  while (map->cut_count > 0 && map->cuts[map->cut_count - 1].base == map->rest)
    map->cut_count--;
  map->pass_cuts = 0;
  map->pass++;
}

uint64 session_fingerprint(const Session *session) {
  // Another timeline: a promotion, or a recovery. Transactions of before may be lost, and their xids be used once more.
  uint64 hash = GetWALInsertionTimeLine();
  for (int i = 0; i < config::cluster_count(); i++) {
    const config::Cluster *cluster = config::cluster_at(i);
    bool goes = false;
    for (int a = 0; a < session->accepted_count; a++)
      goes = goes || session->accepted_clusters[a] == cluster->id;
    if (!config::routed_to(cluster, NameStr(session->peer)))
      continue;
    // Clusters come in any order: a sum of hashes. One that is not accepted yet counts as well, see may_stage().
    const int64 what[2] = {cluster->id, goes ? cluster->epoch : -1};
    hash += DatumGetUInt64(hash_any_extended(reinterpret_cast<const unsigned char *>(what), sizeof what, 0));
  }
  return hash;
}

} // namespace seal_sync::scan

#pragma once
// What a registered table carries: its triggers, and the shape its rule relies on.
//
// table_add makes it, DDL follows it (ddl_events.cpp), table_remove and node_drop take it away.
// C++ regime; the caller is AsOwner, inside an Spi level, and holds a lock on the table.

#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

/// What must not change while a table is registered. As text: equal means the same.
struct Shape {
  std::string key;               // columns of the primary key by number, with their types
  int cluster_attno = 0;         // 0: no such column, or constant
  std::string cluster_column;    // its name now
};

/// While it lives, our event triggers let DDL pass: it is our own.
class OwnDdl {
public:
  OwnDdl() noexcept;
  ~OwnDdl();
  OwnDdl(const OwnDdl &) = delete;
  OwnDdl &operator=(const OwnDdl &) = delete;
  static bool under_way() noexcept;

private:
  bool before_;
};

/// Why a relation's kind cannot be registered, also as a partition of a registered table.
struct Unfit {
  std::string reason; // "it is a view"
  std::string detail;
  std::string hint;
};

/// The relation itself and, when partitioned, every partition at any depth.
std::vector<Oid> members(Oid root);

/// Nothing when every member can be captured; else the first reason.
std::optional<Unfit> unfit_member(Oid root, Oid *member);

/// The key's shape as it is now; key is empty when there is no usable primary key.
Shape shape_of(Oid root, int cluster_attno);

/// Makes what is missing of our triggers on root and its leaves. Returns the relations that had no
/// truncate trigger of this registration yet: the leaves that are new.
std::vector<Oid> make_triggers(Oid root);

/// Takes our triggers off a table and its partitions.
void drop_triggers(Oid root);

/// Takes off the triggers that the registration of `root` made, wherever they are.
void drop_triggers_of(Oid root);

/// Takes truncate triggers of this registration off tables that no longer belong to it (DETACH).
void drop_stray_triggers(Oid root);

/// Enters the table's existing rows into the change log, to be shipped whole.
void copy_existing_rows(Oid relation);

/// Forgets rule, state and held keys of these tables, gone or not. True when one was registered.
bool forget_tables(const std::vector<Oid> &relations);

/// The registered tables among these and their partition ancestors.
std::vector<Oid> registered_roots(const std::vector<Oid> &relations);

/// Notes shape and time of registration.
void remember_shape(Oid root, const Shape &shape);

} // namespace seal_sync::sql_api

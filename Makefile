# Builds and installs the extension with PGXS, for the PostgreSQL that PG_CONFIG names:
#
#   make && make install
#   make PG_CONFIG=/usr/lib/postgresql/17/bin/pg_config
#   make -f ../seal_sync/Makefile                        (in an empty folder: nothing is written beside the sources)
#
# WERROR=-Werror makes warnings errors (our CI does, packagers need not); SANITIZE=address,undefined instruments the
# library; DEBUG=1 compiles for a debugger. Tests: see test/run and CONTRIBUTING.md.

TOP := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))

# A list file holds one name per line; # starts a comment
list = $(foreach f,$(wildcard $(TOP)/$(1)),$(shell sed 's/\#.*//' '$(f)'))

EXTENSION  = seal_sync
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" '$(TOP)/seal_sync.control')
DATA_built = $(EXTENSION)--$(EXTVERSION).sql
DATA       = $(patsubst $(TOP)/%,%,$(wildcard $(TOP)/sql/upgrade/seal_sync--*--*.sql))

MODULE_big = seal_sync
SRCS      := $(addprefix src/,$(call list,src/SOURCES.core) $(call list,src/SOURCES.server))
OBJS       = $(SRCS:.cpp=.o)

REGRESS       := $(call list,test/schedule/regress)
ISOLATION     := $(call list,test/schedule/isolation)
ISOLATION_OPTS = --inputdir=$(TOP)/test/isolation
TAP_TESTS     := $(if $(wildcard $(TOP)/test/t/*.pl),1)
PROVE_TESTS    = test/t/*.pl
ENCODING       = UTF8
NO_LOCALE      = 1

# -isystem: PostgreSQL 15's headers still say "register", and none of their macros is ours to correct.
# PGDLLEXPORT: empty on 15, where hidden visibility would then hide the SQL functions as well.
# SEAL_SYNC_VERSION: the library says it in its magic block and in version(); the number stands in the control file only.
PG_CPPFLAGS = -I$(TOP)/src '-DSEAL_SYNC_VERSION="$(EXTVERSION)"' -isystem $(shell $(PG_CONFIG) --includedir-server) -isystem $(libpq_srcdir)
PG_CXXFLAGS = -std=c++20 -Wall -Wextra -Wno-register -Wno-unused-parameter -Wno-missing-field-initializers \
              -fvisibility=hidden -fvisibility-inlines-hidden \
              '-DPGDLLEXPORT=__attribute__((visibility("default")))' \
              -MMD -MP $(if $(DEBUG),-Og -ggdb3) $(sanitize) $(WERROR)
SHLIB_LINK_INTERNAL = $(libpq)
SHLIB_LINK = -lstdc++ -lzstd -Wl,--version-script=$(TOP)/exports.map $(sanitize)
sanitize   = $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize=vptr -fno-omit-frame-pointer)

EXTRA_CLEAN = $(OBJS:.o=.d)

# No JIT bitcode: nothing here could be inlined by it, and it costs a second compiler and half the build time
override with_llvm := no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

PG_PROVE_FLAGS += -I $(TOP)/test/perl

$(DATA_built): $(sort $(wildcard $(TOP)/sql/install/*.sql))
	cat $^ /dev/null > $@

$(OBJS): $(TOP)/seal_sync.control
-include $(OBJS:.o=.d)
# Out of tree nothing makes these folders, and an order-only rule would be satisfied by the source's through VPATH
$(shell mkdir -p $(sort $(dir $(OBJS))))

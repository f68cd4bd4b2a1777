#!/bin/bash
ulimit -c unlimited
export PG_REGRESS=/bin/true PERL5LIB=/src/test/perl:$(dirname $(pg_config --pgxs))/../../src/test/perl TESTDATADIR=/tmp/x TESTLOGDIR=/tmp/x PGPORT=65432 top_builddir=. 
mkdir -p /tmp/x; cd /tmp/x; rm -f /tmp/core.*
perl /src/$1 2>&1 | tail -${2:-30}
for c in /tmp/core.*; do [ -f $c ] && gdb -batch -ex bt /usr/lib/postgresql/15/bin/postgres $c 2>/dev/null ; done

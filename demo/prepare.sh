# Sourced by run: installs what is missing, builds the extension and the generator, draws the seals.
# Everything built goes below $work; only missing Debian packages are installed on the machine.

# as_root COMMAND...: packages need it, nothing else does
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# The major that Debian's package "postgresql" stands for; nothing if apt does not know yet
default_major() {
  apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' || :
}

# The major asked for, else the newest one here, else Debian's
choose_major() {
  [ -z "$major" ] || return 0
  local v
  for v in $(ls /usr/lib/postgresql 2>/dev/null | sort -rn); do
    [ ! -x "/usr/lib/postgresql/$v/bin/postgres" ] || { major=$v; return; }
  done
  major=$(default_major)
  [ -n "$major" ] || { as_root apt-get update -qq; major=$(default_major); }
  [ -n "$major" ] || die "no PostgreSQL here and none to install; give its major with --pg"
}

# Prints the Debian packages of which something is missing. Files and commands are looked for, not
# packages: what was installed by other means is as good.
missing_packages() {
  have() { command -v "$1" >/dev/null; }
  have make || echo make
  have g++ || echo g++
  have pkg-config || echo pkg-config
  { have pkg-config && pkg-config --exists pangocairo; } || echo libcairo2-dev libpango1.0-dev
  { have fc-list && [ -n "$(fc-list :lang=zh-cn family)" ]; } || echo fonts-arphic-gbsn00lp
  /usr/bin/python3 -c 'import psycopg2' 2>/dev/null || echo python3 python3-psycopg2
  [ -f /usr/include/postgresql/libpq-fe.h ] || echo libpq-dev
  [ -f /usr/include/zstd.h ] || echo libzstd-dev
  [ -f /usr/include/xxhash.h ] || echo libxxhash-dev
  [ -x "$bin/postgres" ] || echo "postgresql-$major"
  [ -f "$("$bin/pg_config" --includedir-server 2>/dev/null)/postgres.h" ] || echo "postgresql-server-dev-$major"
}

install_missing() {
  local need quiet=/etc/postgresql-common/createcluster.d/seal_sync_demo.conf
  mapfile -t need < <(missing_packages | tr ' ' '\n')
  [ ${#need[@]} -gt 0 ] || return 0
  echo "installing: ${need[*]}" | fold -s -w 96 | sed 's/^/  /'
  command -v apt-get >/dev/null || die "this is not Debian; install the equivalent of these packages first"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "as root: apt-get install ${need[*]}"
  # Installing a server package would create and start a cluster on port 5432: not our business.
  as_root mkdir -p "${quiet%/*}"
  echo "create_main_cluster = false" | as_root tee "$quiet" >/dev/null
  { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}"
  } >"$work/apt.log" 2>&1 || { as_root rm -f "$quiet"; tail -n 20 "$work/apt.log"; die "could not install packages"; }
  as_root rm -f "$quiet"
}

# The extension is installed into $work/stage, never into the system's PostgreSQL.
build_extension() {
  mkdir -p "$work/build"
  (
    cd "$work/build"
    make -s -j"$(nproc)" -f "$source/Makefile" PG_CONFIG="$bin/pg_config" all &&
      make -s -f "$source/Makefile" PG_CONFIG="$bin/pg_config" DESTDIR="$work/stage" install
  ) >"$work/build.log" 2>&1 || { tail -n 30 "$work/build.log"; die "could not build the extension"; }
}

# 120 different holders a side, each with a second version for when the seal is registered again.
draw_seals() {
  local first=1 side version drawing=()
  read -ra flags < <(pkg-config --cflags --libs pangocairo)
  g++ -std=c++20 -O2 -o "$work/bin/seal_stamp" "$demo/seal_stamp.cpp" "${flags[@]}" || return
  for side in east west; do
    for version in 1 2; do
      "$work/bin/seal_stamp" --out "$work/seals/$side/v$version" --seed "$seed" \
        --first $first --count 120 --version $version || return
    done &
    drawing+=($!)
    first=$((first + 120))
  done
  wait "${drawing[0]}" && wait "${drawing[1]}"
}

prepare() {
  choose_major
  [ "$major" -ge 15 ] || die "seal_sync needs PostgreSQL 15 or newer"
  bin=/usr/lib/postgresql/$major/bin
  install_missing
  [ -x "$bin/postgres" ] || die "PostgreSQL $major is not installed and could not be"
  say "building the extension for PostgreSQL $major and drawing 480 seals …"
  mkdir -p "$work/bin" "$work/seals"
  cp "$demo/app" "$demo/verdict" "$demo/ledger.py" "$demo/schema.sql" "$work/bin/"
  draw_seals >"$work/draw.log" 2>&1 &
  local seals=$!
  build_extension
  wait $seals || { tail -n 5 "$work/draw.log"; die "could not draw the seals"; }
}

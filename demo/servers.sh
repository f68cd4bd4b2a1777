# Sourced by run: two throw-away servers, started and killed as the unprivileged user.

# mine COMMAND...: PostgreSQL refuses root, so root steps down
mine() { "${me[@]}" "$@"; }

free_ports() {
  /usr/bin/python3 - <<'PYTHON'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

server_create() {
  local node=$1 stage=$work/stage share lib
  share=$("$bin/pg_config" --sharedir) lib=$("$bin/pg_config" --pkglibdir)
  mine "$bin/initdb" -U postgres -A trust -E UTF8 --locale=C.UTF-8 -D "$work/$node" >"$work/initdb.$node.log" 2>&1 ||
    { cat "$work/initdb.$node.log"; die "could not create server $node"; }
  mine tee -a "$work/$node/postgresql.conf" >/dev/null <<CONF
port = ${port[$node]}
listen_addresses = '127.0.0.1'
unix_socket_directories = '$work/run'
cluster_name = '$node'
shared_preload_libraries = 'seal_sync'
dynamic_library_path = '$stage$lib:\$libdir'
$(if [ "$major" -ge 18 ]; then echo "extension_control_path = '$stage$share:\$system'"
  else echo "extension_destdir = '$stage'"; fi)
max_connections = 50
CONF
  # Local connections come through a folder that only this user can enter.
  mine tee "$work/$node/pg_hba.conf" >/dev/null <<HBA
local all  all     trust
host  bank sync_in 127.0.0.1/32 scram-sha-256
HBA
}

server_start() {
  mine "$bin/pg_ctl" -s -w -t 120 -D "$work/$1" -l "$work/log/$1.log" start >"$work/log/pg_ctl" 2>&1 ||
    { cat "$work/log/pg_ctl"; tail -n 20 "$work/log/$1.log"; die "could not start server $1"; }
}

server_stop() {
  [ ! -f "$work/$1/postmaster.pid" ] || mine "$bin/pg_ctl" -s -m "${2:-fast}" -t 60 -D "$work/$1" stop || :
}

# The whole server at once, as if its machine had lost power: postmaster and every process it started.
# Where nobody reaps the dead (a container without init), the postmaster's number stays taken and its
# lock file would keep the next one from starting; after a reboot nothing would have that number.
server_kill() {
  local pids pid patience=100
  read -r pid <"$work/$1/postmaster.pid"
  pids="$pid $(cat "/proc/$pid/task/$pid/children")"
  echo "${pids% }"
  kill -9 $pids 2>/dev/null || :
  for pid in $pids; do
    while [ $patience -gt 0 ] && kill -0 "$pid" 2>/dev/null; do sleep 0.05; patience=$((patience - 1)); done
  done
  [ $patience -gt 0 ] || rm -f "$work/$1/postmaster.pid"
}

psql_on() {
  local node=$1
  shift
  mine "$bin/psql" -X -h "$work/run" -p "${port[$node]}" -U postgres -v ON_ERROR_STOP=1 "$@"
}

# ask NODE SQL: bare values for the script; fails without a word when the server does
ask() { psql_on "$1" -qAt -F ' ' -d "${db:-bank}" -c "$2" 2>>"$work/log/ask.log"; }

# typed NODE SQL: shows the statement as somebody would type it, and what the server says to it
typed() {
  local node=$1 status=0
  sed "s/^/  $bold$node=#$plain /; 2,\$s/$node=#/$node-#/" <<<"$2"
  psql_on "$node" -d bank -P pager=off -P footer=off -P format=wrapped -P columns=94 -c "$2" \
    >"$work/log/typed" 2>&1 || status=$?
  sed 's/ *$//; /^$/d' "$work/log/typed" | fold_messages | sed 's/^/    /'
  return $status
}

# What the server says in words may be longer than the terminal is wide
fold_messages() {
  local line
  while IFS= read -r line; do
    if [[ $line =~ ^[A-Z]+:\ \  ]]; then fold -s -w 96 <<<"$line"; else echo "$line"; fi
  done
}

dsn() { echo "host=$work/run port=${port[$1]} dbname=bank user=$2"; }

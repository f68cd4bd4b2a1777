"""What the benchmarks in this folder share: throw-away servers, sessions in them, figures from /proc.

Servers live in a temporary folder (TMPDIR) and listen on 127.0.0.1 and a unix socket there; they end with the `with` block.
The extension must be installed for the PostgreSQL whose initdb is found first: ci/dev root bench/NAME sees to that.
"""
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

CONF = """\
listen_addresses = '127.0.0.1'
shared_preload_libraries = 'seal_sync'
shared_buffers = 512MB
wal_level = logical
max_wal_size = 4GB
checkpoint_timeout = 1h
max_connections = 200
max_worker_processes = 64
"""


def as_postgres():
    """initdb refuses root: run this program again as postgres."""
    if os.geteuid() == 0:
        os.execvp("runuser", ["runuser", "-u", "postgres", "--", sys.executable, "-B", *sys.argv])


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


class Session:
    """One psql that stays: a statement costs a round trip, and timings are of one backend."""
    END = "~~end~~"

    def __init__(self, server, db):
        self.psql = subprocess.Popen(
            ["psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-h", server.dir, "-p", str(server.port), "-U", "postgres", "-d", db],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
            env={**os.environ, "PGOPTIONS": "-c client_min_messages=warning"})

    def rows(self, sql):
        self.psql.stdin.write(f"{sql.rstrip().rstrip(';')};\n\\echo {self.END}\n")
        self.psql.stdin.flush()
        lines = []
        for line in self.psql.stdout:
            if line.rstrip("\n") == self.END:
                return [row.split("|") for row in lines]
            lines.append(line.rstrip("\n"))
        sys.exit(f"{sql}\n" + "\n".join(lines))

    def row(self, sql):
        rows = self.rows(sql)
        return rows[0] if rows else None

    def one(self, sql):
        row = self.row(sql)
        return row[0] if row else None

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()


class Server:
    def __init__(self, folder, name, conf=()):
        self.name, self.dir = name, folder
        self.data, self.log = f"{folder}/{name}", f"{folder}/{name}.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        run("initdb", "-N", "-A", "trust", "-U", "postgres", "--locale=C.UTF-8", "-D", self.data)
        with open(f"{self.data}/postgresql.conf", "a") as file:
            file.write(CONF + f"unix_socket_directories = '{folder}'\nport = {self.port}\n" + "".join(f"{c}\n" for c in conf))
        self.sessions, self.up = {}, False

    def start(self):
        if subprocess.run(["pg_ctl", "-s", "-w", "-D", self.data, "-l", self.log, "start"]).returncode:
            sys.exit(open(self.log).read())
        self.up = True
        return self

    def stop(self, mode="fast"):
        for session in self.sessions.values():
            session.close()
        self.sessions = {}
        if self.up:
            subprocess.run(["pg_ctl", "-s", "-w", "-D", self.data, "-m", mode, "stop"])
        self.up = False

    def session(self, db="postgres", name=""):
        """The session of that name in that database; the same one at each call."""
        if (db, name) not in self.sessions:
            self.sessions[db, name] = Session(self, db)
        return self.sessions[db, name]

    def node(self, db, name):
        """Makes a database that is a node, and returns a session in it."""
        self.session().rows(f"CREATE DATABASE {db}")
        s = self.session(db)
        s.rows("CREATE EXTENSION seal_sync")
        s.rows(f"SELECT seal_sync.node_create('{name}')")
        if s.one("SELECT count(*) FROM pg_roles WHERE rolname = 'sync_in'") == "0":
            s.rows("CREATE ROLE sync_in LOGIN IN ROLE seal_sync_peer")
        return s

    def pgbench(self, db, script, *options):
        """Starts pgbench with that script in the background."""
        path = tempfile.NamedTemporaryFile("w", dir=self.dir, suffix=".sql", delete=False)
        path.write(script)
        path.close()
        return subprocess.Popen(["pgbench", "-n", "-f", path.name, *map(str, options), "-h", self.dir, "-p", str(self.port),
                                 "-U", "postgres", db], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@contextlib.contextmanager
def servers(*names, conf=()):
    """Servers of these names, not yet started; whatever happens they are stopped and their folder is removed."""
    folder = tempfile.mkdtemp(prefix="seal_sync-bench-")
    made = []
    try:
        for name in names:
            made.append(Server(folder, name, conf))
        yield made
    finally:
        for server in made:
            server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def link(session, peer, port, db):
    """Declares a peer on the node of that session."""
    session.rows(f"CREATE SERVER {peer} FOREIGN DATA WRAPPER seal_sync OPTIONS (host '127.0.0.1', port '{port}', dbname '{db}')")
    session.rows(f"CREATE USER MAPPING FOR seal_sync_worker SERVER {peer} OPTIONS (user 'sync_in')")
    session.rows(f"SELECT seal_sync.peer_create('{peer}')")


def cluster(session):
    session.rows("SELECT seal_sync.cluster_create('one', primary_node => 'a')")


def pair(a, b, db="bench"):
    """Node a on one server, primary of all, and its standby b on the other: a session in each."""
    one, two = a.node(db, "a"), b.node(db, "b")
    link(one, "b", b.port, db)
    link(two, "a", a.port, db)
    cluster(one)
    cluster(two)
    return one, two


def add_table(session, table):
    session.rows(f"SELECT seal_sync.table_add('{table}', cluster => 'one', existing_rows => 'adopt')")


def wait_for(what, condition, timeout=120):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"waited {timeout} s in vain: {what}")
        time.sleep(0.1)


def streaming(session, routes=1):
    return int(session.one("SELECT count(*) FROM seal_sync.status WHERE direction = 'out' AND state = 'streaming'")) == routes


def memory_mb(pid, field="RssAnon"):
    """A figure of /proc/PID/status; RssAnon is a process's own memory, without shared buffers. None: it has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) / 1024
    except OSError:
        return None


def cpu_s(pid):
    """CPU time that a process has used. It is exact for one that sleeps, and a few milliseconds old for one that runs."""
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[0]) / 1e9
    except OSError:
        return 0.0

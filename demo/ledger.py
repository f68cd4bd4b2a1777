"""The ledger: what the applications were promised, kept outside both databases.

One append-only file per writer, one JSON object per line. Before COMMIT is sent an operation is
written with everything it changes:

    {"op": "a-000017", "action": "close", "changes": {"account 990100000003": null, ...}}

a key with the columns it shall have, or null for "shall not exist". Its outcome follows:

    {"op": "a-000017", "result": "ok"}

ok       the server answered COMMIT; the line is on disk (fsync) before the next operation starts
failed   it was rolled back, or refused, or COMMIT was never sent
unknown  the connection broke after COMMIT was sent; settled later by looking for the operation's
         journal row in the database it was sent to ("ok" or "failed" then follows)
"""

import json
import os


class Writer:
    def __init__(self, path):
        self._file = open(path, "a", encoding="utf-8")

    def _line(self, entry):
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()

    def intend(self, op, action, changes):
        self._line({"op": op, "action": action, "changes": changes})

    def outcome(self, op, result, why=None):
        self._line({"op": op, "result": result, **({"why": why} if why else {})})
        os.fsync(self._file.fileno())


class Ledger:
    """All that the given files promise, replayed in order."""

    def __init__(self, paths):
        self.expected = {}      # key -> columns, or None once it was deleted
        self.last_writer = {}   # key -> the acknowledged operation that decided it
        self.changes = {}       # operation -> its changes
        self.acknowledged = []  # operations answered with COMMIT
        self.failed = set()
        self.unsettled = []     # operations whose outcome nobody knows yet
        for path in paths:
            self._replay(path)

    def _replay(self, path):
        results = {}
        order = []
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                if not line.endswith("\n"):
                    break               # the writer died in this line: nothing was promised by it
                entry = json.loads(line)
                op = entry["op"]
                if "changes" in entry:
                    self.changes[op] = entry["changes"]
                    order.append(op)
                else:
                    results[op] = entry["result"]
        for op in order:
            result = results.get(op, "unknown")
            if result == "ok":
                self.acknowledge(op)
            elif result == "failed":
                self.failed.add(op)
            else:
                self.unsettled.append(op)

    def acknowledge(self, op):
        self.acknowledged.append(op)
        for key, columns in self.changes[op].items():
            self.expected[key] = columns
            self.last_writer[key] = op

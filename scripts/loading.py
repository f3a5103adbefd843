"""What the parts of scripts/perf are made of: a server, a load on it, and the figures of one run."""

import copy
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from measuring import ROOT, cpu_seconds, machine_busy_seconds

# Where the programs are; another directory where they were built before.
binaries = ROOT / "target/release"
# Where the page says that everything listens, below the ports that the kernel gives to clients.
SHOWN_SMTP, SHOWN_ADMIN = "127.0.0.1:2526", "127.0.0.1:8026"
# Another one lets two measurements be tried at once.
PORT = int(os.environ.get("RINGMX_PERF_PORT", "2526"))
SMTP, ADMIN = f"127.0.0.1:{PORT}", f"127.0.0.1:{PORT + 5500}"
KIB, MIB = 1 << 10, 1 << 20

CONFIG = """hostname = "mx1.example.com"
workers = {workers}
[[listener]]
bind = ["{smtp}"]{listener}
[spool]
path = "spool"
durability = "{durability}"{spool}
[recipients]
domains = ["example.com"]
[[route]]
domains = ["*"]
deliver = "discard"
[admin]
bind = "{admin}"
[limits]
unlimited = ["127.0.0.0/8"]
"""


class Row:
    """One setting to measure: a server, and the load on it."""

    def __init__(
        self, name, mode, size, sessions, *,
        pipelining=True, rate=None, spool="", workers=1, listener="", bound=None, flags=(),
    ):
        self.name, self.mode, self.size, self.sessions = name, mode, size, sessions
        self.pipelining, self.rate, self.spool, self.workers = pipelining, rate, spool, workers
        # What ends the load, in place of a time.
        self.bound = bound
        self.listener, self.flags = listener, list(flags)
        self.cpu = "1"

    def warming(self):
        """The row with fewer sessions where each sends much."""
        warming = copy.copy(self)
        warming.sessions = min(self.sessions, 20) if self.size > MIB else self.sessions
        return warming

    def load(self, seconds, address=SMTP):
        # Large messages are counted rather than timed: each session ends one at least.
        bound = ["--duration", f"{seconds:g}"]
        if self.bound:
            bound = self.bound
        elif self.size > MIB:
            bound = ["--messages", str(max(self.sessions, int(5 * seconds))), "--timeout", "10m"]
        command = [
            str(binaries / "loadgen"), "run", address, "--connections", str(self.sessions),
            *bound, "--size", str(self.size),
            "--pipelined" if self.pipelining else "--no-pipelining", "--threads", "1", "--cpu", self.cpu,
            "--to", "bob@example.com", *self.flags,
        ]
        return command + (["--rate", f"{self.rate:.0f}"] if self.rate else [])


def resident_mib(pid, key="VmRSS"):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+) kB", status, re.M).group(1)) / 1024


def counter(name, admin=ADMIN):
    text = urllib.request.urlopen(f"http://{admin}/metrics", timeout=5).read().decode()
    return sum(float(v) for v in re.findall(rf"^ringmx_{name}_total{{.*}} (\S+)$", text, re.M))


def gauge(name, admin=ADMIN):
    text = urllib.request.urlopen(f"http://{admin}/metrics", timeout=5).read().decode()
    return max(float(v) for v in re.findall(rf"^ringmx_{name}{{.*}} (\S+)$", text, re.M))


def answers(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
        return True
    except OSError:
        return False


def wait_for_port(address, process):
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"the server ended at once: {process.args}")
        if answers(address):
            return
        time.sleep(0.05)
    sys.exit(f"nothing listens on {address} after 10 s")


class Server:
    """ringmx, or the generator's sink for the mode `floor`, with an empty spool."""

    def __init__(self, row, directory):
        self.row, self.directory = row, directory
        self.log = open(directory / "server.log", "ab")
        if row.mode == "floor":
            command = [binaries / "loadgen", "sink", "--bind", SMTP, "--cpu", "0"]
        else:
            config = CONFIG.format(
                smtp=SMTP, admin=ADMIN, durability=row.mode, spool=row.spool, workers=row.workers,
                listener=row.listener,
            )
            (directory / "ringmx.toml").write_text(config)
            command = [binaries / "ringmx", "serve", "--config", directory / "ringmx.toml"]
        if answers(SMTP):
            sys.exit(f"somebody listens on {SMTP} already: end it, or set RINGMX_PERF_PORT")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=directory)
        wait_for_port(SMTP, self.process)

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        self.process.send_signal(signal.SIGTERM)
        # An error before that is the one to be told of.
        if self.process.wait(timeout=90) != 0 and not error:
            sys.exit(f"{self.row.mode} did not end well; see {self.log.name}")
        self.log.close()
        shutil.rmtree(self.directory / "spool", ignore_errors=True)

    def sample(self):
        pid = self.process.pid
        sample = {
            "process": cpu_seconds(pid), "worker": cpu_seconds(pid, "worker-"), "machine": machine_busy_seconds(),
        }
        if self.row.mode != "floor":
            names = ("commits", "commits_synced", "syncs", "spool_bytes", "content_bytes", "turns")
            sample |= {name: counter(name) for name in names}
        return sample


def load(row, seconds, directory, address=SMTP):
    out = directory / "loadgen.json"
    command = row.load(seconds, address) + ["--json", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    result = json.loads(out.read_text())
    # 452 is how the server slows down who sends faster than the disk takes it; the table says how often.
    other = [error for error in result["errors"] if error["code"] != 452]
    if result["accepted"] == 0 or other or result["aborted"] or result["in_doubt"]:
        met = {name: result[name] for name in ("accepted", "refused", "aborted", "in_doubt", "errors")}
        sys.exit(f"{row.name}, {row.size} octets: the generator met errors: {met}\n{complaints(directory)}")
    return result


def complaints(directory):
    """The last lines that servers there have logged of what did not go well."""
    lines = (line for log in directory.rglob("*.log") for line in log.read_text(errors="replace").splitlines())
    return "\n".join([line for line in lines if " INFO " not in line][-5:])


def measure(row, seconds, directory):
    """Figures of one run, by name."""
    with Server(row, directory) as server:
        load(row.warming(), min(1.0, seconds), directory)  # segments, caches, pools
        before = server.sample()
        result = load(row, seconds, directory)
        after = server.sample()
    messages = result["accepted"]
    spent = {name: after[name] - before[name] for name in after}
    latency = {i["interval"]: i for i in result["latencies"]}
    figures = {
        "messages_per_sec": result["messages_per_sec"],
        "refused_percent": result["refused"] * 100 / result["started"],
        "worker_cpu_us": spent["process" if row.mode == "floor" else "worker"] * 1e6 / messages,
        "process_cpu_us": spent["process"] * 1e6 / messages,
        "machine_less_generator_cpu_us": spent["machine"] * 1e6 / messages - result["cpu_us_per_message"],
        "generator_cpu_us": result["cpu_us_per_message"],
        "final_p50_us": latency["final"]["p50_us"],
        "final_p99_us": latency["final"]["p99_us"],
        "final_p99_9_us": latency["final"]["p99_9_us"],
        "transaction_mean_us": latency["transaction"]["mean_us"],
    }
    if row.mode != "floor":
        figures["syncs_per_message"] = (spent["commits_synced"] + spent["syncs"]) / messages
        figures["turns_per_message"] = spent["turns"] / messages
        figures["written_per_received"] = spent["spool_bytes"] / max(1, spent["content_bytes"])
        figures["octets_per_commit"] = spent["spool_bytes"] / max(1, spent["commits"])
    return figures

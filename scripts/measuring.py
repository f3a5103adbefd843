"""What the scripts that measure have in common: the machine's own figures, a server's port, progress, statistics."""

import ctypes
import json
import math
import os
import pathlib
import platform
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
BUILD = "cargo build --release --locked"
PACKAGES = "-p ringmx -p loadgen"


# One listener, everything for example.com, nothing kept. `serve` runs it with an empty directory as its current one.
CONFIG = """hostname = "mx1.example.com"
workers = 1
[[listener]]
bind = ["127.0.0.1:{port}"]
[spool]
path = "spool"
durability = "{durability}"
[recipients]
domains = ["example.com"]
[[route]]
domains = ["*"]
deliver = "discard"
[admin]
bind = "127.0.0.1:{admin}"
[limits]
unlimited = ["127.0.0.0/8"]
"""


class Failed(Exception):
    """Why there is no figure: shown as one line, exit code 3."""


def cpu_seconds(pid, thread_name=None):
    """User and system time of a process, or of its threads of one name."""
    return sum(user_and_kernel_seconds(pid, thread_name))


def user_and_kernel_seconds(pid, thread_name=None):
    """The same apart."""
    if thread_name is None:
        stats = [pathlib.Path(f"/proc/{pid}/stat")]
    else:
        stats = [t / "stat" for t in pathlib.Path(f"/proc/{pid}/task").iterdir()]
    user, kernel = 0, 0
    for stat in stats:
        try:
            name, fields = stat_fields(stat)
        except OSError:
            continue
        if thread_name is None or name.startswith(thread_name):
            user, kernel = user + int(fields[11]), kernel + int(fields[12])
    return user / TICKS, kernel / TICKS


def cpu_seconds_fine(pid, thread_name=""):
    """Both by the scheduler's clock, in nanoseconds where the other counts hundredths: of the threads that there are
    now and whose name begins so."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            if (task / "comm").read_text().startswith(thread_name):
                total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return total / 1e9


def stat_fields(stat):
    """The name, and what stands behind it: state, parent, .."""
    text = stat.read_text()
    return text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()


def tree_cpu_seconds(root):
    """User and system time of a process and all below it, of those that ended and were waited for, too."""
    processes = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            _, fields = stat_fields(path)
        except OSError:
            continue
        processes[int(path.parent.name)] = (int(fields[1]), sum(int(field) for field in fields[11:15]))
    total, wanted = 0, [root]
    while wanted:
        pid = wanted.pop()
        total += processes.get(pid, (0, 0))[1]
        wanted += [child for child, (parent, _) in processes.items() if parent == pid]
    return total / TICKS


def machine_busy_seconds():
    """Time that all cores were not idle, steal not counted."""
    fields = [int(f) for f in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:3]) + fields[5] + fields[6]) / TICKS


class HeldBack:
    """A process that gets a share of a core, as long as this lasts: by a control group where one can be made, and else by
    processes on its core that never rest. `how` says which; the share is what it may have, not what it takes."""
    PERIOD_US = 10_000

    def __init__(self, pid, share, core):
        self.pid, self.share, self.core = pid, share, core
        self.group, self.rivals, self.how = None, [], ""

    def __enter__(self):
        try:
            self.how = self.by_group()
        except OSError:
            self.remove_group()
            self.how = self.by_rivals()
        return self

    def __exit__(self, *_):
        for rival in self.rivals:
            rival.kill()
            rival.wait()
        self.remove_group()

    def by_group(self):
        quota = int(self.share * self.PERIOD_US)
        root = pathlib.Path("/sys/fs/cgroup")
        unified = (root / "cgroup.controllers").exists()
        self.group = (root if unified else root / "cpu") / f"ringmx-held-back-{os.getpid()}"
        if unified and "cpu" not in (root / "cgroup.subtree_control").read_text().split():
            raise OSError("the cpu controller is not given to groups below")
        self.group.mkdir()
        if unified:
            (self.group / "cpu.max").write_text(f"{quota} {self.PERIOD_US}")
        else:
            (self.group / "cpu.cfs_period_us").write_text(str(self.PERIOD_US))
            (self.group / "cpu.cfs_quota_us").write_text(str(quota))
        (self.group / "cgroup.procs").write_text(str(self.pid))
        return f"{self.share:.0%} of a core by {'cpu.max' if unified else 'cpu.cfs_quota_us'}"

    def remove_group(self):
        if self.group and self.group.is_dir():
            procs = self.group / "cgroup.procs"
            for pid in procs.read_text().split():
                (self.group.parent / "cgroup.procs").write_text(pid)
            self.group.rmdir()
        self.group = None

    def by_rivals(self):
        # All of one weight: with two beside it, a process has a third.
        count = max(1, round(1 / self.share) - 1)
        spin = [sys.executable, "-c", "while True: pass"]
        pin = lambda: os.sched_setaffinity(0, {self.core})
        self.rivals = [subprocess.Popen(spin, preexec_fn=pin) for _ in range(count)]
        return f"1 of {count + 1} shares of its core"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for_greeting(address, process, log, seconds=20):
    """Until the server says 220, and not only until the kernel takes connections for it."""
    host, port = address.rsplit(":", 1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process is not None and process.poll() is not None:
            raise Failed(f"the server on {address} ended at once: {tail(log)}")
        try:
            with socket.create_connection((host, int(port)), timeout=2) as client:
                if client.recv(512).startswith(b"220"):
                    client.sendall(b"QUIT\r\n")
                    client.recv(512)
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise Failed(f"nothing greets on {address} after {seconds} s: {tail(log)}")


def tail(log, lines=5):
    try:
        return " | ".join(pathlib.Path(log).read_text(errors="replace").splitlines()[-lines:]) or "it said nothing"
    except OSError as error:
        return str(error)


def serve(program, directory, config, cores=frozenset({0})):
    """Starts ringmx on these cores with this configuration, in a directory of its own. Its log is `server.log` there."""
    (directory / "ringmx.toml").write_text(config)
    with open(directory / "server.log", "wb") as log:
        return subprocess.Popen([program, "serve", "--config", "ringmx.toml"], cwd=directory, stdout=log, stderr=log,
                                preexec_fn=lambda: os.sched_setaffinity(0, cores))


def end(process, seconds=60):
    """Asks a server to end and waits; a server that does not is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def generate(command, out):
    """Runs loadgen with `--json` and gives what it says."""
    done = subprocess.run([*command, "--json", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()[-400:]}")
    return json.loads(out.read_text())


def build(flags="", target=ROOT / "target", tree=ROOT, packages=PACKAGES):
    """The release binaries of a tree; where they are."""
    environment = os.environ | ({"RUSTFLAGS": flags} if flags else {})
    command = [*BUILD.split(), *packages.split(), "--quiet", "--target-dir", str(target)]
    if subprocess.run(command, cwd=tree, env=environment).returncode != 0:
        raise Failed(f"{BUILD} {packages} failed in {tree}")
    return target / "release"


def commit_name(tree=ROOT, revision="HEAD"):
    command = ["git", "rev-parse", "--short", f"{revision}^{{commit}}"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{revision}: git knows no such commit")
    return done.stdout.strip()


def machine(directory=None):
    """What a figure was measured on."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    mounts = [line.split()[:3] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    here = str(pathlib.Path(directory or tempfile.gettempdir()).resolve())
    mount = max((m for m in mounts if here.startswith(m[1])), key=lambda m: len(m[1]))
    return {
        "cpu": cpu.group(1) if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "filesystem": mount[2],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip(),
        "rust": subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip(),
    }


def give_way():
    """Lets the calling process take a core only where nobody wants it, in slices of 0.1 ms (sched_setattr(2), SCHED_BATCH,
    nice 19; Linux 6.12 heeds the slice): it stands for other machines. By niceness alone whoever wakes may wait for a whole
    slice of 3 ms."""
    sched_setattr, batch, nice, slice_ns = 314, 3, 19, 100_000
    attributes = struct.pack("=IIQiIQQQ", 48, batch, 0, nice, 0, slice_ns, 0, 0)
    ctypes.CDLL(None, use_errno=True).syscall(sched_setattr, 0, attributes, 0)


def spread(values):
    values = list(values)
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def median_interval(values, confidence=0.95):
    """The median with an interval by order statistics, which assumes nothing of how the values are distributed: the
    narrowest that covers the true median with at least `confidence`, or lowest to highest where they are too few. With
    it what it covers."""
    values = sorted(values)
    count, outside, cut = len(values), 0.0, 0
    covers = 1 - 2 * 0.5**count
    for skipped in range((count - 1) // 2 + 1):
        outside += math.comb(count, skipped) * 0.5**count
        if 1 - 2 * outside < confidence:
            break
        cut, covers = skipped, 1 - 2 * outside
    return {"median": statistics.median(values), "low": values[cut], "high": values[count - 1 - cut], "covers": covers}


def progress(what, done, total):
    """One line that is overwritten on a terminal; elsewhere a line for each tenth."""
    if sys.stderr.isatty():
        print(f"\r\033[K[{done}/{total}] {what}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif total < 10 or done % (total // 10) == 0:
        print(f"[{done}/{total}] {what}", file=sys.stderr, flush=True)


def octets(text):
    """4096, 4KiB, 1MiB."""
    match = re.fullmatch(r"(\d+)\s*(|B|K|KiB|M|MiB)", text, re.I)
    if not match:
        raise ValueError(f"{text} is no size")
    return int(match[1]) << {"": 0, "b": 0, "k": 10, "m": 20}[match[2][:1].lower()]


def exit_with(main):
    """Exit codes of the scripts: what `main` returns; 2 usage; 3 it could not be measured, with the reason."""
    try:
        sys.exit(main())
    except Failed as failed:
        print(f"\n{pathlib.Path(sys.argv[0]).name}: {failed}", file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        sys.exit(130)

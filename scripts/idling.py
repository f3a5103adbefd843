"""The part `idle` of scripts/perf: many connections that have said EHLO and then nothing."""

import contextlib
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import loading
import measuring
from loading import MIB, Row, counter, gauge, load, resident_mib
from measuring import cpu_seconds_fine, spread

# Without traffic: a server is looked at for so long.
QUIET_SECONDS = 12.0
# Descriptors of server and generator beside the connections.
DESCRIPTORS_SPARE = 1000
# The kernel has about 28,000 ports for an address and a server.
CONNECTIONS_A_SOURCE = 1000
# A worker has 1,024 receive buffers.
WARMING_COUNT = 1100


def descriptors_max(wanted):
    """How many descriptors a process may have; the limit is raised as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(hard, wanted), hard):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            return most
    return soft


def kernel_octets():
    """All small objects of the kernel: sockets are such, and their empty queues are nothing besides."""
    text = pathlib.Path("/proc/meminfo").read_text()
    return int(re.search(r"^Slab:\s+(\d+) kB", text, re.M).group(1)) * 1024


class Crowd:
    """As many servers as it takes to hold so many connections, on core 0."""

    def __init__(self, count, servers_count, place):
        self.each, self.servers = count // servers_count, []
        self.count = self.each * servers_count
        for index in range(servers_count):
            directory, port, admin = place / str(index), measuring.free_port(), measuring.free_port()
            directory.mkdir()
            config = measuring.CONFIG.format(port=port, admin=admin, durability="sync")
            config = config.replace("[spool]", f"connections_max = {self.each + DESCRIPTORS_SPARE}\n[spool]", 1)
            process = measuring.serve(loading.binaries / "ringmx", directory, config)
            self.servers.append((process, f"127.0.0.1:{port}", f"127.0.0.1:{admin}"))
            measuring.wait_for_greeting(f"127.0.0.1:{port}", process, directory / "server.log")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, *_ in self.servers:
            measuring.end(process)

    def open_count(self):
        return sum(gauge("connections_open", admin) for *_, admin in self.servers)

    def resident_octets(self):
        return sum(resident_mib(process.pid) * MIB for process, *_ in self.servers)

    def quiet(self):
        """CPU and turns in a second in which nothing comes, of all servers."""
        def sample():
            pids = [process.pid for process, *_ in self.servers]
            turns = sum(counter("turns", admin) for *_, admin in self.servers)
            fine = lambda name: sum(cpu_seconds_fine(pid, name) for pid in pids)
            return turns, time.perf_counter(), fine("worker-"), fine("")
        turns, began, *before = sample()
        time.sleep(QUIET_SECONDS)
        turns_after, ended, *after = sample()
        took = ended - began
        worker, process = ((after[at] - before[at]) * 100 / took for at in (0, 1))
        return {"worker_cpu_percent": worker, "cpu_percent": process, "turns_per_sec": (turns_after - turns) / took}

    @contextlib.contextmanager
    def held(self, count):
        """So many more connections at each server, for ten minutes at most. A generator sends a message at the beginning
        and then one in 50 s, because it has to send some."""
        sources = f"127.1.0.1-127.1.0.{sources_count(count)}"
        row = Row("held", "none", 512, count, flags=["--rate", "0.02", "--source", sources])
        expected, began = self.open_count() + count * len(self.servers), time.perf_counter()
        # It looks at its clients ten times a second: that must not take the core from the one that is measured.
        holders = [subprocess.Popen(["nice", "-n", "19", *row.load(600, address)], stdout=subprocess.DEVNULL,
                                    stderr=subprocess.PIPE) for _, address, _ in self.servers]
        try:
            while (now := self.open_count()) < expected:
                ended = [holder for holder in holders if holder.poll() is not None]
                if ended or time.perf_counter() > began + 60:
                    said = ended[0].stderr.read().decode()[-400:] if ended else "that takes too long"
                    sys.exit(f"idle: {now:,.0f} of {expected:,.0f} connections: {said}")
                time.sleep(0.05)
            time.sleep(2)
            yield
        finally:
            for holder in holders:
                holder.send_signal(signal.SIGINT)
            for holder in holders:
                holder.communicate()


def sources_count(count):
    return min(250, (count + CONNECTIONS_A_SOURCE - 1) // CONNECTIONS_A_SOURCE)


def once(count, servers_count, seconds, directory):
    """What connections cost."""
    row = Row("good client", "sync", 4096, 20, rate=1000)
    with Crowd(count, servers_count, directory) as crowd:
        def client():
            result = load(row, seconds, directory, crowd.servers[0][1])
            final = next(i for i in result["latencies"] if i["interval"] == "final")
            return {key: final[key] for key in ("p50_us", "p99_us")}
        client()
        figures = {"none": crowd.quiet(), "alone": client()}
        # Receive buffers and pools belong to the worker: all of them are touched before.
        with crowd.held(WARMING_COUNT):
            pass
        while crowd.open_count():
            time.sleep(0.1)
        kernel, resident = kernel_octets(), crowd.resident_octets()
        with crowd.held(crowd.each):
            figures["resident_octets_each"] = (crowd.resident_octets() - resident) / crowd.count
            figures["kernel_octets_each"] = (kernel_octets() - kernel) / crowd.count
            figures |= {"held": crowd.quiet(), "beside": client()}
            figures["resident_mib"] = crowd.resident_octets() / MIB
            if (still := crowd.open_count()) < crowd.count:
                sys.exit(f"idle: {crowd.count - still:,.0f} connections were lost meanwhile")
    return figures


def idle(options, directory):
    """Connections that are held and say nothing, and a good client beside them."""
    most = descriptors_max(options.idle + DESCRIPTORS_SPARE)
    servers_count = -(-options.idle // (most - DESCRIPTORS_SPARE))
    runs = []
    for at in range(min(options.repeats, 3)):
        place = directory / f"idle-{at}"
        place.mkdir()
        runs.append(once(options.idle, servers_count, options.seconds, place))

    def spreads(runs):
        is_group = lambda key: isinstance(runs[0][key], dict)
        of = {key: [run[key] for run in runs] for key in runs[0]}
        return {key: spreads(values) if is_group(key) else spread(values) for key, values in of.items()}

    return {"connections": options.idle, "servers": servers_count, "descriptors_max": most,
            "sources": sources_count(options.idle // servers_count), "quiet_seconds": QUIET_SECONDS,
            "repeats": len(runs), "seconds": options.seconds, **spreads(runs)}

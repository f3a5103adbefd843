"""The part `scaling` of scripts/perf: what a message costs one worker, two, and two servers of one worker each."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import loading
import measuring
from loading import KIB, Row, counter
from measuring import cpu_seconds, machine_busy_seconds, spread, user_and_kernel_seconds

SESSIONS_EACH = 100
# Messages a second for each worker in the open loop: a fifth of what one takes, so that two and two generators have time.
RATE_EACH = 10_000
LOADS = {
    "as many as they take": ("sync", None),
    "as many as they take, without syncs": ("none", None),
    f"{RATE_EACH:,} messages/s for each worker": ("sync", RATE_EACH),
}
# Workers of each server.
SETUPS = {"one worker": [1], "two workers": [2], "two servers": [1, 1]}


class Servers:
    """Their workers are on cores 0 and 1, in turn; their other threads wherever there is room."""

    def __init__(self, setup, mode, place):
        cores = os.sched_getaffinity(0)
        self.servers, self.place, first_core = [], place, 0
        for index, workers in enumerate(SETUPS[setup]):
            directory = place / str(index)
            directory.mkdir(parents=True)
            port, admin = measuring.free_port(), measuring.free_port()
            config = measuring.CONFIG.format(port=port, admin=admin, durability=mode)
            config = config.replace("workers = 1", f"workers = {workers}")
            own = set(sorted(cores)[first_core:first_core + workers])
            process = measuring.serve(loading.binaries / "ringmx", directory, config, own)
            first_core += workers
            measuring.wait_for_greeting(f"127.0.0.1:{port}", process, directory / "server.log")
            for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
                if not (task / "comm").read_text().startswith("worker-"):
                    os.sched_setaffinity(int(task.name), cores)
            # For each worker a generator on each core, with half of its sessions: the kernel spreads a generator's sessions
            # over two workers, and so half of them cross to the other core, with two servers as well.
            generators = [(f"127.0.0.1:{port}", core) for core in sorted(cores)[:2]] * workers
            self.servers.append((process, generators, f"127.0.0.1:{admin}"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, *_ in self.servers:
            measuring.end(process)
        for spool in self.place.glob("*/spool"):
            shutil.rmtree(spool, ignore_errors=True)

    def sample(self):
        pids, admins = [one[0].pid for one in self.servers], [one[2] for one in self.servers]
        user, kernel = zip(*(user_and_kernel_seconds(pid, "worker-") for pid in pids))
        sample = {"user": sum(user), "kernel": sum(kernel),
                  "process": sum(map(cpu_seconds, pids)), "machine": machine_busy_seconds()}
        return sample | {name: sum(counter(name, admin) for admin in admins)
                         for name in ("commits_synced", "syncs", "turns")}

    def load(self, row, seconds, place):
        """One generator beside the other: what each says."""
        outs, generators = [], []
        for address, core in [generator for _, of, _ in self.servers for generator in of]:
            row.cpu = str(core)
            outs.append(place / f"loadgen-{len(outs)}.json")
            command = [*row.load(seconds, address), "--json", str(outs[-1])]
            generators.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        if any([generator.wait() for generator in generators]):
            sys.exit(f"scaling: {row.name}: a generator failed")
        results = [json.loads(out.read_text()) for out in outs]
        if wrong := [result["errors"] for result in results if result["errors_count"] or not result["accepted"]]:
            sys.exit(f"scaling: {row.name}: the generator met errors: {wrong}")
        return results


def once(setup, load, seconds, place):
    mode, rate = LOADS[load]
    row = Row(load, mode, 4 * KIB, SESSIONS_EACH // 2, rate=rate and rate / 2)
    with Servers(setup, mode, place) as servers:
        servers.load(row, min(1.0, seconds), place)
        before = servers.sample()
        results = servers.load(row, seconds, place)
        spent = {name: after - before[name] for name, after in servers.sample().items()}
    messages = sum(result["accepted"] for result in results)
    generators = sum(result["cpu_us_per_message"] * result["accepted"] for result in results) / messages
    return {
        "messages_per_sec": sum(result["messages_per_sec"] for result in results),
        "user_us": spent["user"] * 1e6 / messages, "kernel_us": spent["kernel"] * 1e6 / messages,
        "process_cpu_us": spent["process"] * 1e6 / messages,
        "machine_less_generator_cpu_us": spent["machine"] * 1e6 / messages - generators,
        "generator_cpu_us": generators,
        "syncs_per_message": (spent["commits_synced"] + spent["syncs"]) / messages,
        "turns_per_message": spent["turns"] / messages,
    }


def scaling(options, directory):
    """All setups by turns, and what two workers are to two servers, run by run."""
    runs = {load: {setup: [] for setup in SETUPS} for load in LOADS}
    for repeat in range(options.repeats):
        for load, setups in runs.items():
            measuring.progress(f"scaling: {load}", repeat, options.repeats)
            for setup, of in setups.items():
                of.append(once(setup, load, options.seconds, directory / f"scaling-{repeat}-{load}-{setup}"))
    spreads = lambda of: {key: spread(run[key] for run in of) for key in of[0]}
    ratios = lambda of, to: {key: spread(a[key] / max(b[key], 1e-9) for a, b in zip(of, to)) for key in of[0]}
    return {
        "sessions_each": SESSIONS_EACH, "repeats": options.repeats, "seconds": options.seconds,
        "loads": {load: {"setups": {setup: spreads(of) for setup, of in setups.items()},
                         "ratio": ratios(setups["two workers"], setups["two servers"])}
                  for load, setups in runs.items()},
    }

#!/usr/bin/env python3
"""The cost of a store that a team shares, measured against a real S3 server on this machine (SeaweedFS's `weed`).

Prints rows of a Markdown table. Cases: `small` (push and pull of 1,000 small outputs: of one stage, and of 1,000 stages),
`check` (which of 10,000 stages are there, from an empty machine; and a run with nothing to do), `large` (a file of 2 GiB up and
down, beside s5cmd where it is installed, and the memory that takes). Requests are those that twdag counts. A machine is an empty workspace; what is
compared runs in turns, and each turn begins with empty file system buffers to write.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from orchestrator import JOBS, ROOT, machine, once, peak, remove, shown, write, write_large

CASES = ["small", "check", "large"]
BUCKET = "bench"
GIB = 1 << 30
ONE_STAGE = '"thousand": Command(run: ["sh", "-c", "seq 1000 | split -l 1 -a 4 - $0/", "{out}"])'


class Server:
    """A bucket of its own, gone at the end."""

    def __init__(self, program, parent, twdag):
        self.twdag = twdag
        self.folder = os.path.join(parent, "server")
        os.mkdir(self.folder)
        ports = free_ports(6)
        names = ["s3.port", "filer.port", "master.port", "volume.port", "admin.port", "metricsPort"]
        self.environment = {
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench-secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
        }
        command = [program, f"-logdir={self.folder}", "mini", f"-dir={self.folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", f"-bucket={BUCKET}"]
        command += [f"-{name}={port}" for name, port in zip(names, ports)]
        self.process = subprocess.Popen(
            command, env={**os.environ, **self.environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 60
        while not self.is_ready():
            if time.monotonic() > end or self.process.poll() is not None:
                raise SystemExit("the S3 server does not start")
            time.sleep(0.1)

    def is_ready(self):
        asked = [self.twdag, "store", "status", "graph.ron", "--remote-store", f"s3://{BUCKET}/ready"]
        write(self.folder, "twdag.ron", "Workspace(version: 1)\n")
        write(self.folder, "graph.ron", f"Graph(version: 1, stages: {{{ONE_STAGE}}})\n")
        environment = {**os.environ, **self.environment}
        return subprocess.run(asked, cwd=self.folder, env=environment, capture_output=True).returncode == 0

    def stop(self):
        self.process.kill()
        self.process.wait()


def free_ports(count):
    """Ports that are free, and the ones 10,000 above too, which the server takes as well."""
    found, port = [], 21_000 + os.getpid() % 400 * 50
    while len(found) < count:
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 10_000))
                found.append(port)
            except OSError:
                pass
        port += 1
    return found


class Team:
    """Machines that share a part of the bucket."""

    def __init__(self, options, parent, server, name):
        self.program, self.parent, self.address = options.program, parent, f"s3://{BUCKET}/{name}"
        os.environ.update(server.environment)

    def machine(self, stages):
        folder = tempfile.mkdtemp(dir=self.parent)
        write(folder, "twdag.ron", "Workspace(version: 1)\n")
        write(folder, "graph.ron", f"Graph(version: 1, stages: {{{stages}}})\n")
        return folder

    def command(self, *arguments):
        return [self.program, *arguments, "--remote-store", self.address]

    def requests(self, folder, *arguments):
        """Runs a command of the store; its requests."""
        printed = subprocess.run(self.command(*arguments, "--json"), cwd=folder, capture_output=True, text=True)
        lines = printed.stdout.strip().splitlines()
        found = json.loads(printed.stdout if printed.stdout.startswith("{\n") or len(lines) == 1 else lines[-1])
        return found["requests"]


class Table:
    def __init__(self):
        print("\n| work | side | wall | least | cpu | requests | first side / this |\n|---|---|---|---|---|---|---|", flush=True)
        self.first = {}

    def row(self, work, side, figures, requests=""):
        wall = statistics.median(wall for wall, _ in figures)
        processor = statistics.median(processor for _, processor in figures)
        first = self.first.setdefault(work, wall)
        cells = [work, side, shown(wall), shown(min(wall for wall, _ in figures)), shown(processor), str(requests), f"{first / wall:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def distinct(count):
    run = 'Command(run: ["sh", "-c", "echo $1 > $0/out", "{out}", "NUMBER"])'
    return ", ".join(f'"s{number:05}": {run.replace("NUMBER", str(number))}' for number in range(count))


def small(options, table, parent, server):
    for name, stages in [("1,000 outputs of one stage", ONE_STAGE), ("1,000 stages of one output", distinct(1_000))]:
        up, down = [], []
        for turn in range(options.repeat):
            team = Team(options, parent, server, f"small-{len(stages)}-{turn}")
            first, second = team.machine(stages), team.machine(stages)
            once([options.program, "run", "graph.ron", "--jobs", JOBS], first)
            os.sync()
            up.append(once(team.command("store", "push", "graph.ron"), first))
            os.sync()
            down.append(once(team.command("store", "pull", "graph.ron"), second))
        third = team.machine(stages)
        down_requests = team.requests(third, "store", "pull", "graph.ron")
        again = Team(options, parent, server, f"small-{len(stages)}-requests")
        table.row(f"push, {name}", "twdag", up, again.requests(first, "store", "push", "graph.ron"))
        table.row(f"pull, {name}", "twdag", down, down_requests)


def check(options, table, parent, server):
    stages = distinct(10_000)
    team = Team(options, parent, server, "check")
    first = team.machine(stages)
    once(team.command("run", "graph.ron", "--jobs", JOBS, "--remote", "write"), first)
    found = []
    for _ in range(options.repeat):
        found.append(once(team.command("store", "status", "graph.ron"), team.machine(stages)))
    requests = team.requests(team.machine(stages), "store", "status", "graph.ron")
    table.row("which of 10,000 stages are there, from an empty machine", "twdag", found, requests)
    time.sleep(1.5)
    once(team.command("run", "graph.ron"), first)
    again = [once(team.command("run", "graph.ron"), first) for _ in range(options.repeat)]
    table.row("run of 10,000 stages, nothing to do", "twdag", again)


def use_memory(size):
    """Has the system find so much memory, which is free again afterwards."""
    used = f"import mmap; found = mmap.mmap(-1, {size})\nfor page in range(0, {size}, 4096): found[page] = 1"
    subprocess.run([sys.executable, "-c", used], check=True)


def large(options, table, parent, server):
    """A file of 2 GiB; what is fetched is on the disk at the end, which other clients leave to the system."""
    team = Team(options, parent, server, "large")
    source = os.path.join(parent, "source")
    write_large(source)
    stages = '"large": Command(run: ["cp", "{file.0}", "{out}/large"], files: ["large"])'
    first = team.machine(stages)
    os.link(source, os.path.join(first, "large"))
    once([options.program, "run", "graph.ron"], first)
    time.sleep(1.5)
    rival = shutil.which(options.s5cmd)
    s5cmd = [rival, "--endpoint-url", server.environment["AWS_ENDPOINT_URL"], "--log", "error"]
    up, down = {}, {}

    def timed(figures, side, command, folder):
        os.sync()
        # A virtual machine may take back what lies free for a moment: whoever writes to it first pays for that.
        use_memory(3 * GIB)
        figures.setdefault(side, []).append(once(command, folder))

    for turn in range(options.repeat):
        team.address = f"s3://{BUCKET}/large-{turn}"
        timed(up, "twdag", team.command("store", "push", "graph.ron"), first)
        if rival:
            timed(up, "s5cmd", [*s5cmd, "cp", source, f"s3://{BUCKET}/s5cmd/{turn}"], parent)
        second = team.machine(stages)
        os.link(source, os.path.join(second, "large"))
        # The digest of the input is known, so that only the result is fetched: what has just been linked would be hashed twice.
        time.sleep(1.5)
        once([options.program, "plan", "graph.ron"], second)
        timed(down, "twdag", team.command("store", "pull", "graph.ron"), second)
        remove(os.path.join(second, "artifacts"))
        if rival:
            target = os.path.join(parent, "fetched")
            copy = [*s5cmd, "cp", f"s3://{BUCKET}/s5cmd/{turn}", target]
            timed(down, "s5cmd", copy, parent)
            os.remove(target)
            timed(down, "s5cmd, then sync", ["sh", "-c", '"$@" && sync "$0"', target, *copy], parent)
            os.remove(target)
        if options.clear:
            subprocess.run([*s5cmd, "rm", f"s3://{BUCKET}/s5cmd/*", f"s3://{BUCKET}/large-{turn}/*"], capture_output=True)
    for work, figures in [("2 GiB up", up), ("2 GiB down", down)]:
        for side, found in figures.items():
            table.row(work, side, found)
    team.address = f"s3://{BUCKET}/large-peak"
    peaks = {"up": peak(team.command("store", "push", "graph.ron"), first)}
    second = team.machine(stages)
    os.link(source, os.path.join(second, "large"))
    peaks["down"] = peak(team.command("store", "pull", "graph.ron"), second)
    remove(os.path.join(second, "artifacts"))
    told = {way: "not known, as GNU time is not installed" if mib is None else f"{mib:.0f} MiB" for way, mib in peaks.items()}
    print(f"\npeak memory of twdag: 2 GiB up {told['up']}, down {told['down']}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of {', '.join(CASES)}; all if none is named")
    parser.add_argument("--program", default=os.path.join(ROOT, "target", "release", "twdag"), help="a build of twdag")
    parser.add_argument("--server", default="weed", help="SeaweedFS's program")
    parser.add_argument("--s5cmd", default="s5cmd", help="the client to compare with")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", help="where to work [default: the folder for temporary files]")
    parser.add_argument("--no-clear", dest="clear", action="store_false", help="keep what was sent until the end")
    options = parser.parse_args()
    if unknown := [case for case in options.cases if case not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    options.program = os.path.abspath(options.program)
    program = shutil.which(options.server)
    if program is None:
        raise SystemExit(f"{options.server} is not installed; tests/python/s3-server.txt names its package")
    if shutil.which(options.s5cmd) is None:
        print(f"{options.s5cmd} is not installed", file=sys.stderr)
    # Removed at the end: ext4 is slow to make files for a while after many were removed.
    parent = tempfile.mkdtemp(dir=options.folder)
    try:
        print(machine(parent))
        server = Server(program, parent, options.program)
        table = Table()
        try:
            for case in options.cases or CASES:
                {"small": small, "check": check, "large": large}[case](options, table, parent, server)
        finally:
            server.stop()
    finally:
        remove(parent)


if __name__ == "__main__":
    main()

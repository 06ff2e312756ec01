#!/usr/bin/env python3
"""How long `twdag run` and `twdag plan` take when everything is cached.

    benches/no_op.py [--program target/release/twdag ...] [--stages 10 1000]

Writes a fan of small `Command` stages into a temporary folder, runs it once, and prints the median wall time of
repeated runs and the peak memory. Give `--program` twice to compare two builds on the same store in turns.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time


def write_graph(folder, count):
    stages = ['"s0": Command(run: ["cp", "{file.0}", "{out}/t"], files: ["text.txt"])']
    for number in range(1, count):
        command = f'["sh", "-c", "(cat $0/t; echo {number}) > $1/t", "{{in.p}}", "{{out}}"]'
        stages.append(f'"s{number}": Command(run: {command}, inputs: {{"p": "s0"}})')
    files = {
        "twdag.ron": "Workspace(version: 1)\n",
        "text.txt": "some text\n",
        "graph.ron": "Graph(version: 1, stages: {\n" + ",\n".join(stages) + ",\n})\n",
    }
    for name, text in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)


def measure(program, command, folder):
    """Wall time in milliseconds and peak memory in MiB of one process."""
    start = time.perf_counter()
    child = subprocess.Popen([program, command, "graph.ron"], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{program} {command} ended with {child.returncode}")
    return 1000 * (time.perf_counter() - start), usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", action="append")
    parser.add_argument("--stages", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--repeat", type=int, default=15)
    arguments = parser.parse_args()
    programs = [os.path.abspath(program) for program in arguments.program or ["target/release/twdag"]]
    for count in arguments.stages:
        with tempfile.TemporaryDirectory() as folder:
            write_graph(folder, count)
            subprocess.run([programs[0], "run", "graph.ron", "--jobs", "2"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            for command in ["run", "plan"]:
                found = {program: [] for program in programs}
                for _ in range(arguments.repeat):
                    for program in programs:
                        found[program].append(measure(program, command, folder))
                for program, figures in found.items():
                    median = statistics.median(wall for wall, _ in figures)
                    memory = max(memory for _, memory in figures)
                    print(f"{count:>6} stages  {command:<4}  {median:8.1f} ms  {memory:5.0f} MiB  {program}")


if __name__ == "__main__":
    main()

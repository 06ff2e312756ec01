#!/usr/bin/env python3
"""twdag beside ninja and make on the same graphs, in turn, in one run.

    cargo build --release && python3 benches/orchestrator.py
    python3 benches/orchestrator.py no-op why --sizes 1000 --repeat 20
    python3 benches/orchestrator.py cold --program old/twdag --program target/release/twdag
    python3 benches/orchestrator.py no-op cold --sizes 10 --tools twdag ninja make dvc snakemake

Cases: `no-op` (everything is up to date), `plan` (what would run), `why` (why one stage runs), `cold` (nothing is there
yet), `big` (a file of 2 GiB as input, then as output), `restore` (outputs that were removed). A tool that is not
installed is left out, and a line says so: ninja is in every package index, b3sum is `cargo install b3sum`.

Graphs: `chain N` are N stages in a row, `fan N` one stage and N - 1 that read it. All stages are `cp`, each to a name of
its own, since of two stages that do the same twdag runs one. In `distinct N`, a fan, each stage also adds a line of its
own, so that all outputs differ. The store of twdag holds every output, hashed, flushed and recorded; ninja and make keep
none. Cold runs use 2 jobs. Wall and processor time (of the whole process tree, user and system) are medians; memory is the
peak of the largest process.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

CASES = ["no-op", "plan", "why", "cold", "big", "restore"]
JOBS = "2"
GIB = 1 << 30
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Stage:
    """Copies what `reads` names (another stage, or nothing for the source), and adds `line` if there is one."""

    def __init__(self, name, reads=None, line=None):
        self.name, self.reads, self.line = name, reads, line

    def shell(self, start, end):
        return f"cp {start} {end}" if self.line is None else f"(cat {start}; echo {self.line}) > {end}"


def chain(count):
    return [Stage(f"s{n}", f"s{n - 1}" if n else None) for n in range(count)]


def fan(count):
    return [Stage(f"s{n}", "s0" if n else None) for n in range(count)]


def distinct(count):
    return [Stage(f"s{n}", "s0" if n else None, str(n)) for n in range(count)]


SHAPES = {"chain": chain, "fan": fan, "distinct": distinct}


def write(folder, name, text):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text)


class Twdag:
    def __init__(self, program):
        self.program = os.path.abspath(program)
        self.name = "twdag"

    def write(self, folder, stages):
        def text(stage):
            start, end = f"{{in.p}}/{stage.reads}" if stage.reads else "{file.0}", f"{{out}}/{stage.name}"
            reads = f'inputs: {{"p": "{stage.reads}"}}' if stage.reads else 'files: ["source.txt"]'
            if stage.line is None:
                words = f'"cp", "{start}", "{end}"'
            else:
                words = f'"sh", "-c", "{stage.shell("$0", "$1")}", "{start}", "{end}"'
            return f'"{stage.name}": Command(run: [{words}], {reads})'

        write(folder, "twdag.ron", "Workspace(version: 1)\n")
        write(folder, "graph.ron", "Graph(version: 1, stages: {\n" + ",\n".join(map(text, stages)) + ",\n})\n")

    def run(self):
        return [self.program, "run", "graph.ron", "--jobs", JOBS]

    def plan(self):
        return [self.program, "plan", "graph.ron"]

    def why(self, stage):
        return [self.program, "plan", "graph.ron", "--why", stage]


class Ninja:
    name = "ninja"

    def write(self, folder, stages):
        lines = ["rule r", "  command = $cmd", ""]
        for stage in stages:
            start, end = output(stage.reads), output(stage.name)
            lines += [f"build {end}: r {start}", f"  cmd = {stage.shell(start, end)}"]
        write(folder, "build.ninja", "\n".join(lines) + "\n")

    def run(self):
        return ["ninja", "-j", JOBS, "--quiet"]

    def plan(self):
        return ["ninja", "-n", "--quiet"]

    def why(self, stage):
        return ["ninja", "-n", "-d", "explain", output(stage)]


class Make:
    name = "make"

    def write(self, folder, stages):
        lines = ["all: " + " ".join(output(stage.name) for stage in stages)]
        for stage in stages:
            start, end = output(stage.reads), output(stage.name)
            lines += [f"{end}: {start}", f"\t@{stage.shell(start, end)}"]
        write(folder, "Makefile", "\n".join(lines) + "\n")

    def run(self):
        return ["make", "-s", "-j", JOBS]

    def plan(self):
        return ["make", "-q"]

    def why(self, stage):
        return ["make", "-n", "--debug=b", output(stage)]


class Dvc:
    name = "dvc"

    def write(self, folder, stages):
        lines = ["stages:"]
        for stage in stages:
            start, end = output(stage.reads), output(stage.name)
            lines += [f"  {stage.name}:", f"    cmd: {stage.shell(start, end)}", f"    deps: [{start}]", f"    outs: [{end}]"]
        write(folder, "dvc.yaml", "\n".join(lines) + "\n")
        subprocess.run(["dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True)

    def run(self):
        return ["dvc", "repro", "--quiet"]

    def plan(self):
        return ["dvc", "status", "--quiet"]

    def why(self, stage):
        return ["dvc", "status", stage]


class Snakemake:
    name = "snakemake"

    def write(self, folder, stages):
        last = ", ".join(f'"{output(stage.name)}"' for stage in stages)
        lines = [f"rule all:\n    input: {last}\n"]
        for stage in stages:
            start, end = output(stage.reads), output(stage.name)
            lines.append(f'rule {stage.name}:\n    input: "{start}"\n    output: "{end}"\n    shell: "{stage.shell(start, end)}"\n')
        write(folder, "Snakefile", "\n".join(lines))

    def run(self):
        return ["snakemake", "--cores", JOBS, "--quiet", "all"]

    def plan(self):
        return ["snakemake", "-n", "--quiet", "all"]

    def why(self, stage):
        return ["snakemake", "-n", output(stage)]


RIVALS = {"ninja": Ninja, "make": Make, "dvc": Dvc, "snakemake": Snakemake}


def output(stage):
    return f"out/{stage}" if stage else "source.txt"


def once(command, folder, succeeds=True):
    """Wall and processor time of a command, in milliseconds."""
    start = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    problem = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if succeeds and child.returncode != 0:
        raise SystemExit(f"{command} ended with {child.returncode}: {problem.decode(errors='replace')[-2000:]}")
    return 1000 * wall, 1000 * (usage.ru_utime + usage.ru_stime)


def peak(command, folder):
    """Peak memory in MiB as GNU time tells, whose own is small: a child of this process would start with its size."""
    if not os.access("/usr/bin/time", os.X_OK):
        return None
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run(["/usr/bin/time", "-f", "%M", "-o", file.name, *command], cwd=folder, capture_output=True)
        return int(file.read().split()[-1]) / 1024


def shown(milliseconds):
    return f"{milliseconds:.1f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


class Table:
    """Rows of a Markdown table, one for each measured command; the ratio is that of the first row of a group to each."""

    def __init__(self):
        print("\n| work | side | wall | least | cpu | peak MiB | first side / this |\n|---|---|---|---|---|---|---|", flush=True)
        self.group = {}

    def row(self, work, side, figures, memory=None):
        wall = statistics.median(wall for wall, _ in figures)
        least = min(wall for wall, _ in figures)
        processor = statistics.median(processor for _, processor in figures)
        first = self.group.setdefault(work, wall)
        memory = "" if memory is None else f"{memory:.0f}"
        cells = [work, side, shown(wall), shown(least), shown(processor), memory, f"{first / wall:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def project(tool, parent, stages):
    """A new folder with a graph, never yet run."""
    folder = tempfile.mkdtemp(dir=parent)
    os.mkdir(os.path.join(folder, "out"))
    write(folder, "source.txt", "some text\n")
    tool.write(folder, stages)
    return folder


def remove(folder):
    # Views are read-only.
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    shutil.rmtree(folder)


def in_turns(repeat, sides, before=None, succeeds=True):
    """Figures for each side, measured in turns: `sides` maps names to commands and folders."""
    figures = {name: [] for name in sides}
    for _ in range(repeat):
        for name, (command, folder) in sides.items():
            if before:
                before()
            figures[name].append(once(command, folder, succeeds))
    return figures


def nothing_to_do(options, table, parent, tools):
    """The cases that need everything to be up to date: no-op, plan, why."""
    for size in options.sizes:
        for shape in options.shapes:
            stages = SHAPES[shape](size)
            folders = {tool: project(tool, parent, stages) for tool in tools}
            for tool, folder in folders.items():
                once(tool.run(), folder)
            # What was written within the last second may change without a trace, so that nobody may trust it yet.
            time.sleep(1.5)
            for tool, folder in folders.items():
                once(tool.run(), folder)
            last = stages[-1].name
            for case in [case for case in ("no-op", "plan", "why") if case in options.cases]:
                def command(tool):
                    return {"no-op": tool.run, "plan": tool.plan, "why": lambda: tool.why(last)}[case]()

                sides = {tool.name: (command(tool), folders[tool]) for tool in tools}
                for name, figures in in_turns(options.repeat, sides).items():
                    table.row(f"{case}, {shape} {size:,}", name, figures, peak(*sides[name]))
            for folder in folders.values():
                remove(folder)


def cold(options, table, parent, tools):
    for shape, size in options.cold:
        stages = SHAPES[shape](size)
        figures = {tool.name: [] for tool in tools}
        memory = {}
        # Removed at the end: ext4 is slow to make files for a while after many were removed.
        folders = []
        for _ in range(max(3, options.repeat // 5)):
            for tool in tools:
                folders.append(project(tool, parent, stages))
                # Nobody pays for what others have written.
                os.sync()
                figures[tool.name].append(once(tool.run(), folders[-1]))
        for tool in tools:
            folders.append(project(tool, parent, stages))
            memory[tool.name] = peak(tool.run(), folders[-1])
        for name, found in figures.items():
            table.row(f"cold, {shape} {size:,}", name, found, memory[name])
        for folder in folders:
            remove(folder)


def remove_views(folder):
    views = os.path.join(folder, "artifacts", "local", "views")
    if os.path.isdir(views):
        remove(views)


def write_large(path):
    with open(path, "wb") as file:
        for _ in range(2 * GIB >> 24):
            file.write(os.urandom(1 << 24))
    os.sync()


def big(options, table, parent, tools):
    """A file of 2 GiB as an input, beside b3sum; and as an output, beside cp."""
    large = os.path.join(parent, "large")
    write_large(large)
    twdag = [tool for tool in tools if isinstance(tool, Twdag)]
    graphs = {
        "input": 'Command(run: ["sh", "-c", "wc -c < $0 > $1/size", "{file.0}", "{out}"], files: ["large"])',
        "output": 'Command(run: ["cp", "{file.0}", "{out}/copy"], files: ["large"])',
    }
    for tool in twdag:
        folder = tempfile.mkdtemp(dir=parent)
        os.link(large, os.path.join(folder, "large"))
        write(folder, "twdag.ron", "Workspace(version: 1)\n")
        for name, stage in graphs.items():
            write(folder, f"{name}.ron", f'Graph(version: 1, stages: {{"{name}": {stage}}})\n')
        time.sleep(1.5)
        run = [tool.program, "run", "input.ron", "--jobs", JOBS]
        hashing = shutil.which("b3sum")

        def beside(work, command, before=None, repeat=3):
            sides = {tool.name: (command, folder)}
            if hashing:
                sides["b3sum"] = ([hashing, "large"], folder)
            for name, figures in in_turns(repeat, sides, before).items():
                table.row(work, name, figures, peak(*sides[name]) if repeat > 1 else None)

        def touch():
            os.utime(large)

        def forget():
            if os.path.isdir(os.path.join(folder, "artifacts")):
                remove(os.path.join(folder, "artifacts"))

        # Both sides once unmeasured: the first to read a file that was just written pays for the kernel's bookkeeping.
        for command, place in ((run, folder), ([hashing, "large"], folder)):
            if command[0]:
                once(command, place)
        beside("2 GiB input, first plan", [tool.program, "plan", "input.ron"], before=forget)
        beside("2 GiB input, first run", run, before=forget)
        beside("2 GiB input, touched", run, before=touch)
        time.sleep(1.5)
        once(run, folder)
        for name, figures in in_turns(options.repeat, {tool.name: (run, folder)}).items():
            table.row("2 GiB input, unchanged", name, figures, peak(run, folder))

        # The input is known by now, so that what is measured is the output.
        copy = ["sh", "-c", "cp large copied && sync copied"]
        figures = {tool.name: [], "cp, then sync": []}
        for _ in range(3):
            os.sync()
            figures[tool.name].append(once([tool.program, "run", "output.ron", "--jobs", JOBS], folder))
            remove_views(folder)
            remove_results(tool, folder)
            os.sync()
            figures["cp, then sync"].append(once(copy, folder))
            os.remove(os.path.join(folder, "copied"))
        for name, found in figures.items():
            table.row("2 GiB output", name, found)
        once([tool.program, "run", "output.ron", "--jobs", JOBS], folder)
        restore_beside(tool, table, folder, "output.ron", "output", "2 GiB output, restored", options.repeat)
        remove(folder)
    os.remove(large)


def remove_results(tool, folder):
    """Makes the next run a cold one; what is known of the input stays."""
    for room in ("objects", "trees", "actions"):
        remove(os.path.join(folder, "artifacts", room))


def restore_beside(tool, table, folder, graph, stage, work, repeat):
    command = [tool.program, "path", graph, stage]
    once(command, folder)
    found = in_turns(repeat, {tool.name: (command, folder)}, before=lambda: remove_views(folder))
    table.row(work, tool.name, found[tool.name], peak(command, folder))


def restore(options, table, parent, tools):
    """Ten thousand small files of one output."""
    program = "import sys\nfor n in range(10000):\n    open(f'{sys.argv[1]}/{n}', 'w').write(f'{n}\\n')\n"
    for tool in [tool for tool in tools if isinstance(tool, Twdag)]:
        folder = tempfile.mkdtemp(dir=parent)
        write(folder, "twdag.ron", "Workspace(version: 1)\n")
        write(folder, "many.py", program)
        stage = 'Command(run: ["python3", "{file.0}", "{out}"], files: ["many.py"])'
        write(folder, "graph.ron", f'Graph(version: 1, stages: {{"many": {stage}}})\n')
        once(tool.run(), folder)
        restore_beside(tool, table, folder, "graph.ron", "many", "10,000 small outputs, restored", options.repeat)
        remove(folder)


def machine(parent):
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    kind = subprocess.run(["stat", "-f", "-c", "%T", parent], capture_output=True, text=True).stdout.strip()
    return f"{os.cpu_count()} × {model}, Linux {platform.release()}, {kind}; load before: {os.getloadavg()[0]:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of {', '.join(CASES)}; all if none is named")
    parser.add_argument("--program", action="append", help="a build of twdag; twice to compare two")
    parser.add_argument("--tools", nargs="+", default=["twdag", "ninja", "make"], choices=["twdag", *RIVALS])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1_000, 10_000], help="stages of no-op, plan and why")
    parser.add_argument("--shapes", nargs="+", default=["chain", "distinct"], choices=SHAPES, help="of no-op, plan and why")
    parser.add_argument("--cold", nargs="+", default=["chain:1000", "fan:10000"], help="graphs of the case `cold`, SHAPE:SIZE")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--folder", help="where to work [default: the folder for temporary files]")
    options = parser.parse_args()
    if unknown := [case for case in options.cases if case not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    options.cases = options.cases or CASES
    options.cold = [(shape, int(size)) for shape, size in (graph.split(":") for graph in options.cold)]
    tools = []
    if "twdag" in options.tools:
        programs = options.program or [os.path.join(ROOT, "target", "release", "twdag")]
        tools = [Twdag(program) for program in programs]
        for tool in tools:
            if not os.access(tool.program, os.X_OK):
                raise SystemExit(f"{tool.program} is not there: cargo build --release")
            tool.name = "twdag" if len(tools) == 1 else f"twdag {programs[tools.index(tool)]}"
    for name in [name for name in options.tools if name != "twdag"]:
        if shutil.which(name):
            tools.append(RIVALS[name]())
        else:
            print(f"{name} is not installed", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=options.folder) as parent:
        print(machine(parent))
        table = Table()
        if {"no-op", "plan", "why"} & set(options.cases):
            nothing_to_do(options, table, parent, tools)
        for case in [case for case in ("cold", "big", "restore") if case in options.cases]:
            {"cold": cold, "big": big, "restore": restore}[case](options, table, parent, tools)


if __name__ == "__main__":
    main()

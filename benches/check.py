#!/usr/bin/env python3
"""What `twdag check --runs K` of a graph of ten stages costs beside running it K times, in turn, in one run.

    cargo build --release && python3 benches/check.py
    python3 benches/check.py --runs 3 --rounds 7

The graph makes text, a tokenizer, tokens and a model, scores, weighs, trains, measures and reports. A run begins with an empty store. Processor time
(of the whole process tree, user and system) and wall time are the best of all rounds. A check waits until more than a second has passed since
a result was computed; here that is over before it begins. With `--jobs 1` reruns go one after another.
"""

import argparse
import os
import pathlib
import subprocess
import tempfile
import time

GRAPH = """Graph(version: 1, stages: {
    "text": Synthesize(documents: 200, seed: 7, sentences: 80, facts: 4, distance: (least: 2, most: 20)),
    "tokenizer": TrainTokenizer(text: ["text"], vocabulary: 1024),
    "tokens": Tokenize(text: ["text"], tokenizer: "tokenizer", length: 512, shuffle: 3),
    "random": InitModel(tokenizer: "tokenizer", hidden_size: 128, layers: 4, heads: 4, intermediate_size: 384, context: 512, seed: 1),
    "short": Score(model: "random", tokens: "tokens", windows: (length: 128, step: 96)),
    "long": Score(model: "random", tokens: "tokens"),
    "weights": Postprocess(short: "short", long: "long", shape: Dense(lambda: 0.75)),
    "trained": Train(model: "random", tokens: "tokens", weighting: Static(weights: "weights"), steps: 20, batch: 4, learning_rate: 1e-3, seed: 1),
    "measured": Evaluate(model: "trained", tasks: {"loss": LossByPosition(tokens: "tokens", buckets: 8)}),
    "report": Report(title: "Ten stages", evaluations: {"trained": "measured"}, training: {"trained": "trained"}),
})
"""
ROOT = pathlib.Path(__file__).parents[1]


def measure(command, folder):
    """User and system, and wall time in seconds."""
    before, started = os.times(), time.monotonic()
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    after, ended = os.times(), time.monotonic()
    if said.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {said.returncode}:\n{said.stdout}{said.stderr}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, ended - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "target/release/twdag"))
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    program = str(pathlib.Path(arguments.program).resolve())
    runs, checks, in_turn = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "twdag.ron").write_text("Workspace(version: 1)\n")
        (folder / "graph.ron").write_text(GRAPH)
        for number in range(arguments.rounds):
            stores = [f"store-{number}-{run}" for run in range(arguments.runs)]
            costs = [measure([program, "run", "graph.ron", "--store", store], folder) for store in stores]
            runs.append(tuple(map(sum, zip(*costs))))
            time.sleep(1.2)
            check = [program, "check", "graph.ron", "--store", stores[0], "--runs", str(arguments.runs)]
            checks.append(measure(check, folder))
            in_turn.append(measure([*check, "--jobs", "1"], folder))
    print(f"{arguments.runs} runs each, best of {arguments.rounds} rounds, {os.cpu_count()} cores")
    for what, place in (("processor time", 0), ("wall time", 1)):
        run, check, one = (min(cost[place] for cost in costs) for costs in (runs, checks, in_turn))
        print(f"{what}: running {run:.2f} s, checking {check:.2f} s ({check / run:.3f}), with --jobs 1 {one:.2f} s ({one / run:.3f})")


if __name__ == "__main__":
    main()

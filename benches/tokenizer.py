#!/usr/bin/env python3
"""The stage Tokenize beside the batch encoder of Python's `tokenizers`, on all cores, in turn, in one run.

    cargo build --release && python3 benches/tokenizer.py
    python3 benches/tokenizer.py --rounds 7 --tokenizer path/to/tokenizer.json --books path/to/books
    python3 benches/tokenizer.py --program old/twdag --program target/release/twdag

Needs the Python package `tokenizers`. Books are files `*.txt` and `*.txt.gz`. Without arguments: the books of
../shared/data/corpora/books and every tokenizer below ../shared/data.

Ours is the time of the stage as the run tells it, in a store of its own each round: it reads and unpacks the books, encodes, cuts
sequences and writes the token set. Python's is the encoding alone, of texts that are in memory, in a process of its own: with offsets
(`encode_batch`), and without (`encode_batch_fast`). MB are 10^6 bytes of unpacked text; figures are the best of the
rounds, with the processor time (user and system) of the whole program beside them, starting included.
"""

import argparse
import glob
import gzip
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Tokens of a sequence.
LENGTH = 1024
DATA = os.path.join(os.path.dirname(ROOT), "shared", "data")

PYTHON = """
import glob, gzip, json, os, sys, time
import tokenizers
path, books, method = sys.argv[1:]
texts = []
for name in sorted(glob.glob(os.path.join(books, "*"))):
    if name.endswith((".txt", ".txt.gz")):
        with (gzip.open if name.endswith(".gz") else open)(name, "rb") as file:
            texts.append(file.read().decode())
tokenizer = tokenizers.Tokenizer.from_file(path)
tokenizer.no_padding()
tokenizer.no_truncation()
start = time.perf_counter()
encoded = getattr(tokenizer, method)(texts)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "tokens": sum(len(one.ids) for one in encoded)}))
"""


def measured(command, **more):
    """What a program prints, and the processor seconds that it and its children took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return said, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def theirs(tokenizer, books, method):
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    said, processor = measured([sys.executable, "-c", PYTHON, tokenizer, books, method], env=environment)
    said = json.loads(said)
    return said["seconds"], processor, said["tokens"]


def ours(program, tokenizer, books):
    """In a store of its own, so that nothing is cached."""
    with tempfile.TemporaryDirectory() as folder:
        folder_of = json.dumps(os.path.dirname(os.path.abspath(tokenizer)))
        graph = f"""Graph(version: 1, stages: {{
            "books": Download(from: Folder(path: {json.dumps(os.path.abspath(books))}, files: ["*.txt", "*.txt.gz"])),
            "tokenizer": Download(from: Folder(path: {folder_of}, files: ["tokenizer*.json"])),
            "tokens": Tokenize(text: ["books"], tokenizer: "tokenizer", length: {LENGTH}),
        }})"""
        for name, text in [("twdag.ron", "Workspace(version: 1)\n"), ("graph.ron", graph)]:
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
        environment = {name: value for name, value in os.environ.items() if name != "TWDAG_STORE"}
        said, processor = measured([os.path.abspath(program), "run", "graph.ron", "--json"], cwd=folder, env=environment)
        events = [json.loads(line) for line in said.splitlines()]
        finished = next(event for event in events if event["event"] == "stage-finished" and event["stage"] == "tokens")
        path = subprocess.run([os.path.abspath(program), "path", "graph.ron", "tokens"], cwd=folder, env=environment,
                              check=True, capture_output=True, text=True).stdout.strip()
        with open(os.path.join(path, "tokens.json")) as file:
            counted = json.load(file)
        return finished["seconds"], processor, counted["sequences"]


def text_bytes(books):
    total = 0
    for name in glob.glob(os.path.join(books, "*")):
        if name.endswith((".txt", ".txt.gz")):
            with (gzip.open if name.endswith(".gz") else open)(name, "rb") as file:
                total += len(file.read())
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", action="append", help="a twdag to measure; several are measured in turn")
    parser.add_argument("--tokenizer", action="append", help="a tokenizer.json")
    parser.add_argument("--books", default=os.path.join(DATA, "corpora", "books"), help="a folder")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    programs = chosen.program or [os.path.join(ROOT, "target", "release", "twdag")]
    tokenizers = chosen.tokenizer or sorted(glob.glob(os.path.join(DATA, "*", "*", "tokenizer.json")))
    size = text_bytes(chosen.books) if os.path.isdir(chosen.books) else 0
    if not tokenizers or size == 0:
        sys.exit("no tokenizer or no book found; name them with --tokenizer and --books")
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
          f"load {os.getloadavg()[0]:.1f}; {size / 1e6:.1f} MB of text, best of {chosen.rounds} rounds")
    for tokenizer in tokenizers:
        ways = {f"twdag ({program})" if len(programs) > 1 else "twdag": (ours, program) for program in programs}
        ways |= {method: (theirs, method) for method in ["encode_batch", "encode_batch_fast"]}
        found = {name: [] for name in ways}
        for _ in range(chosen.rounds):
            for name, (measure, what) in ways.items():
                arguments = (what, tokenizer, chosen.books) if measure is ours else (tokenizer, chosen.books, what)
                found[name].append(measure(*arguments))
        print(f"\n{os.path.relpath(tokenizer, DATA)}")
        rate = {name: size / 1e6 / min(seconds for seconds, *_ in rounds) for name, rounds in found.items()}
        for name, rounds in found.items():
            processor = min(processor for _, processor, _ in rounds)
            beside = "" if name.startswith("encode") else f"  {rate[name] / rate['encode_batch']:.2f} of encode_batch"
            print(f"  {name:24} {rate[name]:7.2f} MB/s  {processor:7.2f} s of processor time{beside}")
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

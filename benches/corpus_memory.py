#!/usr/bin/env python3
"""How much memory Tokenize takes for a corpus and for one ten times as large, for each kind of file.

    cargo build --release && python3 benches/corpus_memory.py
    python3 benches/corpus_memory.py --kinds jsonl parquet --times 1 10 30
    python3 benches/corpus_memory.py --program target/release/twdag --tokenizer path/to/tokenizer.json --books path/to/books

Books are files `*.txt.gz`; without arguments those of ../shared/data/corpora/books. Each copy of a book ends with a line of its
own, so that no two documents are the same and nothing is taken from the store. Parquet needs the Python package `pyarrow`, tar
the program `zstd`; a kind whose tool is missing is named and left out. Each run has a store of its own and one stage or part at a
time (`--jobs 1`). The figure is the largest `VmHWM` of a process that worked on a stage (what was in memory at once at most, files that
are mapped included), read from /proc every 20 ms, in MiB (2^20 bytes). `anonymous` is the largest `RssAnon` seen: memory that is no
file's.
"""

import argparse
import glob
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.path.join(os.path.dirname(ROOT), "shared", "data")
KINDS = ["text", "jsonl", "parquet", "zip", "tar.zst"]
# Rows of a row group of Parquet.
ROWS = 4


def documents(books, times):
    """Names and texts, one after the other."""
    for copy in range(times):
        for path in books:
            with gzip.open(path, "rt", errors="replace") as file:
                yield f"{copy}-{os.path.basename(path)[:-3]}", f"{file.read()}\n{copy}\n"


def write_text(folder, all_documents):
    for name, text in all_documents:
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)


def write_jsonl(folder, all_documents):
    with open(os.path.join(folder, "books.jsonl"), "w") as file:
        for _, text in all_documents:
            file.write(json.dumps({"text": text}) + "\n")


def write_parquet(folder, all_documents):
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("text", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(os.path.join(folder, "books.parquet"), schema) as writer:
        rows = []
        for _, text in all_documents:
            rows.append(text)
            if len(rows) == ROWS:
                writer.write_table(pyarrow.table({"text": rows}, schema))
                rows = []
        if rows:
            writer.write_table(pyarrow.table({"text": rows}, schema))


def write_zip(folder, all_documents):
    with zipfile.ZipFile(os.path.join(folder, "books.zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in all_documents:
            archive.writestr(name, text)


def write_tar(folder, all_documents):
    path = os.path.join(folder, "books.tar")
    with tarfile.open(path, "w") as archive:
        for name, text in all_documents:
            content = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    subprocess.run(["zstd", "-q", "--rm", path], check=True)


WRITE = {"text": write_text, "jsonl": write_jsonl, "parquet": write_parquet, "zip": write_zip, "tar.zst": write_tar}


def of_workers(program):
    """`VmHWM` and `RssAnon` of the processes that work on stages, in kB."""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                command = file.read().split(b"\0")
            if command[1:2] != [b"worker"] or os.path.basename(command[0]) != os.path.basename(program).encode():
                continue
            with open(os.path.join(os.path.dirname(path), "environ"), "rb") as file:
                if OURS.encode() not in file.read().split(b"\0"):
                    continue
            with open(os.path.join(os.path.dirname(path), "status")) as file:
                said = dict(line.split(":", 1) for line in file)
            yield tuple(int(said[name].split()[0]) for name in ("VmHWM", "RssAnon"))
        except (OSError, KeyError):
            continue  # it has ended


# Tells workers of this run from those of others on the machine.
OURS = f"CORPUS_MEMORY={os.getpid()}"


def measure(program, tokenizer, books, kind, times):
    """Bytes of text, sequences, MiB at most, MiB of anonymous memory at most, seconds."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = os.path.join(folder, "corpus")
        os.mkdir(corpus)
        size = 0

        def counted():
            nonlocal size
            for name, text in documents(books, times):
                size += len(text.encode())
                yield name, text

        WRITE[kind](corpus, counted())
        graph = f"""Graph(version: 1, stages: {{
            "books": Download(from: Folder(path: {json.dumps(corpus)})),
            "tokenizer": Download(from: File(path: {json.dumps(os.path.abspath(tokenizer))})),
            "tokens": Tokenize(text: ["books"], tokenizer: "tokenizer", length: 512, chunking: Lossless),
        }})"""
        for name, text in [("twdag.ron", "Workspace(version: 1)\n"), ("graph.ron", graph)]:
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
        environment = {name: value for name, value in os.environ.items() if name != "TWDAG_STORE"}
        name, value = OURS.split("=")
        environment[name] = value
        start = time.monotonic()
        with open(os.path.join(folder, "said"), "w+") as said:
            run = subprocess.Popen([program, "run", "graph.ron", "--jobs", "1", "--json"], cwd=folder, env=environment,
                                   stdout=said, stderr=subprocess.STDOUT)
            most = anonymous = 0
            while run.poll() is None:
                for peak, now in of_workers(program):
                    most, anonymous = max(most, peak), max(anonymous, now)
                time.sleep(0.02)
            seconds = time.monotonic() - start
            if run.returncode != 0:
                said.seek(0)
                sys.exit(said.read())
        path = subprocess.run([program, "path", "graph.ron", "tokens"], cwd=folder, env=environment, check=True,
                              capture_output=True, text=True).stdout.strip()
        with open(os.path.join(path, "tokens.json")) as file:
            sequences = json.load(file)["sequences"]
        return size, sequences, most / 1024, anonymous / 1024, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "target", "release", "twdag"))
    parser.add_argument("--tokenizer", default=os.path.join(DATA, "models", "smollm2-135m-instruct", "tokenizer.json"))
    parser.add_argument("--books", default=os.path.join(DATA, "corpora", "books"), help="a folder")
    parser.add_argument("--count", type=int, default=6, help="how many of the books, the first by name")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--times", nargs="+", type=int, default=[1, 10], help="copies of the books")
    chosen = parser.parse_args()
    books = sorted(glob.glob(os.path.join(chosen.books, "*.txt.gz")))[: chosen.count]
    if not books:
        sys.exit(f"no `*.txt.gz` in {chosen.books}; name a folder with --books")
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| files | documents | MB of text | sequences | MiB | of these anonymous | s |\n|---|---|---|---|---|---|---|")
    for kind in chosen.kinds:
        for times in chosen.times:
            try:
                found = measure(os.path.abspath(chosen.program), chosen.tokenizer, books, kind, times)
            except (ImportError, FileNotFoundError) as missing:
                print(f"{kind}: left out, {missing}", file=sys.stderr)
                break
            size, sequences, most, anonymous, seconds = found
            print(f"| {kind} | {len(books) * times} | {size / 1e6:.1f} | {sequences} | {most:.0f} | {anonymous:.0f} "
                  f"| {seconds:.1f} |", flush=True)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

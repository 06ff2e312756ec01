"""Scoring, training and greedy decoding beside PyTorch: the same shapes and precision, in turn, in one run.

    python benches/engine.py                            all cases, 2 rounds
    python benches/engine.py --cases "score 15m 2048 1" --rounds 3
    python benches/engine.py --preload /usr/lib/x86_64-linux-gnu/libjemalloc.so.2
    python benches/engine.py --cases "recompute 1b 8192 1 bf16 cuda" --features cuda

Run it from the repository with a Python that has PyTorch; it builds the other side itself. Each figure is the better
round of a median over repetitions. `others` is how many cores other processes used meanwhile: above 0.1 the figure
does not count. PyTorch needs a caching allocator for a fair race: name one with --preload.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys

CASES = [
    *(f"score {model} {length} 1" for model in ("15m", "135m") for length in (512, 2048, 8192)),
    *(f"train {case}" for case in ("15m 512 1", "15m 512 4", "15m 2048 1", "15m 2048 4", "15m 8192 1", "135m 2048 1")),
    "decode 135m 512 1",
]
# Products of bf16 factors, beside PyTorch with a bf16 model (scoring) or autocast over an f32 one (training).
CASES += [f"{case} bf16" for case in CASES if not case.startswith("decode")]
ROOT = pathlib.Path(__file__).resolve().parent.parent


def build(features):
    """Builds the benchmark and answers its path."""
    command = ["cargo", "bench", "--workspace", "--bench", "engine", "--no-run", "--message-format=json"]
    command += ["--features", features] if features else []
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [message for message in map(json.loads, lines) if message.get("target", {}).get("name") == "engine"]
    return next(message["executable"] for message in built if message.get("executable"))


def device_mib():
    """What all processes have of the first device's memory, its driver's part included."""
    query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True).stdout)


def run(command, environment):
    """What a side prints; on a device its peak is that of the device's memory, looked at by both sides' parent."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    before = peak = device_mib() if command[-1] == "cuda" else 0
    while command[-1] == "cuda" and process.poll() is None:
        peak = max(peak, device_mib())
    output = process.communicate()[0]
    if process.returncode != 0:
        return None
    found = json.loads(output.splitlines()[-1])
    return {**found, "peak_mib": peak - before} if command[-1] == "cuda" else found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="CASE", help="TASK MODEL LENGTH BATCH [bf16|bf16-amx] [cuda], quoted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--features", help="features of cargo that the program is built with, such as cuda")
    parser.add_argument("--program", help="a program that was built before, instead of building one")
    parser.add_argument("--preload", help="an allocator for PyTorch, such as jemalloc's shared library")
    options = parser.parse_args()
    ours = [options.program or build(options.features)]
    theirs = [sys.executable, str(ROOT / "benches" / "engine_torch.py")]
    plain = dict(os.environ)
    preloaded = {**plain, "LD_PRELOAD": options.preload} if options.preload else plain
    preloaded["MALLOC_CONF"] = "dirty_decay_ms:-1,muzzy_decay_ms:-1"

    print("| case | twdag, tokens/s | PyTorch | ratio | twdag, peak MiB | PyTorch | ratio | others |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    ratios = {}
    for case in options.cases:
        best = {}
        for _ in range(options.rounds):
            for side, command, environment in (("ours", ours, plain), ("theirs", theirs, preloaded)):
                found = run([*command, *case.split()], environment)
                if found and found["tokens_per_second"] > best.get(side, {"tokens_per_second": 0})["tokens_per_second"]:
                    best[side] = found
        if len(best) < 2:
            print(f"| {case} | failed: {sorted({'ours', 'theirs'} - set(best))} | | | | | | |", flush=True)
            continue
        ours_, theirs_ = best["ours"], best["theirs"]
        speed = ours_["tokens_per_second"] / theirs_["tokens_per_second"]
        task, *_ = case.split()
        ratios.setdefault(" ".join([task, *case.split()[4:]]), []).append(speed)
        print(
            f"| {case} | {ours_['tokens_per_second']:.0f} | {theirs_['tokens_per_second']:.0f} | {speed:.2f}"
            f" | {ours_['peak_mib']} | {theirs_['peak_mib']} | {ours_['peak_mib'] / theirs_['peak_mib']:.2f}"
            f" | {max(ours_['others'], theirs_['others']):.2f} |",
            flush=True,
        )
    for task, values in ratios.items():
        print(f"\n{task}: geometric mean of the ratios {math.exp(sum(map(math.log, values)) / len(values)):.2f}")


main()

"""Checks that the experiment of the quickstart means something: short context cannot know the planted facts, long
context can, and the scores tell the tokens that need it.

    python check_quickstart.py TOKENS SHORT_LOSS EVALUATE_SCORES EVALUATE_EXTENDED EVALUATE_UNIFORM

The limits leave room for other CPU families, whose training differs in the last bits and then in the course it takes.
"""

import glob
import json
import math
import sys

import numpy
from safetensors.numpy import load_file

tokens, short, scores, extended, uniform = sys.argv[1:]


def parts(folder, tensor):
    return numpy.concatenate([load_file(part)[tensor] for part in sorted(glob.glob(f"{folder}/part-*.safetensors"))])


def task(folder, kind):
    tasks = json.load(open(f"{folder}/metrics.json"))["tasks"].values()
    return next(task for task in tasks if task["kind"] == kind)


# The target of column i is token i + 1. A value's first token is where the subject's 32 values part.
far = parts(tokens, "far")[:, 1:] == 1
first = far & ~(parts(tokens, "far")[:, :-1] == 1)
blind = parts(short, "cross_entropy")[first].mean(dtype=numpy.float64)
found = task(scores, "FarTokenDetection")["area_under_curve"]
before, after = (task(folder, "PlantedFacts")["recall"] for folder in (extended, uniform))
print(f"{first.sum()} planted values: {blind:.2f} nats in short windows (best possible {math.log(32):.2f} for whole values)")
print(f"area under the ROC curve {found:.3f}; recall {before:.3f} extended, {after:.3f} fine-tuned")
assert blind > 0.8 * math.log(32), "the short side knows what it cannot know"
assert found > 0.85, "the scores do not find the tokens that need far context"
assert before > 0.4 and after > 0.6, "long context does not recall what it can see"

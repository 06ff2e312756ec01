"""Checks the last line of `twdag run --json`: it succeeded, and exactly the named stages ran.

    python check_outcome.py FILE [STAGE…]
"""

import json
import sys

last = json.load(open(sys.argv[1]))
ran = sorted(stage["name"] for stage in last["stages"] if stage["outcome"] == "ran")
other = sorted({stage["outcome"] for stage in last["stages"]} - {"ran", "cached"})
if last["event"] != "run-finished" or last["outcome"] != "succeeded" or other or ran != sorted(sys.argv[2:]):
    sys.exit(f"expected exactly {sorted(sys.argv[2:])} to run, found {ran}; outcome {last['outcome']}, other outcomes {other}")
print(f"as expected: {len(ran)} ran, {len(last['stages']) - len(ran)} cached")

#!/bin/sh
# Ten thousand deaths instead of one (tests/crash.rs): about ten minutes on two cores. Another seed draws others.
#   tests/crash-long.sh [SEED]
set -eu
cd "$(dirname "$0")/.."
TWDAG_TEST_TRIALS=10000 TWDAG_TEST_SEED="${1:-1}" cargo test --release --workspace --test crash -- --nocapture

#!/usr/bin/env bash
# What README.md walks through, at once: a laptop, a CI job and a GPU box are three folders below FOLDER, and share one store.
#
#     TWDAG_REMOTE_STORE=s3://team/try ./walk.sh FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
step() { printf '\n== %s\n' "$1"; }
on() { (cd "$folder/$1" && shift && "$@"); }

for machine in laptop ci gpu; do
  mkdir -p "$folder/$machine"
  cp "$here/graph.ron" "$folder/$machine/"
done

step "CI gets a key, and all workspaces name its public half"
key=$(on ci twdag store keygen ci.key)
for machine in laptop ci gpu; do
  printf 'Workspace(\n    version: 1,\n    remote_store: "%s",\n    trusted_keys: ["%s"],\n)\n' \
    "$TWDAG_REMOTE_STORE" "$key" > "$folder/$machine/twdag.ron"
done

step "The laptop computes and gives its results, which nobody has signed"
on laptop twdag run graph.ron

step "So the others do not take them"
on gpu twdag store status graph.ron

step "CI computes, signs and gives"
on ci twdag run graph.ron --signing-key ci.key

step "The GPU box has nothing to compute"
on gpu twdag run graph.ron

step "Nor has a new laptop"
rm -rf "$folder/laptop/artifacts"
on laptop twdag run graph.ron

step "What is here and there"
on laptop twdag store status graph.ron

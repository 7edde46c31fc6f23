#!/usr/bin/env bash
# What training costs at real sizes, on a machine with a GPU, torch, transformers and peft; no Ray and no vLLM.
#
#   benchmarks/gpu/run.sh [--out FOLDER] [--device cuda|cpu] [--tiny]
#
# Ten minutes in all: each part has a time limit of its own, writes FOLDER/PART.json as it goes, and what it had by its limit is
# kept. `--device cpu --tiny` runs every part in seconds, to see that they run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out=build/gpu device=cuda tiny=()
while (($#)); do
    case $1 in
    --out) out=$2 && shift 2 ;;
    --device) device=$2 && shift 2 ;;
    --tiny) tiny=(--tiny) && shift ;;
    *) echo "usage: benchmarks/gpu/run.sh [--out FOLDER] [--device cuda|cpu] [--tiny]" >&2 && exit 2 ;;
    esac
done
mkdir -p "$out"

# PART SECONDS, what matters most first
parts=(steps:240 masters:40 resume:30 attention:60 head:30 scoring:50 processor:60)
failed=0
for part in "${parts[@]}"; do
    name=${part%%:*} limit=${part##*:}
    began=$SECONDS
    PYTHONPATH=. timeout --signal=INT --kill-after=10 "$limit" "${PYTHON:-python}" -m "benchmarks.gpu.$name" \
        --device "$device" "${tiny[@]}" --json "$out/$name.json" >"$out/$name.log" 2>&1
    status=$?
    case $status in
    0) said=done ;;
    124 | 137) said="stopped after $limit s; what it had is kept" ;;
    *) said="FAILED ($status): $(tail -n 1 "$out/$name.log")" && failed=1 ;;
    esac
    echo "$name: $said ($((SECONDS - began)) s)"
done
exit "$failed"

#!/usr/bin/env bash
# Submits a campaign as two arrays of so many shares each: trainings, then evaluations.
#   launch/slurm/submit.sh [--OPTION=VALUE of sbatch]... WORKDIR SHARES [flags of amalgam-paper]
# --gpus-per-task=1 is a GPU for each share. TF_AMALGAM_VENV names the virtual environment,
# SBATCH_* variables hold further options.
set -euo pipefail
options=(--parsable)
while [[ "${1:-}" == --* ]]; do
    options+=("$1")
    shift
done
if [ "$#" -lt 2 ] || ! [ "$2" -ge 1 ] 2>/dev/null; then
    echo "usage: submit.sh [--OPTION=VALUE of sbatch]... WORKDIR SHARES" \
        "[flags of amalgam-paper]; SHARES is a number" >&2
    exit 2
fi
workdir="$1" shares="$2"
shift 2
here="$(cd "$(dirname "$0")" && pwd)"
options+=(--array="0-$((shares - 1))")
trained="$(sbatch "${options[@]}" "$here/share.sbatch" "$workdir" 'train/*' "$shares" "$@")"
trained="${trained%%;*}" # a cluster's name may follow
# Not afterok: one share that failed would keep all evaluations waiting for ever. Those
# of students that are not trained are left, and their share says so.
evaluated="$(sbatch "${options[@]}" --dependency="afterany:$trained" \
    "$here/share.sbatch" "$workdir" 'evaluate/*' "$shares" "$@")"
echo "trainings: $trained, evaluations after them: ${evaluated%%;*}"

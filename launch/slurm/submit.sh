#!/usr/bin/env bash
# Submits a campaign as two arrays of so many shares each: trainings, then evaluations.
#   launch/slurm/submit.sh WORKDIR SHARES [flags of amalgam-paper]
# TF_AMALGAM_VENV names the virtual environment, SBATCH_* variables hold further options.
set -euo pipefail
if [ "$#" -lt 2 ] || ! [ "$2" -ge 1 ] 2>/dev/null; then
    echo "usage: submit.sh WORKDIR SHARES [flags of amalgam-paper]; SHARES is a number" >&2
    exit 2
fi
workdir="$1" shares="$2"
shift 2
here="$(cd "$(dirname "$0")" && pwd)"
array="0-$((shares - 1))"
trained="$(sbatch --parsable --array="$array" "$here/share.sbatch" \
    "$workdir" 'train/*' "$shares" "$@")"
trained="${trained%%;*}" # a cluster's name may follow
evaluated="$(sbatch --parsable --array="$array" --dependency="afterok:$trained" \
    "$here/share.sbatch" "$workdir" 'evaluate/*' "$shares" "$@")"
echo "trainings: $trained, evaluations after them: ${evaluated%%;*}"

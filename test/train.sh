#!/usr/bin/env bash
# The common part of train_8p_performance.sh and train_full_8p.sh; sourced by them. Reads KIND (performance or full).
set -euo pipefail
# shellcheck source=test/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<TEXT
usage: bash test/$(basename "$0") [options]

  --preset NAME       network: swint, res50, effb0 or smoke        [PRESET; swint, smoke without an accelerator]
  --cards N           processes on this machine                    [CARDS; all accelerators, 2 without one]
  --batch-size N      samples a card and step                      [BATCH_SIZE; the preset's]
  --steps N           end after N steps                            [STEPS]
  --epochs N          epochs of the schedule                       [EPOCHS; the preset's: 30]
  --data-root DIR     nuScenes tree                                [DATA_ROOT; data/nuscenes, else synthetic data]
  --output DIR        folder of this run                           [OUTPUT; a new one under test/output]
  --resume [DIR]      go on with the interrupted run in DIR (default: the newest one of this script)
  -- OPTIONS          handed to 'pivotnet train' as they are
  -h, --help          this text

What stands in brackets: the environment variable, then the default. Several machines: run the same command on each
with NNODES, NODE_RANK (0, 1, ...) and MASTER_ADDR (of node 0) set; MASTER_PORT is 29500 unless set.
Synthetic data is made from SYNTH_SEED (default 0). PYTHON names an interpreter; without one that has the packages,
.venv is made here.
TEXT
}

preset=${PRESET:-} cards=${CARDS:-} batch_size=${BATCH_SIZE:-} steps=${STEPS:-} epochs=${EPOCHS:-}
data_root=${DATA_ROOT:-} output=${OUTPUT:-} resume="" resume_wanted=false
nnodes=${NNODES:-1} node_rank=${NODE_RANK:-0} master_addr=${MASTER_ADDR:-} master_port=${MASTER_PORT:-29500}
extra=()

# need_value OPTION "$@": dies unless the option is followed by a value
need_value() { [[ $# -ge 3 && "$3" != --* ]] || die "$1 needs a value; see --help"; }
need_number() { [[ "$2" =~ ^[1-9][0-9]*$ ]] || die "$1 is $2: give a whole number of at least 1"; }

parse_options() {
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --preset) need_value "$1" "$@" && preset=$2 && shift ;;
      --cards) need_value "$1" "$@" && need_number "$1" "$2" && cards=$2 && shift ;;
      --batch-size) need_value "$1" "$@" && need_number "$1" "$2" && batch_size=$2 && shift ;;
      --steps) need_value "$1" "$@" && need_number "$1" "$2" && steps=$2 && shift ;;
      --epochs) need_value "$1" "$@" && need_number "$1" "$2" && epochs=$2 && shift ;;
      --data-root) need_value "$1" "$@" && data_root=$2 && shift ;;
      --output) need_value "$1" "$@" && output=$2 && shift ;;
      --resume)
        resume_wanted=true
        if [[ $# -ge 2 && "$2" != -* ]]; then resume=$2 && shift; fi
        ;;
      -h | --help) usage && exit 0 ;;
      --) shift && extra=("$@") && break ;;
      *) die "unknown option $1; see --help" ;;
    esac
    shift
  done
  if [[ "$nnodes" != 1 && -z "$master_addr" ]]; then die "NNODES is $nnodes: set MASTER_ADDR to the address of node 0"; fi
}

# Sets device and devices: what this machine trains on, and how many of them it has.
find_devices() {
  local found
  found="$("$PY" - <<'PYTHON'
import sys

from pivotnet import device
from pivotnet.errors import PivotNetError

try:
    kind = device.select_device().type
except PivotNetError as error:
    sys.exit(f"error: {error}")
print(kind, device.device_count(kind))
PYTHON
)" || die "no device to train on (see above)"
  read -r device devices <<<"$found"
}

# Defaults by what was found. Without an accelerator the small preset trains, in two processes.
choose_defaults() {
  if [[ "$device" == cpu ]]; then
    preset=${preset:-smoke} cards=${cards:-2}
    say "no accelerator here: preset $preset, $cards processes on the CPU"
  else
    preset=${preset:-swint} cards=${cards:-$devices}
    say "$devices devices of type $device: preset $preset, $cards processes"
  fi
}

# Sets data_root; synthetic data is made on the spot when there is no other. Annotates what is not annotated yet.
prepare_data() {
  local seed=${SYNTH_SEED:-0}
  synthetic=false
  if [[ -z "$data_root" && -d "$ROOT/data/nuscenes/v1.0-trainval" ]]; then data_root="$ROOT/data/nuscenes"; fi
  if [[ -z "$data_root" ]]; then
    data_root="$ROOT/data/synthetic-$seed" synthetic=true
    say "no data in data/nuscenes and no DATA_ROOT: synthetic data, seed $seed, in $data_root"
    mkdir -p "$ROOT/data"
    "$PY" -m pivotnet synth "$data_root" --seed "$seed" || die "could not make synthetic data (see above)"
  fi
  if [[ ! -r "$data_root/customer/pivot-bezier/splits/train.txt" ]]; then
    "$PY" -m pivotnet annotate -d "$data_root" || die "could not annotate $data_root (see above)"
  fi
}

# Sets output: the folder of this run, a new one unless it is resumed. mkdir makes sure that two runs never share one.
choose_output() {
  local name number=1
  if [[ "$resume_wanted" == true ]]; then
    output=${resume:-${output:-$(newest_output)}}
    [[ -d "$output/checkpoints" ]] || die "nothing to resume: ${output:-no earlier run} has no checkpoints"
    say "resuming $output"
  elif [[ -z "$output" ]]; then
    mkdir -p "$ROOT/test/output"
    name="$ROOT/test/output/${KIND}_${preset}_${cards}p_$(date +%Y%m%d-%H%M%S)"
    output=$name
    until mkdir "$output" 2>/dev/null; do
      [[ $number -lt 100 ]] || die "cannot make a folder in $ROOT/test/output; is it writable?"
      number=$((number + 1)) output="$name-$number"
    done
  else
    mkdir -p "$output" || die "cannot make $output; choose another --output"
    if [[ -n "$(ls -A "$output")" ]]; then die "$output is not empty: choose another --output, or --resume $output"; fi
  fi
  output="$(cd "$output" && pwd)"
}

newest_output() {
  local candidate newest=""
  for candidate in "$ROOT/test/output/${KIND}"_*/; do
    if [[ -d "$candidate/checkpoints" && (-z "$newest" || "$candidate" -nt "$newest") ]]; then newest=${candidate%/}; fi
  done
  printf '%s' "$newest"
}

# Steps of a performance run: the published port's number, fewer where a step takes a CPU's time
performance_steps() { if [[ "$device" == cpu ]]; then echo 150; else echo 1500; fi; }

# Runs the training under torchrun. torchrun ends all ranks when one fails; ranks other than 0 write their output into
# files, whose ends are shown then. A signal to this script becomes a SIGTERM to all ranks, which save and leave.
train() {
  local arguments=(--preset "$preset" --data-root "$data_root" --output "$output") launch=() rank redirects="" status=0 splits
  if [[ -n "$batch_size" ]]; then arguments+=(--batch-size "$batch_size"); fi
  if [[ "$KIND" == performance ]]; then steps=${steps:-$(performance_steps)}; fi
  if [[ -n "$steps" ]]; then arguments+=(--steps "$steps"); fi
  if [[ -n "$epochs" ]]; then arguments+=(--epochs "$epochs"); fi
  if [[ "$resume_wanted" == true ]]; then arguments+=(--resume); fi
  if [[ "$KIND" == full ]]; then
    splits="val"
    if [[ "$synthetic" == true ]]; then splits="val,train"; fi
    arguments+=(--evaluate "$splits")
  fi
  if [[ "$nnodes" == 1 ]]; then
    launch=(--standalone)
  else
    launch=(--nnodes "$nnodes" --node-rank "$node_rank" --master-addr "$master_addr" --master-port "$master_port")
  fi
  for ((rank = 1; rank < cards; rank++)); do redirects+="${redirects:+,}$rank:3"; done
  if [[ -n "$redirects" ]]; then launch+=(--redirects "$redirects"); fi
  say "training in $output"
  "$PY" -m torch.distributed.run --nproc-per-node "$cards" --monitor-interval 1 --log-dir "$output/ranks" \
    "${launch[@]}" -m pivotnet train "${arguments[@]}" "${extra[@]}" &
  launcher=$!
  trap 'kill -TERM "$launcher" 2>/dev/null || true; interrupted=true' INT TERM HUP
  interrupted=false
  while true; do
    status=0
    wait "$launcher" || status=$?
    # a signal ends wait before the launcher has left: wait again
    if ! kill -0 "$launcher" 2>/dev/null; then break; fi
  done
  trap - INT TERM HUP
  if [[ "$interrupted" == true ]]; then
    say "interrupted; go on with: bash test/$(basename "$0") --resume $output" >&2
    exit 130
  fi
  if [[ $status -ne 0 ]]; then
    show_failure
    die "training failed (exit status $status); its log is $output/train.log"
  fi
}

# The last lines that the ranks beside 0 wrote to their standard error
show_failure() {
  local file
  while IFS= read -r -d '' file; do
    if [[ -s "$file" ]]; then
      printf -- '--- last lines of rank %s\n' "$(basename "$(dirname "$file")")" >&2
      tail -n 15 "$file" >&2
    fi
  done < <(find "$output/ranks" -name stderr.log -print0 2>/dev/null | sort -z)
}

run_training() {
  parse_options "$@"
  # shellcheck source=test/env_npu.sh
  source "$ROOT/test/env_npu.sh"
  choose_python run
  find_devices
  choose_defaults
  pivotnet_threads_per_rank "$cards"
  prepare_data
  choose_output
  train
  if [[ "$node_rank" == 0 ]]; then "$PY" -m pivotnet report "$output" --final "$KIND"; fi
}

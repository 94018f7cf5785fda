#!/usr/bin/env bash
# The common part of train_8p_performance.sh and train_full_8p.sh; sourced by them. Reads KIND (performance or full).
set -euo pipefail
# shellcheck source=test/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=test/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

usage() {
  cat <<TEXT
usage: bash test/$(basename "$0") [options]

  --preset NAME       network: swint, res50, effb0 or smoke        [PRESET; swint, smoke without an accelerator]
  --network NAME      builtin, or patched: the checkout of upstream in PIVOTNET_DIR (PivotNet/), through its run.sh
                                                                   [NETWORK; patched where there is one]
  --device NAME       npu, cuda or cpu                             [DEVICE; the first of them that works]
  --cards N           processes on this machine                    [CARDS; all accelerators, 2 without one]
  --batch-size N      samples a card and step                      [BATCH_SIZE; the preset's: 1]
  --steps N           end after N steps                            [STEPS; performance: 1500, without accelerator 150]
  --epochs N          epochs of the schedule                       [EPOCHS; the preset's: 30]
  --data-root DIR     nuScenes tree                                [DATA_ROOT; data/nuscenes, else synthetic data]
  --weights DIR       pretrained backbone files                    [WEIGHTS; assets/weights, see tools/download.sh]
  --output DIR        folder of this run                           [OUTPUT; a new one under test/output]
  --resume [DIR]      go on with the interrupted run in DIR (the newest one of this script), with its options
  -- OPTIONS          handed to 'pivotnet train' as they are, such as: -- --amp bf16 --profile 5
  -h, --help          this text

What stands in brackets: the environment variable, then the default. Several machines: run the same command on each
with NNODES, NODE_RANK (0, 1, ...) and MASTER_ADDR (of node 0) set; MASTER_PORT is 29500 unless set. Evaluation and
--resume then need an --output on a disk that all machines share.
Synthetic data is made from SYNTH_SEED (default 0). PYTHON names an interpreter; without one that has the packages,
.venv is made here, from WHEELHOUSE (see tools/wheelhouse.sh) where that is set.
TEXT
}

preset=${PRESET:-} network=${NETWORK:-} device_wanted=${DEVICE:-} cards=${CARDS:-} batch_size=${BATCH_SIZE:-}
steps=${STEPS:-} epochs=${EPOCHS:-} data_root=${DATA_ROOT:-} output=${OUTPUT:-} weights=${WEIGHTS:-} resume="" resume_wanted=false
nnodes=${NNODES:-1} node_rank=${NODE_RANK:-0} master_addr=${MASTER_ADDR:-} master_port=${MASTER_PORT:-29500}
extra=()

# need_value OPTION "$@": dies unless the option is followed by a value
need_value() { [[ $# -ge 3 && -n "$3" && "$3" != --* ]] || die "$1 needs a value; see --help"; }

# need_number NAME VALUE: dies unless the value is nothing or a whole number of at least 1
need_number() { [[ -z "$2" || "$2" =~ ^[1-9][0-9]{0,8}$ ]] || die "$1 is $2: give a whole number of at least 1"; }

parse_options() {
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --preset) need_value "$1" "$@" && preset=$2 && shift ;;
      --network) need_value "$1" "$@" && network=$2 && shift ;;
      --device) need_value "$1" "$@" && device_wanted=$2 && shift ;;
      --cards) need_value "$1" "$@" && cards=$2 && shift ;;
      --batch-size) need_value "$1" "$@" && batch_size=$2 && shift ;;
      --steps) need_value "$1" "$@" && steps=$2 && shift ;;
      --epochs) need_value "$1" "$@" && epochs=$2 && shift ;;
      --data-root) need_value "$1" "$@" && data_root=$2 && shift ;;
      --weights) need_value "$1" "$@" && weights=$2 && shift ;;
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
}

check_options() {
  need_number "--cards (CARDS)" "$cards"
  need_number "--batch-size (BATCH_SIZE)" "$batch_size"
  need_number "--steps (STEPS)" "$steps"
  need_number "--epochs (EPOCHS)" "$epochs"
  need_number NNODES "$nnodes"
  need_number MASTER_PORT "$master_port"
  case "$network" in "" | builtin | patched) ;; *) die "--network (NETWORK) is $network: choose builtin or patched" ;; esac
  if [[ ! "$node_rank" =~ ^[0-9]{1,6}$ || "$node_rank" -ge "$nnodes" ]]; then
    die "NODE_RANK is $node_rank: give a number from 0 to $((nnodes - 1)), NNODES - 1, another one on each machine"
  fi
  if [[ "$nnodes" != 1 && -z "$master_addr" ]]; then die "NNODES is $nnodes: set MASTER_ADDR to the address of node 0"; fi
  if [[ -z "$data_root" && -e "$ROOT/data/nuscenes" ]]; then data_root="$ROOT/data/nuscenes"; fi
  if [[ -n "$data_root" ]]; then
    [[ -d "$data_root" ]] || die "data root $data_root does not exist: give the folder of a nuScenes tree"
    [[ -d "$data_root/samples" ]] || die "data root $data_root is no nuScenes tree: it has no folder samples"
    data_root="$(cd "$data_root" && pwd)"
  fi
}

# Sets device and devices: what this machine trains on, and how many of them it has. Looks at the preset as well, while
# Python is there.
find_devices() {
  local found
  found="$("$PY" - "$device_wanted" "$preset" <<'PYTHON'
import sys

from pivotnet import config, device
from pivotnet.errors import PivotNetError

try:
    if sys.argv[2]:
        config.preset(sys.argv[2])
    kind = device.select_device(sys.argv[1] or None).type
except PivotNetError as error:
    sys.exit(f"[pivotnet] error: {error}")
print(kind, device.device_count(kind))
PYTHON
)" || exit 1
  read -r device devices <<<"${found##*$'\n'}"
}

# Defaults by what was found. Without an accelerator the small preset trains, in two processes; on tools/cannsim's
# simulated NPUs too, in one process each.
choose_defaults() {
  if [[ "$device" == cpu ]]; then
    preset=${preset:-smoke} cards=${cards:-2}
    say "no accelerator used: preset $preset, $cards processes on the CPU"
  elif [[ -n "${CANNSIM:-}" ]]; then
    preset=${preset:-smoke} cards=${cards:-$devices}
    say "$devices simulated devices of type $device: preset $preset, $cards processes; their speed means nothing"
    if [[ "$KIND" == performance && -z "$steps" ]]; then steps=30; fi
  else
    preset=${preset:-swint} cards=${cards:-$devices}
    [[ "$cards" -le "$devices" ]] || die "--cards is $cards, but this machine has $devices devices of type $device"
    say "$devices devices of type $device: preset $preset, $cards processes"
  fi
  # the first steps of the full schedule: the published port's number, fewer where a step takes a CPU's time
  if [[ "$KIND" == performance && -z "$steps" ]]; then
    if [[ "$device" == cpu ]]; then steps=150; else steps=1500; fi
  fi
}

# Sets network, and patched: the checkout of upstream, where there is one.
choose_network() {
  local chosen=$network
  patched=${PIVOTNET_DIR:-$ROOT/PivotNet}
  if [[ -n "${PIVOTNET_DIR:-}" && "$network" != builtin && ! -f "$patched/run.sh" ]]; then
    die "PIVOTNET_DIR=$patched is no checkout of upstream: it has no run.sh; unset it to train the built-in network"
  fi
  if [[ -z "$network" ]]; then
    if [[ -f "$patched/run.sh" ]]; then network=patched; else network=builtin; fi
  fi
  if [[ "$network" == patched ]]; then
    [[ -f "$patched/run.sh" ]] || die "there is no checkout of upstream in $patched; lay it out, or set PIVOTNET_DIR"
    patched="$(cd "$patched" && pwd)"
    if [[ ! -f "$patched/configs/pivotnet_nuscenes_$preset.py" ]]; then
      [[ -z "$chosen" ]] || die "the checkout in $patched has no configuration for preset $preset"
      say "training the built-in network: the checkout in $patched has no configuration for preset $preset"
      network=builtin
    elif ! grep -q pivotnet "$patched/run.sh"; then
      die "the checkout in $patched is not patched: apply pivotnet.patch, or choose --network builtin"
    else
      say "training the patched checkout in $patched, configuration pivotnet_nuscenes_$preset"
    fi
  else
    say "training the built-in network, preset $preset"
  fi
}

# Sets data_root; synthetic data is made on the spot when there is no other. Annotates what is not annotated yet.
prepare_data() {
  local seed=${SYNTH_SEED:-0}
  if [[ -z "$data_root" ]]; then
    [[ "$seed" =~ ^[0-9]{1,9}$ ]] || die "SYNTH_SEED is $seed: give a whole number"
    data_root="$ROOT/data/synthetic-$seed"
    say "no data in data/nuscenes and no DATA_ROOT: synthetic data, seed $seed, in $data_root"
    mkdir -p "$ROOT/data" || die "cannot make $ROOT/data; set DATA_ROOT"
    lock_folder "$ROOT/data"
    supervise "$PY" -m pivotnet synth "$data_root" --seed "$seed" || exit 1
    unlock_folder
  fi
  if [[ ! -r "$data_root/customer/pivot-bezier/splits/train.txt" ]]; then
    say "annotating $data_root"
    lock_folder "$data_root"
    supervise "$PY" -m pivotnet annotate -d "$data_root" || exit 1
    unlock_folder
  fi
  # scoring the train split as well tells whether a network has learnt synthetic data
  if [[ -e "$data_root/synthetic.json" ]]; then splits="val,train"; else splits="val"; fi
}

# Sets output: the folder of this run, a new one unless it is resumed. mkdir makes sure that two runs never share one.
choose_output() {
  local name number=1
  if [[ "$resume_wanted" == true ]]; then
    # an earlier end of this run is not its result
    if [[ "$node_rank" == 0 && -e "$output/summary.json" ]]; then
      mv "$output/summary.json" "$output/summary.$(date -r "$output/summary.json" +%Y%m%d-%H%M%S).json"
    fi
  elif [[ -z "$output" ]]; then
    mkdir -p "$ROOT/test/output" || die "cannot make $ROOT/test/output; choose --output"
    name="$ROOT/test/output/${KIND}_${preset}_${cards}p_$(date +%Y%m%d-%H%M%S)"
    output=$name
    until mkdir "$output" 2>/dev/null; do
      [[ $number -lt 100 ]] || die "cannot make a folder in $ROOT/test/output; is it writable?"
      number=$((number + 1)) output="$name-$number"
    done
  else
    mkdir -p "$output" || die "cannot make $output; choose another --output"
    if [[ "$node_rank" == 0 ]] && compgen -G "$output/*.json*" >/dev/null; then
      die "$output holds a run already: choose another --output, or --resume $output"
    fi
  fi
  output="$(cd "$output" && pwd)"
  mkdir -p "$output/ranks/node$node_rank" || die "cannot write $output"
  exec {run_lock}<"$output/ranks/node$node_rank" # held until the last process of this run has left
  if command -v flock >/dev/null; then
    flock --nonblock --conflict-exit-code 75 "$run_lock" 2>/dev/null || [[ $? -ne 75 ]] ||
      die "another run is writing into $output: wait for it, or choose another --output"
  fi
}

# Sets output to the run that --resume means, and takes over the options with which it was started.
choose_resumed() {
  local key value
  if [[ "$nnodes" != 1 && -z "${resume:-$output}" ]]; then die "--resume on several machines needs the run's folder"; fi
  output=${resume:-${output:-$(newest_unfinished)}}
  [[ -d "$output/checkpoints" ]] || die "nothing to resume: ${output:-no interrupted run here} has no checkpoints"
  say "resuming $output"
  if [[ -r "$output/launch.options" ]]; then
    while IFS='=' read -r key value; do
      case "$key" in
        preset) preset=${preset:-$value} ;;
        network) network=${network:-$value} ;;
        cards) cards=${cards:-$value} ;;
        batch_size) batch_size=${batch_size:-$value} ;;
        steps) steps=${steps:-$value} ;;
        epochs) epochs=${epochs:-$value} ;;
        data_root) data_root=${data_root:-$value} ;;
        extra) if [[ -z "$given_extra" ]]; then extra+=("$value"); fi ;;
      esac
    done <"$output/launch.options"
  fi
}

remember_options() {
  local value
  {
    printf '%s=%s\n' preset "$preset" network "$network" cards "$cards" batch_size "$batch_size" \
      steps "$steps" epochs "$epochs" data_root "$data_root"
    for value in "${extra[@]}"; do printf 'extra=%s\n' "$value"; done
  } >"$output/launch.options"
}

newest_unfinished() {
  local candidate newest=""
  for candidate in "$ROOT/test/output/${KIND}"_*/; do
    if [[ -d "$candidate/checkpoints" ]] && ! grep -qs '"finished": true' "$candidate/summary.json" &&
      [[ -z "$newest" || "$candidate/checkpoints" -nt "$newest/checkpoints" ]]; then
      newest=${candidate%/}
    fi
  done
  printf '%s' "$newest"
}

run_training() {
  parse_options "$@"
  given_extra=${extra[*]:+yes}
  if [[ "$resume_wanted" == true ]]; then choose_resumed; fi
  check_options
  # shellcheck source=test/env_npu.sh
  source "$ROOT/test/env_npu.sh"
  choose_python run
  find_devices
  choose_defaults
  choose_network
  if [[ "$network" == patched && "$resume_wanted" == true ]]; then die "the patched checkout cannot resume a run"; fi
  pivotnet_threads_per_rank "$cards"
  prepare_data
  choose_output
  if [[ "$node_rank" == 0 ]]; then remember_options; fi
  say "output: $output"
  if [[ "$network" == patched ]]; then train_patched; else train_builtin; fi
  if [[ "$node_rank" != 0 ]]; then
    say "node $node_rank has done its part; node 0 prints the result"
    return
  fi
  supervise "$PY" -m pivotnet report "$output" --final "$KIND" --log-folder "$ROOT/test/output" || exit 1
}

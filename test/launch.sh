#!/usr/bin/env bash
# Starts the ranks of a training run and says which of them failed and why; sourced by train.sh, whose variables it reads.
# shellcheck disable=SC2154
set -euo pipefail

# Where torchrun and the ranks beside rank 0 write in this start of the run; a resumed run has several
rank_logs() {
  logs="$output/ranks/node$node_rank/$(date +%Y%m%d-%H%M%S)-$$"
  mkdir -p "$logs"
}

on_interrupt() {
  if [[ -d "${output:-}/checkpoints" ]]; then
    say "interrupted; go on with: bash $0 --resume $output"
  else
    say "interrupted"
  fi
}

# Sets backbone_weights: the file that upstream starts this preset from, where the user has placed it
find_weights() {
  local name folder=${weights:-$ROOT/assets/weights}
  case "$preset" in
    swint) name=upernet_swin_tiny_patch4_window7_512x512.pth ;;
    res50) name=resnet50-0676ba61.pth ;;
    effb0) name=efficientnet-b0-355c32eb.pth ;;
    *) name="" ;;
  esac
  backbone_weights=""
  if [[ -n "$name" && -f "$folder/$name" ]]; then
    backbone_weights="$folder/$name"
  elif [[ -n "$weights" ]]; then
    die "--weights (WEIGHTS) is $weights, which holds no ${name:-file for preset $preset}; bash tools/download.sh gets it"
  elif [[ -n "$name" && "$KIND" == full ]]; then
    say "no $folder/$name: the backbone starts untrained, accuracy will be lower; bash tools/download.sh $preset gets it"
  fi
}

# train_builtin: pivotnet train under torchrun. Rank 0 writes its progress to the console; what else the ranks write
# goes into files, whose ends are shown on failure. torchrun ends all ranks when one has failed.
train_builtin() {
  local arguments=(--preset "$preset" --data-root "$data_root" --output "$output") launch=() rank redirects status=0
  if [[ -n "$device_wanted" ]]; then arguments+=(--device "$device_wanted"); fi
  if [[ -n "$batch_size" ]]; then arguments+=(--batch-size "$batch_size"); fi
  if [[ -n "$steps" ]]; then arguments+=(--steps "$steps"); fi
  if [[ -n "$epochs" ]]; then arguments+=(--epochs "$epochs"); fi
  if [[ "$resume_wanted" == true ]]; then
    arguments+=(--resume)
  else
    find_weights
    if [[ -n "$backbone_weights" ]]; then arguments+=(--backbone-weights "$backbone_weights"); fi
  fi
  if [[ "$KIND" == full ]]; then arguments+=(--evaluate "$splits"); fi
  if [[ "$nnodes" == 1 ]]; then
    launch=(--standalone)
  else
    launch=(--nnodes "$nnodes" --node-rank "$node_rank" --master-addr "$master_addr" --master-port "$master_port")
    say "node $node_rank of $nnodes; meeting at $master_addr:$master_port"
  fi
  redirects=0:2
  for ((rank = 1; rank < cards; rank++)); do redirects+=",$rank:3"; done
  rank_logs
  supervise "$PY" -m torch.distributed.run --nproc-per-node "$cards" --monitor-interval 0.5 --log-dir "$logs" \
    --redirects "$redirects" "${launch[@]}" -m pivotnet train "${arguments[@]}" "${extra[@]}" \
    2>"$logs/torchrun.log" || status=$?
  if [[ $status -ne 0 ]]; then
    show_failed_ranks
    die "training failed (exit status $status); logs: $output/train.log and $logs"
  fi
}

# train_patched: upstream's run.sh with the port's patch, which writes the same summary and records.
train_patched() {
  local arguments=(train "pivotnet_nuscenes_$preset" "${epochs:-30}") status=0
  if [[ ${#extra[@]} -gt 0 ]]; then die "${extra[*]}: the patched checkout takes no options of pivotnet train"; fi
  if [[ "$KIND" == full ]]; then arguments[0]=pipeline; fi
  export PIVOTNET_OUTPUT="$output" PIVOTNET_DEVICE="$device" CARDS="$cards" DATA_ROOT="$data_root"
  if [[ "$nnodes" != 1 ]]; then
    export NNODES="$nnodes" NODE_RANK="$node_rank" MASTER_ADDR="$master_addr" MASTER_PORT="$master_port"
  else
    unset NNODES NODE_RANK MASTER_ADDR MASTER_PORT # run.sh chooses a free port
  fi
  if [[ -n "$batch_size" ]]; then export BATCH_SIZE="$batch_size"; fi
  if [[ "$KIND" == performance ]]; then
    export PIVOTNET_PERFORMANCE_FLAG=1 PIVOTNET_PERFORMANCE_STEPS="$steps"
  elif [[ -n "$steps" ]]; then
    die "--steps (STEPS) is $steps: the patched checkout's full run has whole epochs, give --epochs"
  fi
  # run.sh calls python3: let it be the Python that was chosen
  PATH="$(dirname "$PY"):$PATH"
  rank_logs
  say "its log: $logs/run.log"
  supervise env --chdir="$patched" bash run.sh "${arguments[@]}" >"$logs/run.log" 2>&1 || status=$?
  if [[ $status -ne 0 ]]; then
    show_end "the patched checkout" "$logs/run.log"
    die "training failed (exit status $status); its log is $logs/run.log"
  fi
  if [[ "$node_rank" == 0 && ! -s "$output/summary.json" ]]; then
    show_end "the patched checkout" "$logs/run.log"
    die "run.sh of the patched checkout ended without a summary of its steps; its log is $logs/run.log"
  fi
}

# show_end WHO FILE: the last lines of a file, of whoever wrote it; where it ends with an error of ours, that one
show_end() {
  if [[ "$(tail -n 1 "$2" 2>/dev/null)" == "error: "* ]]; then
    say "$1 says: $(tail -n 1 "$2")" >&2
    return
  fi
  printf -- '--- last lines of %s\n' "$1" >&2
  if [[ -s "$2" ]]; then tail -n 15 "$2" >&2; else echo "(it wrote nothing)" >&2; fi
}

# failed_ranks: "LOCAL_RANK EXIT_CODE" of each failed rank, from torchrun's closing report, in its order
failed_ranks() {
  awk '/^ *rank +: / { gsub(/[^0-9 ]/, " "); rank = $2 }
       /^ *exitcode +: / { print rank, $3 }' "$logs/torchrun.log"
}

# The ranks that failed by themselves, with their last lines. The others lost them, or were ended by torchrun.
show_failed_ranks() {
  local rank code file shown=false
  while read -r rank code; do
    # the folder of a rank's files lies in a run's and an attempt's
    file="$(find "$logs" -path "*/$rank/stderr.log" | tail -n 1)"
    if [[ "$code" == -15 || "$code" == 143 ]]; then continue; fi
    # an error that all ranks find at once is told by rank 0 alone
    if [[ "$code" == 2 && "$rank" != 0 && ! -s "$file" ]]; then continue; fi
    if [[ "$code" -ge 0 ]] && grep -qs 'lost the connection to another rank' "$file"; then continue; fi
    shown=true
    if [[ "$code" -lt 0 ]]; then
      say "rank $rank of this machine was ended by signal ${code#-} ($(kill -l "${code#-}"))" >&2
      show_end "its train.log (rank 0)" "$output/train.log"
    else
      say "rank $rank of this machine failed with exit status $code" >&2
    fi
    show_end "rank $rank" "$file"
  done < <(failed_ranks)
  if [[ "$shown" == false ]]; then show_end torchrun "$logs/torchrun.log"; fi
}

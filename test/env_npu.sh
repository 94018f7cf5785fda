#!/usr/bin/env bash
# Environment of a training run on Ascend; sourced by the run scripts, and fit to be sourced by hand in bash:
#
#   source test/env_npu.sh
#
# It sets a variable only where the user has not, adds to LD_PRELOAD and LD_LIBRARY_PATH and never replaces them,
# changes nothing when it is sourced twice, and says nothing on a machine without an NPU.
# PIVOTNET_DEV (/dev), PIVOTNET_ASCEND (/usr/local/Ascend) and PIVOTNET_TCMALLOC name other places to look in.

pivotnet_dev=${PIVOTNET_DEV:-/dev}

# pivotnet_npus: the numbers of this machine's NPUs, one a line
pivotnet_npus() {
  local node
  for node in "$pivotnet_dev"/davinci[0-9]*; do
    if [ -e "$node" ]; then echo "${node##*/davinci}"; fi
  done
}

pivotnet_has_npu() { [ -e "$pivotnet_dev/davinci_manager" ] || [ -n "$(pivotnet_npus)" ]; }

# pivotnet_default NAME VALUE: export NAME=VALUE unless the user has set NAME (be it to nothing), or VALUE is empty
pivotnet_default() {
  if [ -z "${!1+set}" ] && [ -n "$2" ]; then export "$1=$2"; fi
}

# CANN: the toolkit's own set_env.sh, where the environment does not have it already
pivotnet_source_cann() {
  local candidate options ascend=${PIVOTNET_ASCEND:-/usr/local/Ascend}
  if [ -n "${ASCEND_HOME_PATH:-}" ] || [ -n "${PIVOTNET_CANN:-}" ]; then return 0; fi
  # ASCEND_TOOLKIT_HOME names the toolkit's folder, whose set_env.sh lies in it or beside it, by release
  for candidate in "${ASCEND_TOOLKIT_HOME:+$ASCEND_TOOLKIT_HOME/set_env.sh}" \
    "${ASCEND_TOOLKIT_HOME:+$ASCEND_TOOLKIT_HOME/../set_env.sh}" \
    "$ascend/ascend-toolkit/set_env.sh" "$ascend/cann/set_env.sh" "$ascend/nnae/set_env.sh" \
    "${HOME:-/root}/Ascend/ascend-toolkit/set_env.sh" "${HOME:-/root}/Ascend/cann/set_env.sh"; do
    if [ -n "$candidate" ] && [ -r "$candidate" ]; then
      # the vendor's script reads unset variables and runs commands that may fail: not under the caller's -e and -u
      options=$-
      set +eu
      # shellcheck disable=SC1090
      source "$candidate" >/dev/null
      case "$options" in *e*) set -e ;; esac
      case "$options" in *u*) set -u ;; esac
      export PIVOTNET_CANN="$candidate" # so that it is not sourced twice, whatever it sets
      return 0
    fi
  done
  if pivotnet_has_npu; then
    echo "[pivotnet] no CANN set_env.sh found; source it first: source {cann_root_dir}/set_env.sh" >&2
  fi
}

# tcmalloc: the host allocates a lot in a step. Together with a Python built with LTO and PGO it took the published
# port from 0.89 to 0.82 s a step.
pivotnet_preload_tcmalloc() {
  local library system
  case "${LD_PRELOAD:-}" in *libtcmalloc*) return 0 ;; esac
  system=$(uname -m)
  for library in ${PIVOTNET_TCMALLOC:+"$PIVOTNET_TCMALLOC"} /usr/local/lib/lib/libtcmalloc.so.4 /usr/local/lib/lib/libtcmalloc.so \
    /usr/local/lib64/libtcmalloc.so.4 /usr/local/lib/libtcmalloc.so.4 \
    /usr/lib64/libtcmalloc.so.4 /usr/lib64/libtcmalloc_minimal.so.4 \
    "/usr/lib/$system-linux-gnu/libtcmalloc.so.4" "/usr/lib/$system-linux-gnu/libtcmalloc_minimal.so.4"; do
    if [ -r "$library" ]; then
      export LD_PRELOAD="$library${LD_PRELOAD:+:$LD_PRELOAD}"
      return 0
    fi
  done
  if pivotnet_has_npu && [ -z "${PIVOTNET_TCMALLOC_HINT:-}" ]; then
    export PIVOTNET_TCMALLOC_HINT=shown
    echo "[pivotnet] tcmalloc not found, steps will take longer. Ubuntu: apt-get install libtcmalloc-minimal4;" \
      "openEuler: build gperftools, see 'Performance tuning' in README.md" >&2
  fi
}

# pivotnet_threads_per_rank RANKS: the cores shared among the ranks of this machine, so that they do not fight for them
pivotnet_threads_per_rank() {
  local ranks=${1:-1} cores threads
  case "$ranks" in '' | 0 | *[!0-9]*) ranks=1 ;; esac
  cores=$(nproc 2>/dev/null || echo 1)
  threads=$((cores / ranks > 0 ? cores / ranks : 1))
  # threads of one CPU operator: more than a rank's share of the cores makes all of them slower
  pivotnet_default OMP_NUM_THREADS "$threads"
  # the same for operators of MKL and OpenBLAS (numpy, scipy), which have pools of their own
  pivotnet_default MKL_NUM_THREADS "$threads"
  pivotnet_default OPENBLAS_NUM_THREADS "$threads"
}

# The address at which the other hosts reach this one: on the way to MASTER_ADDR, else the first of this host
pivotnet_host_address() {
  local address=""
  if [ "${NNODES:-1}" != 1 ] && [ -n "${MASTER_ADDR:-}" ] && command -v ip >/dev/null 2>&1; then
    address=$(ip route get "$MASTER_ADDR" 2>/dev/null | sed -n 's/.* src \([0-9a-fA-F.:]*\).*/\1/p' | head -n 1) || true
    case "$address" in 127.*) address="" ;; esac # this host is node 0 itself
  fi
  if [ -z "$address" ]; then address=$(hostname -I 2>/dev/null | awk '{print $1}') || true; fi
  echo "$address"
}

pivotnet_set_npu_environment() {
  local number
  # host log to files, not to the console: printing slows the host (0 off, 1 on)
  pivotnet_default ASCEND_SLOG_PRINT_TO_STDOUT 0
  # log errors only (0 debug, 1 info, 2 warning, 3 error)
  pivotnet_default ASCEND_GLOBAL_LOG_LEVEL 3
  # no event log, it is written at every level (0 off, 1 on)
  pivotnet_default ASCEND_GLOBAL_EVENT_ENABLE 0
  # two-stage launch queue: takes work off the Python thread; advised where the host is the bottleneck (0 off, 1, 2)
  pivotnet_default TASK_QUEUE_ENABLE 2
  # join operators on non-contiguous tensors into one (0 off, 1 on)
  pivotnet_default COMBINED_ENABLE 1
  # bind each rank to cores near its NPU, so that it is not moved about (0 off, 1 coarse, 2 fine)
  pivotnet_default CPU_AFFINITY_CONF 1
  # no white list of communication partners to keep (1: list off)
  pivotnet_default HCCL_WHITELIST_DISABLE 1
  # address of the root of communication: without it HCCL takes the first network card, which may be a bridge
  pivotnet_default HCCL_IF_IP "$(pivotnet_host_address)"
  # ranks reach their first collective minutes apart (data, weights): the default of 120 s is short (120..7200)
  pivotnet_default HCCL_CONNECT_TIMEOUT 1200
  # the devices' own logs: errors only; once a shell, as it takes a second a device
  if [ -z "${PIVOTNET_DEVICE_LOG:-}" ] && command -v msnpureport >/dev/null 2>&1; then
    for number in $(pivotnet_npus); do
      msnpureport -g error -d "$number" >/dev/null 2>&1 || true # needs root; the level is a matter of speed only
    done
    export PIVOTNET_DEVICE_LOG=error
  fi
}

pivotnet_source_cann
if pivotnet_has_npu; then
  pivotnet_set_npu_environment
  if [ -n "${CARDS:-}" ]; then
    pivotnet_threads_per_rank "$CARDS"
  elif [ -n "$(pivotnet_npus)" ]; then
    pivotnet_threads_per_rank "$(pivotnet_npus | wc -l)"
  fi
fi
pivotnet_preload_tcmalloc

#!/usr/bin/env bash
# Environment of a training run on Ascend; sourced by the run scripts, and fit to be sourced by hand:
#
#   source test/env_npu.sh
#
# It sets a variable only where the user has not, adds to LD_PRELOAD and LD_LIBRARY_PATH and never replaces them,
# changes nothing when it is sourced twice, and says nothing on a machine without an NPU.

pivotnet_has_npu() { [ -e /dev/davinci_manager ] || compgen -G '/dev/davinci[0-9]*' >/dev/null; }

# pivotnet_default NAME VALUE: export NAME=VALUE unless the user has set NAME
pivotnet_default() {
  if [ -z "${!1+set}" ]; then export "$1=$2"; fi
}

# CANN: the toolkit's own set_env.sh, where the environment does not have it already
pivotnet_source_cann() {
  local candidate options
  if [ -n "${ASCEND_HOME_PATH:-}" ]; then return; fi
  for candidate in "${ASCEND_TOOLKIT_HOME:-}" /usr/local/Ascend/ascend-toolkit /usr/local/Ascend/cann \
    /usr/local/Ascend/nnae "${HOME:-/root}/Ascend/ascend-toolkit"; do
    if [ -n "$candidate" ] && [ -r "$candidate/set_env.sh" ]; then
      # the vendor's script reads unset variables and runs commands that may fail: not under the caller's -e and -u
      options=$-
      set +eu
      # shellcheck disable=SC1091
      source "$candidate/set_env.sh"
      case "$options" in *e*) set -e ;; esac
      case "$options" in *u*) set -u ;; esac
      return
    fi
  done
  if pivotnet_has_npu; then
    echo "[pivotnet] no CANN set_env.sh found; source it first: source {cann_root_dir}/set_env.sh" >&2
  fi
}

# tcmalloc: a step's host side allocates a lot; the published port went from 0.89 to 0.82 s a step with it and an
# optimised Python
pivotnet_preload_tcmalloc() {
  local library
  case "${LD_PRELOAD:-}" in *tcmalloc*) return ;; esac
  for library in /usr/local/lib/lib/libtcmalloc.so.4 /usr/local/lib/libtcmalloc.so.4 /usr/lib64/libtcmalloc.so.4 \
    /usr/lib/*-linux-gnu/libtcmalloc.so.4 /usr/lib/*-linux-gnu/libtcmalloc_minimal.so.4; do
    if [ -r "$library" ]; then
      export LD_PRELOAD="$library${LD_PRELOAD:+:$LD_PRELOAD}"
      return
    fi
  done
  if pivotnet_has_npu; then
    echo "[pivotnet] tcmalloc not found: steps will be slower. Ubuntu: apt-get install libtcmalloc-minimal4;" \
      "openEuler: see 'Performance tuning' in README.md" >&2
  fi
}

# Threads of the CPU operators a rank: the cores shared among the ranks of this machine, so that ranks do not fight
pivotnet_threads_per_rank() {
  local ranks=${1:-8} cores
  cores=$(nproc 2>/dev/null || echo 8)
  pivotnet_default OMP_NUM_THREADS $((cores / ranks > 0 ? cores / ranks : 1))
}

pivotnet_set_npu_environment() {
  local number
  # host log to files, not to the console: printing slows the host
  pivotnet_default ASCEND_SLOG_PRINT_TO_STDOUT 0
  # log errors only (0 debug, 1 info, 2 warning, 3 error)
  pivotnet_default ASCEND_GLOBAL_LOG_LEVEL 3
  # no event log
  pivotnet_default ASCEND_GLOBAL_EVENT_ENABLE 0
  # two-stage launch queue: takes work off the Python thread, advised where the host is the bottleneck
  pivotnet_default TASK_QUEUE_ENABLE 2
  # combine non-contiguous copies into one operator
  pivotnet_default COMBINED_ENABLE 1
  # bind each rank's threads to the cores of its NPU's NUMA node (0 off, 1 coarse, 2 fine)
  pivotnet_default CPU_AFFINITY_CONF 1
  # no white list of communication partners to keep
  pivotnet_default HCCL_WHITELIST_DISABLE 1
  # address of the root communication: the first of this host, where several would be ambiguous
  pivotnet_default HCCL_IF_IP "$(hostname -I 2>/dev/null | awk '{print $1}')"
  # ranks may reach the first collective minutes apart (data, weights): default 120 s is too short
  pivotnet_default HCCL_CONNECT_TIMEOUT 1200
  # the devices' own logs: errors only
  if command -v msnpureport >/dev/null 2>&1; then
    for number in /dev/davinci[0-9]*; do
      if [ -e "$number" ]; then msnpureport -g error -d "${number#/dev/davinci}" >/dev/null 2>&1 || true; fi
    done
  fi
}

pivotnet_source_cann
if pivotnet_has_npu; then pivotnet_set_npu_environment; fi
pivotnet_preload_tcmalloc

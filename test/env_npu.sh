#!/usr/bin/env bash
# Environment of a training run on Ascend, or on a CPU; sourced by the run scripts, and fit to be sourced by hand in bash:
#
#   source test/env_npu.sh
#
# It sets a variable only where the user has not, adds to LD_PRELOAD and LD_LIBRARY_PATH and never replaces them,
# changes nothing when it is sourced twice, and says nothing on a machine without an NPU.
# PIVOTNET_DEV (/dev), PIVOTNET_ASCEND (/usr/local/Ascend) and PIVOTNET_TCMALLOC name other paths.

# pivotnet_default NAME VALUE: export NAME=VALUE unless the user has set NAME (be it to nothing), or VALUE is empty
pivotnet_default() { if [ -z "${!1+set}" ] && [ -n "$2" ]; then export "$1=$2"; fi; }

# pivotnet_first FILE...: the first that can be read
pivotnet_first() { for file in "$@"; do if [ -f "$file" ] && [ -r "$file" ]; then echo "$file" && return; fi; done; }

# The address at which the other hosts reach this one: on the way to MASTER_ADDR, else the first of this host
pivotnet_host_address() {
  local address=""
  if [ "${NNODES:-1}" != 1 ] && [ -n "${MASTER_ADDR:-}" ]; then
    address=$(ip route get "$MASTER_ADDR" 2>/dev/null | sed -n 's/.* src \([0-9a-fA-F.:]*\).*/\1/p' | head -n 1) || true
  fi
  # 127: this host is node 0 itself
  case "$address" in "" | 127.*) hostname -I 2>/dev/null | awk '{print $1}' || true ;; *) echo "$address" ;; esac
}

pivotnet_environment() {
  local dev=${PIVOTNET_DEV:-/dev} ascend=${PIVOTNET_ASCEND:-/usr/local/Ascend} home=${ASCEND_TOOLKIT_HOME:-/nowhere} folder
  local npus cann="" tcmalloc options=$- has_npu="" ranks=${CARDS:-} own="${HOME:-/root}/Ascend" candidates=()
  npus=$(compgen -G "$dev/davinci[0-9]*" | sed 's/.*davinci//' | sort -n) || true # their numbers
  if [ -n "$npus" ] || [ -e "$dev/davinci_manager" ]; then has_npu=yes; fi

  # CANN: the toolkit's own set_env.sh, where the environment does not have it already. ASCEND_TOOLKIT_HOME names the
  # toolkit's folder; the file lies in it or beside it, by release.
  if [ -z "${ASCEND_HOME_PATH:-}${PIVOTNET_CANN:-}" ]; then
    cann=$(pivotnet_first "$home/set_env.sh" "$home/../set_env.sh" "$ascend"/{ascend-toolkit,cann,nnae}/set_env.sh \
      "$own"/{ascend-toolkit,cann}/set_env.sh)
    if [ -n "$cann" ]; then
      # the vendor's script reads unset variables and runs commands that may fail: not under the caller's -e and -u
      set +eu
      # shellcheck disable=SC1090
      source "$cann" >/dev/null
      case "$options" in *e*) set -e ;; esac
      case "$options" in *u*) set -u ;; esac
      export PIVOTNET_CANN="$cann" # so that it is not sourced twice, whatever it sets
    elif [ -n "$has_npu" ]; then
      echo "[pivotnet] no CANN set_env.sh found; source it first: source {cann_root_dir}/set_env.sh" >&2
    fi
  fi

  if [ -n "$has_npu" ]; then
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
    # ranks may reach their first collective minutes after each other (data, weights): the default of 120 s is short (120..7200)
    pivotnet_default HCCL_CONNECT_TIMEOUT 1200
    case "$ranks" in '' | 0* | *[!0-9]*) ranks=$(wc -w <<<"$npus") ;; esac
    # threads of one CPU operator, MKL's and OpenBLAS' too: more than a rank's share of the cores slows all ranks down
    pivotnet_default OMP_NUM_THREADS "$(nproc | awk -v ranks="$ranks" '{ print(ranks && $1 > ranks ? int($1 / ranks) : 1) }')"
    # the devices' own logs: errors only; once a shell, as it takes a second a device
    if [ -z "${PIVOTNET_DEVICE_LOG:-}" ] && command -v msnpureport >/dev/null 2>&1; then
      for number in $npus; do msnpureport -g error -d "$number" >/dev/null 2>&1 || true; done # needs root
      export PIVOTNET_DEVICE_LOG=error
    fi
  elif ! compgen -G "$dev/nvidia[0-9]*" >/dev/null; then
    # A third of a CPU's step is the kernel clearing pages for tensors, as glibc's malloc maps large ones anew. These have
    # it keep what tensors have freed. One pool for all threads: memory that one of them has freed serves the others.
    pivotnet_default MALLOC_ARENA_MAX 1
    # give nothing back to the kernel
    pivotnet_default MALLOC_TRIM_THRESHOLD_ -1
    # take large tensors from the pool too, not from mappings of their own
    pivotnet_default MALLOC_MMAP_MAX_ 0
  fi

  # tcmalloc: the host allocates a lot in a step. Together with a Python built with LTO and PGO it took the published
  # port from 0.89 to 0.82 s a step.
  case "${LD_PRELOAD:-}" in *libtcmalloc*) return ;; esac
  for folder in /usr/local/lib/lib /usr/local/lib64 /usr/local/lib /usr/lib64 "/usr/lib/$(uname -m)-linux-gnu"; do
    candidates+=("$folder"/{libtcmalloc.so.4,libtcmalloc.so,libtcmalloc_minimal.so.4})
  done
  tcmalloc=$(pivotnet_first "${PIVOTNET_TCMALLOC:-}" "${candidates[@]}")
  if [ -n "$tcmalloc" ]; then
    export LD_PRELOAD="$tcmalloc${LD_PRELOAD:+:$LD_PRELOAD}"
  elif [ -n "$has_npu" ] && [ -z "${PIVOTNET_TCMALLOC_HINT:-}" ]; then
    export PIVOTNET_TCMALLOC_HINT=shown
    echo "[pivotnet] tcmalloc not found, steps will take longer. Ubuntu: apt-get install libtcmalloc-minimal4;" \
      "openEuler: build gperftools, see docs/installation.md" >&2
  fi
}

pivotnet_environment

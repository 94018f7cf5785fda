#!/usr/bin/env bash
# A whole training run on all cards of this machine, and its accuracy on the val split.
# Ends with the "Final result" block. See --help; README.md says more.
set -euo pipefail
# shellcheck disable=SC2034  # read by train.sh
KIND=full
# shellcheck source=test/train.sh
source "$(dirname "${BASH_SOURCE[0]}")/train.sh"
run_training "$@"

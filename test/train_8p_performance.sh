#!/usr/bin/env bash
# Step time on all cards of this machine: the first steps of the full schedule, timed inside the trainer.
# Ends with the "Final result" block. See --help; README.md says more.
set -euo pipefail
# shellcheck disable=SC2034  # read by train.sh
KIND=performance
# shellcheck source=test/train.sh
source "$(dirname "${BASH_SOURCE[0]}")/train.sh"
run_training "$@"

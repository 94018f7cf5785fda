#!/usr/bin/env bash
# Step time on all cards of this machine: the first steps of the full schedule, timed inside the trainer.
# Ends with the "Final result" block. See --help; README.md says more.
# shellcheck source=test/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
run_training performance "$@"

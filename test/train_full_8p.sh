#!/usr/bin/env bash
# A whole training run on all cards of this machine, and its accuracy on the val split.
# Ends with the "Final result" block. See --help; README.md says more.
# shellcheck source=test/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
run_training full "$@"

#!/usr/bin/env bash
# A process for each GPU of this machine, all working on one run:
#
#     PROCESSES=8 launch/one_node.sh bdgf run --config demo --workdir runs/demo
#
# When one fails the others are stopped; SIGTERM goes to all of them, and each saves and leaves with status 0.
set -u
: "${PROCESSES:=$(nvidia-smi --list-gpus | wc -l)}"
export WORLD_SIZE=$PROCESSES LOCAL_WORLD_SIZE=$PROCESSES MASTER_ADDR=127.0.0.1 MASTER_PORT=${MASTER_PORT:-29500}

started=()
trap 'kill -TERM "${started[@]}" 2>/dev/null' TERM
for ((rank = 0; rank < PROCESSES; rank++)); do
    RANK=$rank LOCAL_RANK=$rank "$@" &
    started+=($!)
done

status=0
for ((left = PROCESSES; left > 0; left--)); do
    wait -n
    ended=$?
    # A signal that was passed on interrupts `wait` before any process has ended.
    while ((ended > 128)) && (($(jobs -rp | wc -l) >= left)); do
        wait -n
        ended=$?
    done
    if ((ended != 0 && status == 0)); then
        status=$ended
        kill -TERM "${started[@]}" 2>/dev/null
    fi
done
exit "$status"

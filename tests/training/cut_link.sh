#!/usr/bin/env bash
# Two processes in network namespaces of their own, as on two hosts, whose link is cut once they have saved a step:
#     unshare --map-root-user --net --uts cut_link.sh WORKDIR STEP COMMAND...
# Ends with their two statuses.
set -eu
workdir=$1 step=$2
shift 2
ip link set lo up
hostname 10.7.0.1
unshare --net --uts sleep 1000 &
other=$!
trap 'kill $other' EXIT
there() { nsenter --net --uts --target "$other" "$@"; }
# Until it has left, its namespace is ours, and both ends of the link would stay here.
while [ "$(readlink "/proc/$other/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
until ip link add left type veth peer name right netns "$other" 2>/dev/null; do sleep 0.05; done
ip addr add 10.7.0.1/24 dev left
ip link set left up
there ip link set lo up
there ip addr add 10.7.0.2/24 dev right
there ip link set right up
there hostname 10.7.0.2
export WORLD_SIZE=2 MASTER_ADDR=10.7.0.1 MASTER_PORT=29500

RANK=0 "$@" &
here=$!
RANK=1 there "$@" &
far=$!
until [ -d "$workdir/checkpoints/$step" ]; do
    kill -0 $here $far
    sleep 0.05
done
ip link set left down
SECONDS=0
here_status=0 far_status=0
wait $here || here_status=$?
wait $far || far_status=$?
echo "after $SECONDS seconds: $here_status $far_status"

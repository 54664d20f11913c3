#!/bin/bash
# The kubelet runs this before it ends the container. Its first process is a shell that does not forward signals, so
# without this Flux would be killed at the end of the grace period.
. /mnt/flux/pod.sh
# A follower that is ended by the kubelet has not completed: its shell has a trap with which it exits with another code
# than 0. When the lead is already ending, it has completed. The shell of a lead has no trap, and ignores the signal.
pod_leaves "$(pod_state)" || kill -TERM 1
head=0
# The kubelet ends the server's container at the same time: it ends its launchers first.
if [[ $JOB_COMPLETION_INDEX = 0 ]] && (exec 3<> "/dev/tcp/127.0.0.1/$pod_server") 2> /dev/null; then head=12; fi
pod_end_broker "$head"

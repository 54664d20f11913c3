#!/bin/bash
# Kubelet runs this before it ends the container. Its first process is a shell that passes no signal on, so without
# this Flux would be killed when the grace period is over.
. /mnt/flux/pod.sh
# A follower that is told to go has not done its part: its shell has a trap by which it leaves with another code than 0.
# When the lead has begun to leave, it has done its part. The shell of a lead has no trap, and ignores the signal.
pod_leaves "$(pod_state)" || kill -TERM 1
head=0
# The server of the container beside is told by kubelet at the same time: it ends its launchers first.
if [[ $JOB_COMPLETION_INDEX = 0 ]] && (exec 3<> "/dev/tcp/127.0.0.1/$pod_server") 2> /dev/null; then head=12; fi
pod_end_broker "$head"

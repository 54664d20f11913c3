#!/bin/bash
# Kubelet runs this before it ends the container. Its first process is a shell that passes no signal on, so without
# this Flux would be killed when the grace period is over. In the lead of mode `launcher` the server is told, which then
# exits with 0 by itself, and the broker with it; anywhere else the broker, which leaves in order.
broker="" server=""
for process in /proc/[0-9]*; do
  read -r name < "$process/comm" || continue
  case "$name" in
    flux-sidecar) server=${process#/proc/} ;;
    flux-broker-*) broker=${process#/proc/} ;;
  esac
done 2> /dev/null
# The shell first: a follower's has a trap by now, which it keeps when its broker has ended. Any other ignores it.
kill -TERM 1 ${server:-$broker}

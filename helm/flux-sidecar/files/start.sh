#!/bin/bash
# Starts this pod's broker: rank 0 in pod 0.
set -u
. /etc/flux-cluster/pod.sh
[ ! -e "$pod_end" ] || pod_finish
if [ -e /etc/flux-cluster/pre.sh ]; then . /etc/flux-cluster/pre.sh; fi
rm -f "$pod_socket" # of a broker that was killed
# shellcheck disable=SC2046 # options, a word each
flux R encode $(< /etc/flux-cluster/resources) > /mnt/flux/R || exit
broker=(
  flux broker --config-path=/etc/flux-cluster/broker.toml
  -Srundir=/mnt/flux/run "-Slocal-uri=local://$pod_socket"
  -Sbroker.rc2_none -Slog-stderr-level=6 -Slog-stderr-mode=local "$@"
)
# When the kubelet ends the pod of the lead, it exits with 0, and the Job completes. A follower has not completed then,
# unless the lead is already ending: with exit code 0 the Job would never run this index again.
terminated=""
go() {
  pod_leaves "$(pod_state)" || terminated=yes
  pod_end_broker 0 &
}
trap go TERM
trap : USR1 # of the watch: it interrupts `wait`
pod_watch &
"${broker[@]}" &
pid=$!
code=0
while wait "$pid"; code=$?; kill -0 "$pid" 2> /dev/null; do :; done
[ ! -e "$pod_end" ] || pod_finish
if [ "$JOB_COMPLETION_INDEX" != 0 ] && [ -n "$terminated" ]; then code=143; fi
exit "$code"

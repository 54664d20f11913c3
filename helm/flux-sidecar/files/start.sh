#!/bin/bash
# Starts this pod's broker: rank 0 in pod 0.
set -u
if [ -e /etc/flux-cluster/pre.sh ]; then . /etc/flux-cluster/pre.sh; fi
rm -f /mnt/flux/run/local # of a broker that was killed
# shellcheck disable=SC2046 # options, a word each
flux R encode $(< /etc/flux-cluster/resources) > /mnt/flux/R || exit
broker=(
  flux broker --config-path=/etc/flux-cluster/broker.toml
  -Srundir=/mnt/flux/run -Slocal-uri=local:///mnt/flux/run/local
  -Sbroker.rc2_none -Slog-stderr-level=6 -Slog-stderr-mode=local "$@"
)
# The lead ends with 0 when kubelet tells it to, and the Job with it.
if [ "$JOB_COMPLETION_INDEX" = 0 ]; then exec "${broker[@]}"; fi

# A follower that is told to go has not done its part: with exit code 0 the Job would never have this index run again.
told=""
trap 'told=yes; kill -TERM "$pid"' TERM
"${broker[@]}" &
pid=$!
code=0
while wait "$pid"; code=$?; kill -0 "$pid" 2> /dev/null; do :; done
[ -z "$told" ] || code=143
exit "$code"

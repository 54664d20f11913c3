#!/bin/bash
# Starts this pod's broker: rank 0 in pod 0. It is the container's first process, so it gets kubelet's signals itself.
set -eu
rm -f /mnt/flux/run/local # of a broker that was killed
if [ -e /etc/flux-cluster/pre.sh ]; then . /etc/flux-cluster/pre.sh; fi
exec flux broker --config-path=/etc/flux-cluster/broker.toml \
  -Srundir=/mnt/flux/run -Slocal-uri=local:///mnt/flux/run/local \
  -Sbroker.rc2_none -Slog-stderr-level=6 -Slog-stderr-mode=local "$@"

# How the broker of a pod ends, whatever ends it; bash, read by the first shell of the broker's container and by the
# pre-stop hook. A broker that is being shut down must not get a signal: it would abort the commands of its cleanup (or
# of its rc3), and end with 129. So its state is asked for first, and shutdown is a request, which Flux takes only once.
#
# The server of the pod writes "CODE REASON" into the end file when this pod cannot go on, or has nothing left to do.
: "${pod_socket:=/mnt/flux/run/local}" "${pod_end:=/mnt/flux/end}"

# Print the lowest id of the processes with a name (a pattern) whose parent is PARENT: a job can be a Flux instance, and
# has brokers and servers of its own.
pod_child() { # PARENT NAME
  local process found="" name parent
  for process in /proc/[0-9]*; do
    { read -r name < "$process/comm" && read -r _ _ _ parent _ < "$process/stat"; } 2> /dev/null || continue
    # shellcheck disable=SC2053 # a pattern
    [[ $parent = "$1" && $name = $2 ]] || continue
    process=${process#/proc/}
    [[ -n $found && $found -lt $process ]] || found=$process
  done
  [[ -z $found ]] || echo "$found"
}

# Print the state of this pod's broker, as Flux names it; nothing where it does not answer.
pod_state() {
  local state=""
  read -r _ state _ < <(FLUX_URI=local://$pod_socket timeout 5 flux uptime 2> /dev/null) || true
  echo "$state"
}

# Whether a broker in that state is on its way out already.
pod_leaves() { # STATE
  case $1 in cleanup | shutdown | finalize | goodbye | unload-builtins | exit) true ;; *) false ;; esac
}

# End the broker in order; return when it has ended. Where a server is its initial program that one is told, which then
# exits with 0; the lead without one is asked to shut the instance down, if HEAD seconds after the server of another
# container has not done so; a follower just leaves.
pod_end_broker() { # HEAD
  local begun=$SECONDS broker server state told=""
  while broker=$(pod_child 1 'flux-broker*') && [[ -n $broker ]]; do
    server=$(pod_child "$broker" flux-sidecar) state=$(pod_state)
    if [[ -n $server ]]; then
      # Once: a second signal would end it before the launchers that it has started.
      [[ -n $told ]] || kill -TERM "$server"
      told=yes
    elif [[ $state = run && $JOB_COMPLETION_INDEX = 0 ]]; then
      ((SECONDS - begun < $1)) || FLUX_URI=local://$pod_socket timeout 5 flux shutdown --background --skip-gc
    elif [[ -n $state ]] && ! pod_leaves "$state"; then
      kill -TERM "$broker"
    elif [[ -z $state ]] && ((SECONDS - begun > 15)); then
      kill -TERM "$broker" # it has not answered for so long that nothing is lost
    fi
    sleep 0.5
  done 2> /dev/null
}

# Leave the first shell with what the end file says.
pod_finish() {
  local code reason
  read -r code reason < "$pod_end"
  echo "flux-sidecar: $reason" >&2
  exit "$code"
}

# Wait for the end file; then end the broker, by force if need be, and have the first shell leave.
pod_watch() {
  local process
  until [[ -e $pod_end ]]; do sleep 1; done
  kill -USR1 1
  pod_end_broker 0 &
  for _ in {1..10}; do
    sleep 1
    # The operator's script waits between two tries of a follower.
    for process in $(pod_child 1 sleep); do kill "$process"; done
    kill -0 $! || break
  done 2> /dev/null
  kill -KILL "$(pod_child 1 'flux-broker*')" 2> /dev/null
}

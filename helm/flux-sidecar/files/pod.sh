# Functions to end the broker of a pod; bash, sourced by the first shell of the broker's container and by the pre-stop
# hook. A broker that is being shut down must not get a signal: it would abort the commands of its cleanup (or of its
# rc3), and exit with 129. So its state is read first, and shutdown is a request, which Flux accepts only once.
#
# The server of the pod writes "CODE REASON" into the end file when this pod cannot continue, or is no longer needed.
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

# Print the state of this pod's broker, as Flux names it; nothing if it does not respond.
pod_state() {
  local state=""
  read -r _ state _ < <(FLUX_URI=local://$pod_socket timeout 5 flux uptime 2> /dev/null) || true
  echo "$state"
}

# Succeed if a broker in that state is already ending.
pod_leaves() { # STATE
  case $1 in cleanup | shutdown | finalize | goodbye | unload-builtins | exit) true ;; *) false ;; esac
}

# End the broker in order; return when it has ended. If its initial program is a server, that gets SIGTERM, and exits
# with 0. Without one, the lead is shut down, if the server of another container has not done so within HEAD seconds; a
# follower gets SIGTERM.
pod_end_broker() { # HEAD
  local begun=$SECONDS broker server state signalled=""
  while broker=$(pod_child 1 'flux-broker*') && [[ -n $broker ]]; do
    server=$(pod_child "$broker" flux-sidecar) state=$(pod_state)
    if [[ -n $server ]]; then
      # Once: a second signal would end it before the launchers that it has started.
      [[ -n $signalled ]] || kill -TERM "$server"
      signalled=yes
    elif [[ $state = run && $JOB_COMPLETION_INDEX = 0 ]]; then
      ((SECONDS - begun < $1)) || FLUX_URI=local://$pod_socket timeout 5 flux shutdown --background --skip-gc
    elif [[ -n $state ]] && ! pod_leaves "$state"; then
      kill -TERM "$broker"
    elif [[ -z $state ]] && ((SECONDS - begun > 15)); then
      kill -TERM "$broker" # it has not responded for so long that nothing is lost
    fi
    sleep 0.5
  done 2> /dev/null
}

# Exit the first shell with the code of the end file, and print its reason.
pod_finish() {
  local code reason
  read -r code reason < "$pod_end"
  echo "flux-sidecar: $reason" >&2
  exit "$code"
}

# End the broker of a follower that has lost its lead before the instance was in RUN, so that another attempt joins the new
# lead. In state QUORUM Flux (0.88) ignores that its parent is gone, and would wait forever.
pod_joined=""
pod_check_lead() {
  local broker
  broker=$(pod_child 1 'flux-broker*')
  [[ -n $broker && $broker != "$pod_joined" ]] || return 0
  case $(pod_state) in
    run) pod_joined=$broker ;; # from now on Flux ends it
    quorum)
      if [[ $(FLUX_URI=local://$pod_socket timeout 5 flux ping --count=1 0 2>&1) = *'No route to host'* ]]; then
        echo 'flux-sidecar: the lead was lost before the instance was complete; the broker ends' >&2
        kill -TERM "$broker"
      fi
      ;;
  esac
}

# Wait for the end file; then end the broker, with SIGKILL if necessary, and let the first shell exit.
pod_watch() {
  local process checked=$SECONDS
  until [[ -e $pod_end ]]; do
    sleep 1
    if ((SECONDS - checked >= 5)) && [[ $JOB_COMPLETION_INDEX != 0 ]]; then
      pod_check_lead
      checked=$SECONDS
    fi
  done
  kill -USR1 1
  pod_end_broker 0 &
  for _ in {1..10}; do
    sleep 1
    # The operator's script sleeps between two attempts of a follower.
    for process in $(pod_child 1 sleep); do kill "$process"; done
    kill -0 $! || break
  done 2> /dev/null
  kill -KILL "$(pod_child 1 'flux-broker*')" 2> /dev/null
}

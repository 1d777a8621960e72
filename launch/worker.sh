#!/usr/bin/env bash
# Runs one palmscale command on this host, independently of the terminal, and restarts it depending on
# its exit code: never after 0 (done), 2 (a user error) or 130 (Ctrl-C), and at most K times otherwise. The
# count starts over after a run of M minutes.
#
#   worker.sh start [--state=DIR] [--max-restarts=K] [--healthy-minutes=M] -- COMMAND...
#   worker.sh status|logs|stop [--state=DIR]
#
# When one process of a job ends, all of them do, and each worker.sh restarts its own. They wait for
# one another and resume from the last checkpoint. DIR (~/.palmscale) holds the log, the command's pid,
# the number of attempts, and at the end the exit code. If the supervisor of the command is killed, the
# command is asked to save and exit; until it has, `status` shows it, `start` leaves it alone, and `stop`
# waits for it.
set -u

fail() {
  echo "worker.sh: error: $*" >&2
  exit 2
}

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
}

read_options() {
  while (($# > 0)); do
    case $1 in
      --state=*) state=${1#*=} ;;
      --max-restarts=*) max_restarts=${1#*=} ;;
      --healthy-minutes=*) healthy_minutes=${1#*=} ;;
      --) shift && break ;;
      *) fail "unknown option $1; see worker.sh --help" ;;
    esac
    shift
  done
  [[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max-restarts=$max_restarts is not a whole number"
  [[ $healthy_minutes =~ ^[0-9]+$ ]] || fail "--healthy-minutes=$healthy_minutes is not a whole number"
  command=("$@")
}

supervisor() {
  # Check the command line too: after a reboot, the pid may belong to another process.
  [[ -f $state/supervisor ]] && grep -aqs worker.sh "/proc/$(<"$state/supervisor")/cmdline"
}

# The command is alive. It may have lost its supervisor.
command_runs() {
  [[ -f $state/pid ]] && grep -azqsxF "PALMSCALE_WORKER=$state" "/proc/$(<"$state/pid")/environ"
}

running() {
  supervisor || command_runs
}

# Waits for the command's end, and kills it after 10 minutes.
wait_for_command() {
  local waited=0
  while command_runs; do
    sleep 0.2
    ((waited++ < 600 * 5)) || kill -KILL "$(<"$state/pid")"
  done
}

# Waits for its input to end, with the supervisor. If that was killed, the command is asked to end.
outlive_supervisor() {
  trap '' INT TERM HUP
  echo "$BASHPID" >"$state/witness"
  read -r _
  [[ ! -f $state/code ]] || return
  echo "worker.sh: error: the supervisor was killed; the command is asked to end" >>"$state/log"
  command_runs && kill -TERM "$(<"$state/pid")"
  wait_for_command
  # By now, another supervisor may have been started.
  [[ $(<"$state/supervisor") == "$$" ]] && rm -f "$state/pid" "$state/supervisor" && echo 137 >"$state/code"
}

supervise() {
  local restarts=0 attempts=0 began child='' code=75 asked=''
  exec 9> >(outlive_supervisor)
  trap 'asked=yes; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM
  while [[ -z $asked ]]; do
    began=$SECONDS
    echo $((++attempts)) >"$state/attempts"
    PALMSCALE_WORKER=$state "${command[@]}" >>"$state/log" 2>&1 9>&- &
    child=$!
    # SIGTERM may have arrived before there was a child to pass it to.
    [[ -z $asked ]] || kill -TERM "$child"
    echo "$child" >"$state/pid"
    # A trapped signal ends `wait` before the child has ended.
    until wait "$child"; code=$?; ! kill -0 "$child" 2>/dev/null; do :; done
    child=''
    ((SECONDS - began < healthy_minutes * 60)) || restarts=0
    [[ $code == 0 || $code == 2 || $code == 130 || -n $asked ]] && break
    ((restarts++ < max_restarts)) || break
    echo "worker.sh: exit code $code; restart $restarts of $max_restarts" >>"$state/log"
    [[ -n $asked ]] || sleep 1
  done
  rm -f "$state/pid"
  echo "$code" >"$state/code"
  rm -f "$state/supervisor"
}

start() {
  ((${#command[@]} > 0)) || fail "no command; add one after --, for example: palmscale train ..."
  mkdir -p "$state" || fail "cannot write to --state=$state"
  if running; then
    echo "already running: $(tr '\0' ' ' <"$state/command")"
    return
  fi
  rm -f "$state/code" "$state/attempts"
  printf '%s\0' "${command[@]}" >"$state/command"
  : >>"$state/log"
  options=(--state="$state" --max-restarts="$max_restarts" --healthy-minutes="$healthy_minutes")
  setsid nohup bash "$0" supervise "${options[@]}" -- "${command[@]}" </dev/null >/dev/null 2>&1 &
  echo $! >"$state/supervisor"
  echo "started"
}

# One line: state, exit code, attempts, pid, host, the log's last line; separated by tabs.
status() {
  local what=idle code=- attempts=0 pid=- last=''
  running && what=running
  [[ -f $state/pid ]] && pid=$(<"$state/pid")
  [[ -f $state/attempts ]] && attempts=$(<"$state/attempts")
  [[ -f $state/code ]] && code=$(<"$state/code") && what=ended
  if [[ -f $state/log ]]; then
    last=$(grep -av '^\[Gloo\]' "$state/log" | tail -n 1)
    [[ $code == [1-9]* ]] && last=$(grep -a 'error:' "$state/log" | tail -n 1)
  fi
  printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$what" "$code" "$attempts" "$pid" "$(hostname)" "${last:0:300}"
}

stop() {
  running || { echo "not running" && return; }
  if ! supervisor; then
    grep -aqs worker.sh "/proc/$(<"$state/witness")/cmdline" || kill -TERM "$(<"$state/pid")"
    wait_for_command
    rm -f "$state/pid" "$state/supervisor"
    echo "stopped; its supervisor had been killed"
    return
  fi
  kill -TERM "$(<"$state/supervisor")"
  local waited=0
  while supervisor; do
    sleep 0.2
    ((waited++ < 600 * 5)) || { [[ -f $state/pid ]] && kill -KILL "$(<"$state/pid")"; }
  done
  echo "stopped with exit code $(<"$state/code")"
}

state=$HOME/.palmscale max_restarts=10 healthy_minutes=10
action=${1-}
(($# > 0)) && shift
case $action in
  start | supervise | status | stop) read_options "$@" && "$action" ;;
  logs) read_options "$@" && tail -n +1 -f "$state/log" ;;
  --help | -h) usage ;;
  '') usage && exit 2 ;;
  *) fail "unknown action $action; expected start, status, logs or stop" ;;
esac

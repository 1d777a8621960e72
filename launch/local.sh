#!/usr/bin/env bash
# Runs N processes of one palmscale command on this machine, as one job: all or nothing.
#
#   launch/local.sh N [--max-restarts=K] [--grace=SECONDS] [--logs=DIR] COMMAND...
#   launch/local.sh 2 train --gin_file=configs/runs/quickstart.gin --gin.SIMULATED_DEVICES=4
#   launch/local.sh 2 python my_script.py     # a script that calls palmscale.train
#
# When a process fails, the others have GRACE seconds (default 20) to exit before they are killed, and
# the job is restarted, at most K times (default 3). SIGTERM and Ctrl-C are passed on: the processes
# save and exit, without a restart. If this script is killed, the processes end as well, after at most
# GRACE seconds. Each process has a log in DIR; process 0 is also shown here.
# Exit codes: 0 done; 2 a user error, never restarted; 1 a fault; 75 ended early (preempted, or a
# process was lost): the same command resumes the run.
set -u

fail() {
  echo "local.sh: error: $*" >&2
  exit 2
}

say() {
  echo "local.sh: $*" >&2
}

(($# > 0)) || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && exit 2; }
[[ $1 =~ ^-?-h(elp)?$ ]] && { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0; }
[[ $1 =~ ^[1-9][0-9]*$ ]] || fail "'$1' is not a number of processes; expected 1 or more, for example: launch/local.sh 2 train ..."
processes=$1 max_restarts=3 grace=20 logs=''
shift
while (($# > 0)); do
  case $1 in
    --max-restarts=*) max_restarts=${1#*=} ;;
    --grace=*) grace=${1#*=} ;;
    --logs=*) logs=${1#*=} ;;
    *) break ;;
  esac
  shift
done
[[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max-restarts=$max_restarts is not a whole number"
[[ $grace =~ ^[0-9]+$ ]] || fail "--grace=$grace is not a whole number of seconds"
(($# > 0)) || fail "no command; add one, for example: train --gin_file=configs/runs/quickstart.gin"
program=(palmscale)
[[ $1 == python* || $1 == */python* ]] && program=()
command -v "${program[@]:-$1}" >/dev/null || fail "the command ${program[*]:-$1} is not found; activate the environment in which it is installed"
[[ -n $logs ]] || logs=$(mktemp -d -t palmscale.XXXXXX)
mkdir -p "$logs" || fail "cannot write to --logs=$logs"

pids=() codes=() asked=''

# Reads the processes that run, a line each time that they change. Its input ends with this script,
# however that ends; processes that still run then have GRACE seconds to save and exit.
end_orphans() {
  local line=() running=() waited=0
  trap '' INT TERM HUP
  while read -ra line; do running=("${line[@]}"); done
  ((${#running[@]} > 0)) || return
  say "was killed; its processes are asked to end"
  kill -TERM "${running[@]}" 2>/dev/null
  while kill -0 "${running[@]}" 2>/dev/null && ((waited++ < grace * 10)); do sleep 0.1; done
  kill -KILL "${running[@]}" 2>/dev/null
}
exec 9> >(end_orphans)

start() {
  local index port
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
  pids=() codes=()
  for ((index = 0; index < processes; index++)); do
    local log=$logs/process_$index.log
    export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=$index
    ((processes > 1)) || unset JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES JAX_PROCESS_ID
    if ((index == 0)); then
      # Ctrl-C reaches these readers too; they ignore it to show what the process prints while saving.
      "${program[@]}" "$@" > >(exec 9>&- && trap '' INT && tee -a "$log" | grep --line-buffered -v -e '^\[Gloo\]' -e 'peer ranks is : ') \
        2> >(exec 9>&- && trap '' INT && exec tee -a "$log" >&2) 9>&- &
    else
      "${program[@]}" "$@" >>"$log" 2>&1 9>&- &
    fi
    pids[index]=$!
    echo "${pids[*]}" >&9
  done
}

# Records the exit codes of processes that have ended; true if all have.
all_ended() {
  local index
  for ((index = 0; index < processes; index++)); do
    if [[ -z ${codes[index]-} ]] && ! kill -0 "${pids[index]}" 2>/dev/null; then
      wait "${pids[index]}"
      codes[index]=$?
      [[ ${codes[index]} == 0 ]] || failed+=("$index")
    fi
  done
  ((${#codes[@]} == processes))
}

# Finds the process at fault: a stopped one, else the one whose exit code is most specific.
culprit() {
  local index code rank best=9
  at_fault='' why=''
  for index in "${stopped[@]}"; do
    at_fault=$index why="stands still (stopped)" code_of_job=75
    return
  done
  for index in "${failed[@]}"; do
    code=${codes[index]}
    case $code in
      134 | 75) rank=3 ;; # 134: JAX ended it because another process is gone
      1) rank=2 ;;
      2) rank=0 ;;
      *) rank=1 ;;
    esac
    ((rank < best)) || continue
    best=$rank at_fault=$index
    if ((code > 128)); then
      why="was ended by signal $((code - 128))" code_of_job=75
    else
      why="exited with code $code: $(grep -a 'error:' "$logs/process_$index.log" | tail -n 1)"
      case $code in
        2 | 75) code_of_job=$code ;;
        *) code_of_job=1 ;;
      esac
    fi
  done
}

ask() {
  asked=yes
  say "asked to end; the processes save and exit"
  kill -TERM "${pids[@]}" 2>/dev/null
}
trap ask TERM INT

for ((restarts = 0; ; restarts++)); do
  start "$@"
  failed=() stopped=() waited=0
  until all_ended; do
    sleep 0.1
    if [[ -n $asked ]]; then
      # Saving may take long. But if a process is stopped, all others would wait for it forever.
      ((waited++ < grace * 10)) || { ps -o stat= -p "$(IFS=, && echo "${pids[*]}")" | grep -q '^T' && kill -KILL "${pids[@]}"; } 2>/dev/null
    elif ((${#failed[@]} > 0)); then
      ((waited == 0)) && for ((index = 0; index < processes; index++)); do
        [[ -z ${codes[index]-} && $(ps -o stat= -p "${pids[index]}") == T* ]] && stopped+=("$index")
      done
      ((waited++ < grace * 10)) || kill -KILL "${pids[@]}" 2>/dev/null
    fi
  done
  echo >&9
  ((${#failed[@]} > 0)) || exit 0
  code_of_job=75
  culprit
  [[ -n $asked ]] && exit "$code_of_job"
  say "process $at_fault of $processes $why; logs are in $logs"
  ((code_of_job == 2)) && exit 2
  if ((restarts >= max_restarts)); then
    say "ended after $restarts restart(s)"
    exit "$code_of_job"
  fi
  say "restart $((restarts + 1)) of $max_restarts"
done

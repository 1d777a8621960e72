#!/usr/bin/env bash
# Runs palmscale on one or several TPU slices, from a terminal that may be closed.
#
#   tpu_pod.sh up     [OPTIONS]            request the TPUs and wait until they are active
#   tpu_pod.sh run    [OPTIONS] COMMAND... copy the code, start COMMAND on every worker and watch it;
#                                          after a preemption start over, until it is done
#   tpu_pod.sh status [OPTIONS]            a table of the workers
#   tpu_pod.sh logs   [OPTIONS] [--worker=K] [--slice=S] [--follow]
#   tpu_pod.sh stop   [OPTIONS]            make the run save and exit
#   tpu_pod.sh down   [OPTIONS]            release the TPUs
#
#   tpu_pod.sh run --name=palm --zone=us-central2-b --type=v4-128 \
#       train --gin_file=configs/recipes/palm_8b_v4_64.gin --workdir=gs://my-bucket/palm
#
# OPTIONS, or the variables TPU_NAME, TPU_ZONE, TPU_PROJECT, TPU_TYPE, TPU_RUNTIME:
#   --name=NAME --zone=ZONE --project=PROJECT   (default: gcloud's own project)
#   --type=v4-128, or --type=v4 --topology=4x4x4
#   --runtime=tpu-ubuntu2204-base --slices=N --spot --network=NAME --subnetwork=NAME
#   --install=COMMAND   runs on each worker in the code's folder before the start
#   --poll=SECONDS      time between two checks (30)
#   --dry-run           prints every command and runs nothing
# Exit codes: 0 done; 2 a user error, in this command or in the run; 1 a fault of the run.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
name=${TPU_NAME-} zone=${TPU_ZONE-} project=${TPU_PROJECT-} type=${TPU_TYPE-}
topology='' runtime=${TPU_RUNTIME-tpu-ubuntu2204-base} slices=1 spot='' network='' subnetwork=''
poll=30 dry_run='' worker=0 slice=0 follow=''
# palmscale requires Python 3.11; the image's python3 may be older.
# shellcheck disable=SC2016 # expanded on the worker
install='python=$(ls /usr/bin/python3.1[1-9] 2>/dev/null | head -n 1); pins=$(cat constraints.txt pyproject.toml | cksum); [ "$(cat .venv/pins 2>/dev/null)" = "$pins" ] || { ${python:-python3} -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e ".[tpu,gcs]" && echo "$pins" >.venv/pins; }'

fail() {
  echo "tpu_pod.sh: error: $*" >&2
  exit 2
}

say() {
  echo "tpu_pod.sh: $*" >&2
}

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
}

# Runs gcloud, or with --dry-run prints the command line.
cloud() {
  if [[ -n $dry_run ]]; then
    printf '%q ' gcloud "$@" && echo
  else
    gcloud "$@"
  fi
}

where=()
nodes=()

read_options() {
  while (($# > 0)); do
    case $1 in
      --name=*) name=${1#*=} ;;
      --zone=*) zone=${1#*=} ;;
      --project=*) project=${1#*=} ;;
      --type=*) type=${1#*=} ;;
      --topology=*) topology=${1#*=} ;;
      --runtime=*) runtime=${1#*=} ;;
      --slices=*) slices=${1#*=} ;;
      --network=*) network=${1#*=} ;;
      --subnetwork=*) subnetwork=${1#*=} ;;
      --install=*) install=${1#*=} ;;
      --poll=*) poll=${1#*=} ;;
      --worker=*) worker=${1#*=} ;;
      --slice=*) slice=${1#*=} ;;
      --spot) spot=yes ;;
      --follow) follow=yes ;;
      --dry-run) dry_run=yes ;;
      --*) fail "unknown option $1; see tpu_pod.sh --help" ;;
      *) break ;;
    esac
    shift
  done
  command=("$@")
  [[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || fail "--name='$name' is not a name of a TPU; expected lowercase letters, digits and hyphens, for example --name=palm"
  [[ -n $zone ]] || fail "--zone is missing; add it, for example --zone=us-central2-b"
  [[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices=$slices is not a number of slices"
  [[ $poll =~ ^[0-9]+([.][0-9]+)?$ ]] || fail "--poll=$poll is not a number of seconds"
  where=("--zone=$zone")
  [[ -n $project ]] && where+=("--project=$project")
  nodes=("$name")
  ((slices == 1)) || mapfile -t nodes < <(seq -f "$name-%g" 0 $((slices - 1)))
}

# Runs a shell command on every worker of every slice; writes the output to <folder>/<node>/<worker>.log.
everywhere() {
  local folder=$1 text=$2 node status=0
  local running=()
  for node in "${nodes[@]}"; do
    mkdir -p "$folder/$node"
    cloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command="$text" \
      --output-directory="$folder/$node" >"$folder/$node/gcloud" 2>&1 &
    running+=($!)
  done
  for node in "${running[@]}"; do
    wait "$node" || status=1
  done
  [[ -z $dry_run ]] || cat "$folder"/*/gcloud
  return $status
}

# Prints the state of the request; 'gone' if there is none. 'unknown' if gcloud cannot tell, for lack
# of a network or a login; then nothing may be created or deleted.
state() {
  local said errors
  if [[ -n $dry_run ]]; then
    cloud compute tpus queued-resources describe "$name" "${where[@]}" '--format=value(state.state)' >&2
    cloud compute tpus tpu-vm describe "${nodes[0]}" "${where[@]}" '--format=value(state)' >&2
    echo ACTIVE
    return
  fi
  errors=$(mktemp)
  if said=$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" '--format=value(state.state)' 2>"$errors"); then
    [[ $said == ACTIVE ]] && said=$(nodes_state)
    echo "${said:-unknown}"
  elif grep -qi 'not.found' "$errors"; then
    echo gone
  else
    say "gcloud cannot tell the state of $name: $(tail -n 1 "$errors")"
    echo unknown
  fi
  rm -f "$errors"
}

# A spot TPU node may be preempted while the request stays active.
nodes_state() {
  local node said
  for node in "${nodes[@]}"; do
    said=$(gcloud compute tpus tpu-vm describe "$node" "${where[@]}" '--format=value(state)' 2>/dev/null)
    [[ $said == PREEMPTED || $said == TERMINATED ]] && echo PREEMPTED && return
  done
  echo ACTIVE
}

up() {
  [[ -n $type ]] || fail "--type is missing; add it, for example --type=v4-128"
  local options=("--runtime-version=$runtime")
  if [[ -n $topology ]]; then
    options+=("--type=$type" "--topology=$topology")
  else
    options+=("--accelerator-type=$type")
  fi
  if ((slices == 1)); then
    options+=("--node-id=$name")
  else
    options+=("--node-count=$slices" "--node-prefix=$name")
  fi
  [[ -n $spot ]] && options+=(--spot)
  [[ -n $network ]] && options+=("--network=$network")
  [[ -n $subnetwork ]] && options+=("--subnetwork=$subnetwork")
  local now before='' made=''
  [[ -n $dry_run ]] && state >/dev/null && cloud compute tpus queued-resources create "$name" "${where[@]}" "${options[@]}" && return
  while now=$(state) && [[ $now != ACTIVE ]]; do
    [[ $now == "$before" ]] || say "$name is $now"
    before=$now
    if [[ $now == FAILED || $now == SUSPENDED || $now == PREEMPTED ]]; then
      # An earlier request is deleted; if this request fails, give up.
      if [[ -n $made ]]; then
        say "error: the request for $name is $now; gcloud compute tpus queued-resources describe $name ${where[*]} tells why"
        exit 1
      fi
      down || sleep "$poll"
    elif [[ $now == gone && -z $made ]]; then
      cloud compute tpus queued-resources create "$name" "${where[@]}" "${options[@]}" || exit 1
      made=yes
    else
      sleep "$poll"
    fi
  done
  say "$name is active: ${#nodes[@]} slice(s) of ${type}"
}

down() {
  cloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

# Copies the code to every worker and installs its dependencies.
copy() {
  local bundle node folder
  folder=$(mktemp -d)
  bundle=$folder/palmscale.tgz
  (cd "$root" && git ls-files -z -co --exclude-standard | tar --null -czf "$bundle" -T -) || exit 1
  for node in "${nodes[@]}"; do
    cloud compute tpus tpu-vm scp "$bundle" "$node:palmscale.tgz" "${where[@]}" --worker=all || exit 1
  done
  say "installing on every worker"
  if ! everywhere "$folder" "mkdir -p palmscale && rm -rf palmscale/palmscale palmscale/configs && tar -xzf palmscale.tgz -C palmscale && cd palmscale && { $install; }"; then
    say "error: the installation failed: $(tail -qn 1 "$folder"/*/*.log 2>/dev/null | tail -n 1)"
    exit 1
  fi
  rm -rf "$folder"
}

start() {
  local text folder
  folder=$(mktemp -d)
  text=$(printf '%q ' launch/worker.sh start -- palmscale "${command[@]}")
  # shellcheck disable=SC2016 # expanded on the worker
  if ! everywhere "$folder" 'cd palmscale && PATH="$PWD/.venv/bin:$PATH" '"$text"; then
    say "error: a worker could not start: $(tail -qn 1 "$folder"/*/*.log 2>/dev/null | grep -v -e '^started' -e '^already' | tail -n 1)"
    exit 1
  fi
  rm -rf "$folder"
}

# Prints a line per worker: node, worker, and the status from worker.sh.
look() {
  local folder node log
  folder=$(mktemp -d)
  everywhere "$folder" 'palmscale/launch/worker.sh status'
  for node in "${nodes[@]}"; do
    for log in "$folder/$node"/*.log; do
      [[ -f $log ]] && printf '%s\t%s\t%s\n' "$node" "$(basename "$log" .log)" "$(tail -n 1 "$log")"
    done
  done
  rm -rf "$folder"
}

status() {
  [[ -n $dry_run ]] && look && return
  { printf 'slice\tworker\tstate\tcode\tattempts\tpid\thost\tlast line\n' && look | sort -V; } | column -t -s $'\t'
}

logs() {
  ((slices == 1)) || name=$name-$slice
  local text='cat .palmscale/log'
  [[ -n $follow ]] && text='palmscale/launch/worker.sh logs'
  cloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$worker" "--command=$text"
}

stop() {
  local folder
  folder=$(mktemp -d)
  everywhere "$folder" 'palmscale/launch/worker.sh stop'
  [[ -n $dry_run ]] || tail -qn 1 "$folder"/*/*.log | sort | uniq -c
  rm -rf "$folder"
}

# Names the worker at fault: one with a user error, else one with a fault, else one ended by a
# signal, and last those that ended because of another one (75, and JAX's 134).
report() {
  awk -F '\t' '
    $4 > 0 {
      rank = $4 == 2 ? 1 : $4 == 1 ? 2 : $4 == 75 || $4 == 134 ? 4 : 3
      if (!best || rank < best) {
        best = rank
        line = "tpu_pod.sh: worker " $2 " of " $1 " (" $7 ") exited with code " $4 ": " $8
      }
    }
    END { print line }' >&2
}

run() {
  ((${#command[@]} > 0)) || fail "no command; add one, for example: train --gin_file=... --workdir=gs://..."
  local seen running workers now most
  while :; do
    [[ -z $dry_run && $(state) == ACTIVE ]] || up
    copy
    start
    most=0
    say "started; it continues without this terminal, and 'run' watches it again"
    [[ -n $dry_run ]] && look && return
    while now=$(state) && [[ $now == ACTIVE || $now == unknown ]]; do
      sleep "$poll"
      [[ $now == ACTIVE ]] || continue
      seen=$(look)
      workers=$(grep -c . <<<"$seen")
      running=$(cut -f 3 <<<"$seen" | grep -cv ended)
      if grep -q $'\tended\t2\t' <<<"$seen"; then
        report <<<"$seen"
        stop >/dev/null
        exit 2
      fi
      # A worker that does not respond may still be running.
      ((workers >= most)) && most=$workers
      ((running == 0 && workers > 0 && workers == most)) || continue
      if [[ $(cut -f 4 <<<"$seen" | sort -u) == 0 ]]; then
        say "done"
        exit 0
      fi
      report <<<"$seen"
      say "ended permanently; see 'tpu_pod.sh status' and 'tpu_pod.sh logs'"
      exit 1
    done
    say "$name is $now; it is created again, and the run resumes from its last checkpoint"
    [[ $now == gone ]] || down
  done
}

action=${1-}
(($# > 0)) && shift
case $action in
  up | run | status | logs | stop | down) read_options "$@" && "$action" ;;
  --help | -h) usage ;;
  '') usage && exit 2 ;;
  *) fail "unknown action $action; expected up, run, status, logs, stop or down" ;;
esac

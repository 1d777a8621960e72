#!/usr/bin/env bash
# Runs palmscale on one or several TPU slices, from a terminal that may be closed.
#
#   tpu_pod.sh up     [OPTIONS]            request the TPUs and wait until they are active
#   tpu_pod.sh run    [OPTIONS] COMMAND... copy the code, start COMMAND on every worker and watch it;
#                                          after a preemption start over, until it is done
#   tpu_pod.sh status [OPTIONS]            a table of the workers
#   tpu_pod.sh logs   [OPTIONS] [--worker=K] [--slice=S] [--follow]
#   tpu_pod.sh stop   [OPTIONS]            make the run save and exit
#   tpu_pod.sh down   [OPTIONS] [--force]  release the TPUs; --force: even while a job is running
#
#   tpu_pod.sh run --name=palm --zone=us-central2-b --type=v4-128 \
#       train --gin_file=configs/recipes/palm_8b_v4_64.gin --workdir=gs://my-bucket/palm
#
# OPTIONS, or the variables TPU_NAME, TPU_ZONE, TPU_PROJECT, TPU_TYPE, TPU_RUNTIME:
#   --name=NAME --zone=ZONE --project=PROJECT   (default: gcloud's own project)
#   --type=TYPE         v4-128, v5e-256 or v4:4x4x8, as in 'palmscale plan --topology', or gcloud's
#                       own name; --type=v4 --topology=4x4x8 is possible too
#   --runtime=VERSION   software version of the TPU VMs (default: the one for the type)
#   --slices=N --spot --reserved
#   --network=NAME --subnetwork=NAME --internal-ips --service-account=EMAIL --labels=KEY=VALUE,...
#   --attempts=N        requests in all when there is no capacity (10); the pauses grow to 32 polls
#   --env=NAME,...      environment variables of this terminal that the job gets, for example
#                       WANDB_API_KEY; they travel in a file and appear on no command line
#   --include=FILE      ships an untracked file that looks like a secret; may be repeated
#   --install=COMMAND   runs on each worker in the code's folder before the start
#   --poll=SECONDS      time between two checks (30)
#   --dry-run           prints every command and runs nothing
# Exit codes: 0 done; 2 a user error, in this command or in the run; 1 a fault.
set -u

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
}

(($# > 0)) || { usage && exit 2; }
[[ $1 == --help || $1 == -h || ${2-} == --help ]] && usage && exit
if ! command -v python3 >/dev/null; then
  echo "tpu_pod.sh: error: python3 is not on PATH; install Python 3.9 or later" >&2
  exit 2
fi
exec python3 "$(dirname "$0")/tpu_pod" "$@"

"""The queued resource: the request for the TPUs, and the TPUs once it is granted."""

from __future__ import annotations

import re
import time

from tpu_pod.accelerators import TpuType
from tpu_pod.cloud import Cloud
from tpu_pod.errors import Fault, say
from tpu_pod.options import Options

ACTIVE, GONE, UNKNOWN = "ACTIVE", "gone", "unknown"
DELETING, PREEMPTED = "DELETING", "PREEMPTED"
ENDED = ("FAILED", "SUSPENDED", PREEMPTED)
_REASON = "--format=value(state.failedData.error.code,state.failedData.error.message)"
# google.rpc.Code: INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED.
_NOT_FOR_CAPACITY = ("3", "5", "7", "16")
_DELETIONS, _LOOKS_UNTIL_GONE = 3, 20


def state(cloud: Cloud, options: Options) -> str:
    """Returns the state of the request.

    `gone` if there is none. `unknown` if gcloud cannot tell, for lack of a network or a login; then
    nothing may be created or deleted. PREEMPTED if the request is active but a TPU was taken away.
    """
    answer = cloud.ask(
        "queued-resources", "describe", options.name, flags=["--format=value(state.state)"]
    )
    if cloud.dry_run:
        _node_was_taken(cloud, options)
        return ACTIVE
    if answer.code:
        if re.search("NOT_FOUND|was not found", answer.err):
            return GONE
        say(f"gcloud cannot tell the state of {options.name}: {answer.error}")
        return UNKNOWN
    now = answer.out.strip() or UNKNOWN
    return PREEMPTED if now == ACTIVE and _node_was_taken(cloud, options) else now


def _node_was_taken(cloud: Cloud, options: Options) -> bool:
    for node in options.nodes:
        answer = cloud.ask("tpu-vm", "describe", node, flags=["--format=value(state)"])
        if answer.out.strip() in (PREEMPTED, "TERMINATED"):
            return True
    return False


def up(cloud: Cloud, options: Options, kind: TpuType) -> None:
    """Requests the TPUs unless they exist, and waits until they are active.

    Without capacity, the request is made again after a pause, up to `options.attempts` times.

    Raises:
        Fault: the request was refused, was deleted by someone else, or failed too often.
    """
    if cloud.dry_run:
        state(cloud, options)
        _create(cloud, options, kind)
        return
    made, before = 0, ""
    while (now := state(cloud, options)) != ACTIVE:
        if now != before:
            say(f"{options.name} is {now}")
        before = now
        if now in ENDED:
            if made:
                _pause_or_give_up(cloud, options, now, made)
            release(cloud, options)
        if now == GONE and made:
            raise Fault(
                f"the request for {options.name} was deleted while it waited; run the same command"
                " to request the TPUs again"
            )
        if now == GONE or now in ENDED:
            _create(cloud, options, kind)
            made += 1
        else:
            time.sleep(options.poll)
    say(f"{options.name} is active: {options.slices} slice(s) of {kind.name}")


def release(cloud: Cloud, options: Options) -> None:
    """Deletes the request and its TPUs, and waits until they are gone.

    Raises:
        Fault: they cannot be deleted.
    """
    for _ in range(_DELETIONS):
        if delete(cloud, options) == 0:
            break
        time.sleep(options.poll)
    else:
        raise Fault(f"{options.name} cannot be deleted; see gcloud's message above")
    for _ in range(_LOOKS_UNTIL_GONE):
        if state(cloud, options) == GONE:
            return
        time.sleep(options.poll)
    raise Fault(f"{options.name} was deleted but is still listed; run the command later")


def delete(cloud: Cloud, options: Options) -> int:
    """Deletes the request and its TPUs; returns gcloud's exit code."""
    return cloud.show("queued-resources", "delete", options.name, flags=["--force", "--quiet"])


def _create(cloud: Cloud, options: Options, kind: TpuType) -> None:
    flags = [f"--runtime-version={kind.runtime}", *kind.flags]
    if options.slices == 1:
        flags.append(f"--node-id={options.name}")
    else:
        flags += [f"--node-count={options.slices}", f"--node-prefix={options.name}"]
    for switch in ("spot", "reserved", "internal_ips"):
        if getattr(options, switch):
            flags.append(f"--{switch.replace('_', '-')}")
    for field in ("network", "subnetwork", "service_account", "labels"):
        if value := getattr(options, field):
            flags.append(f"--{field.replace('_', '-')}={value}")
    if cloud.show("queued-resources", "create", options.name, flags=flags, track=kind.track):
        raise Fault(f"the request for {options.name} was refused; see gcloud's message above")


def _pause_or_give_up(cloud: Cloud, options: Options, now: str, made: int) -> None:
    answer = cloud.ask("queued-resources", "describe", options.name, flags=[_REASON])
    code, _, message = answer.out.strip().partition("\t")
    reason = f"{options.name} is {now}: {message or 'gcloud states no reason'}"
    if code in _NOT_FOR_CAPACITY:
        raise Fault(f"{reason}; correct the request")
    if made >= options.attempts:
        raise Fault(f"{reason}; gave up after {made} request(s), --attempts={options.attempts}")
    seconds = options.pause(made - 1)
    say(f"{reason}; request {made + 1} of {options.attempts} follows in {seconds:g} s")
    time.sleep(seconds)

"""The command line."""

from __future__ import annotations

import dataclasses
import os
import re

from tpu_pod.errors import Mistake

ACTIONS = ("up", "run", "status", "logs", "stop", "down")
_FROM_ENVIRONMENT = ("name", "zone", "project", "type", "runtime")
_SWITCHES = ("spot", "reserved", "internal_ips", "follow", "force")
_HIGHEST_POLLS = 32


@dataclasses.dataclass
class Options:
    """The options of every action; launch/tpu_pod.sh describes them.

    Attributes:
        command: the arguments of palmscale.
    """

    name: str = ""
    zone: str = ""
    project: str = ""
    type: str = ""
    topology: str = ""
    runtime: str = ""
    slices: int = 1
    network: str = ""
    subnetwork: str = ""
    service_account: str = ""
    labels: str = ""
    install: str = "launch/tpu_pod/install.sh"
    poll: float = 30
    attempts: int = 10
    worker: int = 0
    slice: int = 0
    env: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    spot: bool = False
    reserved: bool = False
    internal_ips: bool = False
    follow: bool = False
    force: bool = False
    dry_run: bool = False
    command: tuple[str, ...] = ()

    @property
    def nodes(self) -> list[str]:
        """The name of each slice's TPU."""
        if self.slices == 1:
            return [self.name]
        return [f"{self.name}-{index}" for index in range(self.slices)]

    def pause(self, failures: int) -> float:
        """Returns the seconds to wait after so many requests failed: longer each time."""
        return self.poll * min(2**failures, _HIGHEST_POLLS)


def parse(arguments: list[str]) -> tuple[str, Options]:
    """Returns the action and its options.

    The words after the options are the command for the workers, except for `--dry-run`, which
    counts wherever it stands: a trial must not start anything because of a word's place.

    Raises:
        Mistake: an option or a value is invalid.
    """
    words = [word for word in arguments if word != "--dry-run"]
    options = Options(dry_run=len(words) < len(arguments))
    for field in _FROM_ENVIRONMENT:
        setattr(options, field, os.environ.get(f"TPU_{field.upper()}", ""))
    action = words.pop(0) if words else ""
    if action not in ACTIONS:
        raise Mistake(f"unknown action {action}; expected {', '.join(ACTIONS[:-1])} or down")
    while words and words[0].startswith("--"):
        _set(options, words.pop(0))
    options.command = tuple(words)
    _check(action, options)
    return action, options


def _set(options: Options, word: str) -> None:
    key, equals, value = word[2:].partition("=")
    field = key.replace("-", "_")
    if not equals and field in _SWITCHES:
        setattr(options, field, True)
    elif equals and field in ("env", "include"):
        more = value.split(",") if field == "env" else [value]
        setattr(options, field, (*getattr(options, field), *more))
    elif equals and field in ("slices", "attempts", "worker", "slice"):
        least = 1 if field in ("slices", "attempts") else 0
        if not re.fullmatch(r"[0-9]{1,6}", value) or int(value) < least:
            raise Mistake(f"{word} is not a whole number of at least {least}")
        setattr(options, field, int(value))
    elif equals and field == "poll":
        if not re.fullmatch(r"[0-9]+([.][0-9]+)?", value):
            raise Mistake(f"{word} is not a number of seconds")
        options.poll = float(value)
    elif equals and field not in (*_SWITCHES, "dry_run", "command") and hasattr(options, field):
        setattr(options, field, value)
    else:
        raise Mistake(f"unknown option {word}; see tpu_pod.sh --help")


def _check(action: str, options: Options) -> None:
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", options.name):
        raise Mistake(
            f"--name='{options.name}' is not a name of a TPU; expected lowercase letters, digits"
            " and hyphens, for example --name=palm"
        )
    if not options.zone:
        raise Mistake("--zone is missing; add it, for example --zone=us-central2-b")
    if options.slice >= options.slices:
        raise Mistake(
            f"--slice={options.slice} does not exist; --slices={options.slices} are numbered from 0"
        )
    if options.spot and options.reserved:
        raise Mistake("--spot and --reserved exclude each other; remove one of them")
    for name in options.env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise Mistake(
                f"--env={name.partition('=')[0]} expects names only, whose values are taken from"
                " this terminal, for example --env=WANDB_API_KEY"
            )
        if name not in os.environ:
            raise Mistake(f"--env={name} is not set in this terminal; export it, or remove --env")
    if action == "run" and not options.command:
        raise Mistake("no command; add one, for example: train --gin_file=... --workdir=gs://...")
    if action != "run" and options.command:
        raise Mistake(f"{action} takes no command, but got: {' '.join(options.command)}")

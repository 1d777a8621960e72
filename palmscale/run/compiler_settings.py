"""The settings of XLA and JAX that change a program."""

import re
import shlex
from collections.abc import Mapping

import jax

_A_DAY_SECONDS = 86400
# By default XLA lets each simulated device start independent collectives in an order of its own.
# They share one thread pool: all of its threads may wait, each for devices that have begun with
# another collective. After 40 seconds XLA would abort the process; the watchdog, whose deadline the
# user sets, ends it with the reason.
_FOR_SIMULATED_DEVICES = {
    "--xla_cpu_enable_concurrency_optimized_scheduler": "false",
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds": str(_A_DAY_SECONDS),
    "--xla_cpu_collective_call_terminate_timeout_seconds": str(_A_DAY_SECONDS),
}

_COMPILER_VARIABLES = ("LIBTPU_INIT_ARGS", "TPU_LIBRARY_PATH")
# What each host may have to itself: caches, logs, addresses, checks of Python code.
_OWN_FLAGS = re.compile(r"--xla_(dump|hlo_profile|log)")
_OWN_SETTINGS = re.compile(
    r"cache|log|dump|traceback|timeout|address|visible_devices|platform|pprint|warn|explain|verbose"
    r"|leak|garbage|guard|preemption|recoverability|distributed_debug|proxy"
)


def compiler_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the settings that may change what XLA makes of a program, by name.

    They must be the same on all hosts: processes that compile one step in two ways train on, and
    their copies of the parameters drift apart. Every setting of JAX counts, except those that are
    known to change no program.

    Args:
        environ: of this process.
    """
    settings = {
        name: str(value)
        for name, value in jax.config.values.items()
        if not _OWN_SETTINGS.search(name)
    }
    flags = {
        f"XLA_FLAGS {name}": value
        for name, value in _flags(environ.get("XLA_FLAGS", "")).items()
        if not _OWN_FLAGS.match(name)
    }
    return settings | flags | {name: environ.get(name, "") for name in _COMPILER_VARIABLES}


def with_flags_for_simulated_devices(xla_flags: str) -> str:
    """Adds the flags by which the CPU's devices run their collectives in one order.

    XLA reads its flags once, when JAX starts. A flag that is given is left as it is; so is the name
    of a file of flags, to which none can be added.
    """
    if xla_flags and not xla_flags.startswith("-"):
        return xla_flags
    given = _flags(xla_flags)
    added = [f"{k}={v}" for k, v in _FOR_SIMULATED_DEVICES.items() if k not in given]
    return " ".join([*([xla_flags] if xla_flags else []), *added])


def _flags(text: str) -> dict[str, str]:
    """Returns XLA's flags by name; as XLA reads them, the last of two wins."""
    named = (word.partition("=") for word in shlex.split(text))
    return {name: value or "true" for name, _, value in named}

"""The settings of XLA and JAX that change a program."""

import re
import shlex
from collections.abc import Mapping

import jax

# By default XLA lets each simulated device start independent collectives in an order of its own.
# They share one thread pool: where all of its threads wait, each for devices that have begun with
# another collective, XLA aborts the process after 40 seconds.
_IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler"

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


def with_collectives_in_order(xla_flags: str) -> str:
    """Adds the flag by which the CPU's devices run their collectives in one order.

    XLA reads its flags once, when JAX starts. Where the flag is given, it is left as it is; so is
    the name of a file of flags, to which none can be added.
    """
    if _IN_ORDER in _flags(xla_flags) or (xla_flags and not xla_flags.startswith("-")):
        return xla_flags
    return f"{xla_flags} {_IN_ORDER}=false".lstrip()


def _flags(text: str) -> dict[str, str]:
    """Returns XLA's flags by name; as XLA reads them, the last of two wins."""
    named = (word.partition("=") for word in shlex.split(text))
    return {name: value or "true" for name, _, value in named}

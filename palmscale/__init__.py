"""palmscale: PaLM at any scale, one laptop to thousands of chips."""

import importlib
import types
from typing import Any

__version__ = "0.1.0"
# Where each function lies. Loaded when it is first used, so that `palmscale --help` does not wait
# for JAX, and a process that reads no gin file loads no gin.
_FUNCTIONS = {
    "load_run": "palmscale.cli.config.load_run",
    "place_from": "palmscale.run.place",
    "evaluate": "palmscale.run.evaluate",
    "load": "palmscale.run.load",
    "generate": "palmscale.run.generate",
    "history": "palmscale.run.history",
    "merge": "palmscale.run.merge",
    "export": "palmscale.run.export",
    "import_weights": "palmscale.run.import_weights",
    "TextRequest": "palmscale.infer.continuation",
}
# Packages that can be called: `palmscale.train(run, workdir)`; `palmscale.train.step` is a module.
_VERBS = {"train": "palmscale.run.train", "plan": "palmscale.plan.run_plan"}


def __dir__() -> list[str]:
    return sorted({*globals(), *_FUNCTIONS, *_VERBS, *_classes()})


def _classes() -> dict[str, str]:
    """The classes that a run is made of: `palmscale.PaLM`, as gin files and checkpoints name it."""
    return importlib.import_module("palmscale.run.stable_names").MODULES


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return importlib.import_module(f"palmscale.{name}")
    if module := _FUNCTIONS.get(name) or _classes().get(name):
        return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'palmscale' has no attribute {name!r}")


class CallablePackage(types.ModuleType):
    """A package that is called like the function of the same name in `palmscale`."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Calls the function; see its own docstring, which `help(palmscale.train.verb)` shows."""
        return self.verb(*args, **keywords)

    @property
    def verb(self) -> Any:
        """The function itself."""
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_VERBS[name]), name)

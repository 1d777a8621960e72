"""Plans of runs on absent devices. Called, `palmscale.plan(run, topology=...)` plans a run."""

import sys

from palmscale import CallablePackage

sys.modules[__name__].__class__ = CallablePackage

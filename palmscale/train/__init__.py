"""The train step and the trainer. Called, `palmscale.train(run, workdir)` trains a run."""

import sys

from palmscale import CallablePackage

sys.modules[__name__].__class__ = CallablePackage

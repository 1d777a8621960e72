"""What a run is: frozen values, and nothing started yet."""

import dataclasses

from flax import linen as nn

from palmscale.checkpoint.saving import Saving
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.cluster.join import Deadlines
from palmscale.data.dataset import Data
from palmscale.errors import UserError
from palmscale.model import interface
from palmscale.model.lora import Lora
from palmscale.observe.reporting import Reporting
from palmscale.optim.interface import AnyOptimizer, checked_optimizer
from palmscale.partition.layout import Layout
from palmscale.train.evaluate import DescribedEvaluation
from palmscale.train.training import Training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run.

    Attributes:
        model: a Linen module with `hidden` and `unembed`; see palmscale.model.interface.
        optimizer: a transformation of optax, an object with `build`, or a function that returns
            one of them; see palmscale.optim.interface.
        data: the rows to train on.
        training: steps, batches and loss.
        layout: devices and where arrays lie on them.
        saving: when to save, and what to keep.
        reporting: metric writers and samples.
        deadlines: of the hosts for one another.
        warm_start: parameters of another run to begin with; None: the seed's. Once the run has a
            checkpoint of its own, it has no effect.
        trainable: patterns of the paths of the parameters that train, such as `layers/*`, in which
            each `*` matches any text; (): all. Or `Lora(...)`: adapters train in place of the
            parameters of the warm start, and a checkpoint holds the adapters alone.
        evaluations: at periods, besides the held-out loss, such as `LmEval`; they may change when
            the run resumes.
        allow_changes: entries of the identity (`model.remat`, or `optimizer`) in which this run
            may differ from the checkpoint that it resumes.

    Raises:
        UserError: the model cannot be trained, the optimizer is none, or adapters have no base.
    """

    model: nn.Module
    optimizer: AnyOptimizer
    data: Data
    training: Training
    layout: Layout = Layout()
    saving: Saving = Saving()
    reporting: Reporting = Reporting()
    deadlines: Deadlines = Deadlines()
    warm_start: WarmStart | None = None
    trainable: tuple[str, ...] | Lora = ()
    evaluations: tuple[DescribedEvaluation, ...] = ()
    allow_changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        interface.check_trainable(self.model)
        object.__setattr__(self, "optimizer", checked_optimizer(self.optimizer))
        if isinstance(self.trainable, Lora):
            self._check_base()

    def _check_base(self) -> None:
        warm = self.warm_start
        if warm is None:
            raise UserError(
                "Run.trainable is Lora: adapters of the parameters of another run, and"
                " Run.warm_start=None names none; set WarmStart.workdir."
            )
        if warm.rename or warm.fresh or warm.unused:
            raise UserError(
                "Run.trainable is Lora: adapters of a whole run as it is stored; leave out"
                " WarmStart.rename, fresh and unused, or train a run with them first."
            )

"""What one training run does with its batches: a frozen description."""

import dataclasses

from palmscale.data.stream import BatchSchedule
from palmscale.errors import UserError
from palmscale.seeds import check_seed
from palmscale.train.spike import SpikePolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How long to train, on what batches, with what loss.

    Attributes:
        steps: in all, those before a restart included.
        batch_schedule: sequences a step.
        z_loss: coefficient of log(Z)^2.
        seed: of the parameters and of dropout.
        loss_chunk_length: positions whose logits exist at a time.
        gradient_accumulation_steps: parts of a batch whose gradients are computed one after
            another and summed.
        eval_every_steps: evaluate at every multiple of it, and at the end; None: at the end only.
        eval_sequences: held-out rows that an evaluation reads; None: all; 0: no evaluation.
        check_every_steps: check at every multiple of it that the copies of an array on several
            devices are equal; None: never.
        rates_every_steps: steps that tokens a second and MFU are averaged over.
        spikes: what to do about a loss that spikes.
        skip_rows: ranges of row numbers to leave out from the start, in order; a rewind adds its
            own.
    """

    steps: int
    batch_schedule: BatchSchedule
    z_loss: float
    seed: int
    loss_chunk_length: int = 512
    gradient_accumulation_steps: int = 1
    eval_every_steps: int | None = None
    eval_sequences: int | None = None
    check_every_steps: int | None = None
    rates_every_steps: int = 10
    spikes: SpikePolicy = SpikePolicy()
    skip_rows: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for field in (
            "steps",
            "loss_chunk_length",
            "gradient_accumulation_steps",
            "rates_every_steps",
        ):
            if getattr(self, field) < 1:
                raise UserError(f"Training.{field}={getattr(self, field)} must be at least 1.")
        for field in ("eval_every_steps", "check_every_steps"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"Training.{field}={value} must be at least 1, or None for never.")
        check_seed("Training.seed", self.seed)
        if self.eval_sequences is not None and self.eval_sequences < 0:
            raise UserError(
                f"Training.eval_sequences={self.eval_sequences} must be at least 0, or None for"
                " all held-out rows."
            )
        edges = [edge for span in self.skip_rows for edge in span]
        if any(a >= b for a, b in zip(edges, edges[1:])) or any(edge < 0 for edge in edges):
            raise UserError(
                f"Training.skip_rows={self.skip_rows} must be ranges (first, end) of row numbers,"
                " in order and apart, for example ((4800, 9600),)."
            )

    def check_batches(self, data_parallel: int) -> None:
        """Checks that every batch divides over that many groups of devices.

        Raises:
            UserError: one does not.
        """
        for _, sequences in self.batch_schedule.stages:
            self.check_divides(sequences, data_parallel)

    def check_divides(self, sequences: int, data_parallel: int) -> None:
        """Checks that one batch divides over that many groups of devices.

        Raises:
            UserError: it does not.
        """
        parts = data_parallel * self.gradient_accumulation_steps
        if sequences % parts:
            raise UserError(
                f"a batch of {sequences} sequences (BatchSchedule.stages) does not divide over"
                f" {data_parallel} data-parallel devices x"
                f" Training.gradient_accumulation_steps={self.gradient_accumulation_steps};"
                f" use a multiple of {parts}."
            )

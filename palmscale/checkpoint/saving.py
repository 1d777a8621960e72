"""When a run saves, which checkpoints it keeps, and how it handles failed saves."""

import dataclasses

from palmscale.checkpoint.policy import KeepPolicy, Retries
from palmscale.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saving:
    """When to save and which checkpoints to keep. The last step is always saved.

    Attributes:
        every_steps: save at every multiple of this step number; None: only at the end.
        every_seconds: also save if the last save is this old; None: never.
        keep: which checkpoints to keep.
        retries: how to handle failed saves.
    """

    every_steps: int | None = None
    every_seconds: float | None = None
    keep: KeepPolicy = KeepPolicy()
    retries: Retries = Retries()

    def __post_init__(self) -> None:
        for field in ("every_steps", "every_seconds"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"Saving.{field}={value} must be at least 1, or None for never.")

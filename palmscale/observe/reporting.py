"""What a run reports while it trains: throughput, and the writers of its metrics."""

import dataclasses
import shlex
from collections.abc import Mapping

from palmscale.errors import UserError
from palmscale.observe import writers
from palmscale.observe.throughput import Throughput, peak_flops_per_device
from palmscale.observe.uploaded_lines import json_lines
from palmscale.storage.place import Place

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reporting:
    """What a run reports in addition to its progress line and metrics.jsonl.

    Attributes:
        tensorboard: also write TensorBoard event files (extra `tensorboard`).
        wandb_project: also log to this Weights & Biases project (extra `wandb`).
        wandb_mode: `online`, or `offline` to sync later.
        peak_flops_per_device: peak FLOP/s for MFU; None: the vendor's figure, for known devices.
        sample_prompt: prompt that the trained model continues at the end; None: no sample.
        sample_tokens: length of the sample in tokens, at least 1.

    Raises:
        UserError: the sample has no token.
    """

    tensorboard: bool = False
    wandb_project: str | None = None
    wandb_mode: str = "online"
    peak_flops_per_device: float | None = None
    sample_prompt: str | None = None
    sample_tokens: int = 200

    def __post_init__(self) -> None:
        if self.sample_tokens < 1:
            raise UserError(
                f"Reporting.sample_tokens={self.sample_tokens} must be at least 1; for no sample,"
                " leave Reporting.sample_prompt=None."
            )


def throughput(
    reporting: Reporting, *, flops_per_token: float, device_kind: str, devices: int
) -> Throughput:
    """Returns the counter of tokens per second and, if the devices' peak is known, of MFU."""
    peak = reporting.peak_flops_per_device or peak_flops_per_device(device_kind)
    return Throughput(
        flops_per_token=flops_per_token, peak_flops=None if peak is None else peak * devices
    )


def metric_writers(reporting: Reporting, workdir: Place) -> writers.Writers:
    """Returns metrics.jsonl and the requested metric writers, which write to `workdir`."""
    return writers.Writers([json_lines(workdir / METRICS), *requested_writers(reporting, workdir)])


def requested_writers(reporting: Reporting, workdir: Place) -> list[writers.MetricWriter]:
    """Returns the requested metric writers, without metrics.jsonl.

    Raises:
        UserError: a package is not installed.
    """
    chosen: list[writers.MetricWriter] = []
    if reporting.tensorboard:
        chosen.append(writers.TensorBoard(workdir / TENSORBOARD))
    if reporting.wandb_project is not None:
        chosen.append(
            writers.WeightsAndBiases(
                workdir,
                project=reporting.wandb_project,
                name=workdir.name,
                mode=reporting.wandb_mode,
            )
        )
    return chosen


def where_metrics_lie(reporting: Reporting, workdir: Place) -> str:
    """Returns where a run writes its metrics, with the commands that show or upload them."""
    places = [f"Metrics: {workdir / METRICS}"]
    if reporting.tensorboard:
        places.append(
            f"TensorBoard: tensorboard --logdir={shlex.quote(str(workdir / TENSORBOARD))}"
        )
    if reporting.wandb_project is not None:
        shown = f"Weights & Biases: project {reporting.wandb_project}"
        if reporting.wandb_mode == "offline":
            # One for each start of the run, all with one id, which the command joins.
            shown += f", offline; wandb sync {shlex.quote(str(workdir / 'wandb'))}/offline-run-*"
        places.append(shown)
    return "\n".join(places)


def current_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns stored metrics by today's names; 0.1.0 wrote `held_out_loss` for `eval_loss`."""
    old = "held_out_"
    return {
        f"eval_{name.removeprefix(old)}" if name.startswith(old) else name: value
        for name, value in metrics.items()
    }

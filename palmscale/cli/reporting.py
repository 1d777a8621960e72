"""What a run tells of itself while it trains: its rates, and the writers of its metrics."""

import jax
from flax import linen as nn

from palmscale.cli.run import Run
from palmscale.cli.wiring import Setting
from palmscale.observe import writers
from palmscale.observe.throughput import Throughput, peak_flops_per_device
from palmscale.observe.uploaded_lines import json_lines
from palmscale.storage.place import Place

METRICS_FILE = "metrics.jsonl"


def throughput(here: Setting) -> Throughput:
    """Counts tokens, and MFU by the paper's formula: 6 FLOPs a parameter, and attention's."""
    model: nn.Module = here.run.model
    attention = getattr(model, "attention_flops_per_token", lambda sequence_length: 0)
    flops = 6 * here.num_params + attention(here.run.data.sequence_length)
    peak = here.run.reporting.peak_flops_per_device
    if peak is None:
        peak = peak_flops_per_device(jax.devices()[0].device_kind)
    return Throughput(
        flops_per_token=flops, peak_flops=None if peak is None else peak * here.mesh.size
    )


def metric_writers(run: Run, workdir: Place, *, leads: bool) -> writers.Writers:
    """Returns the writers that a run asks for; none on a process that does not lead."""
    if not leads:
        return writers.Writers([])
    chosen: list[writers.MetricWriter] = [json_lines(workdir / METRICS_FILE)]
    if run.reporting.tensorboard:
        chosen.append(writers.TensorBoard(workdir / "tensorboard"))
    if run.reporting.wandb_project is not None:
        chosen.append(
            writers.WeightsAndBiases(
                workdir,
                project=run.reporting.wandb_project,
                name=workdir.name,
                mode=run.reporting.wandb_mode,
            )
        )
    return writers.Writers(chosen)

"""A `Run` of a small PaLM, built field by field, without gin."""

import dataclasses

from palmscale import PaLM
from palmscale.checkpoint.policy import KeepPolicy
from palmscale.checkpoint.saving import Saving
from palmscale.data.dataset import Data
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.text_files import StandardLibrary, TextFiles
from palmscale.data.stream import BatchSchedule
from palmscale.optim.build import Adafactor, AdamW
from palmscale.optim.schedules import InverseSqrt, WarmupCosine
from palmscale.partition.layout import Layout
from palmscale.partition.mesh import MeshSpec
from palmscale.run.run import Run
from palmscale.train.training import Training

MODEL = PaLM(dim=32, num_tokens=259, padded_tokens=272, depth=2, heads=4, dim_head=8)
ADAFACTOR = Adafactor(
    learning_rate=InverseSqrt(peak=1e-2, hold_steps=10_000),
    beta1=0.9,
    beta2_exponent=0.8,
    weight_decay_lr_exponent=2.0,
    clip_global_norm=1.0,
)
ADAMW = AdamW(
    learning_rate=WarmupCosine(peak=1e-3, warmup_steps=5, total_steps=50),
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    clip_global_norm=None,
)
DATA = Data(corpus=Corpus(source=StandardLibrary()), sequence_length=32, seed=0)
TRAINING = Training(
    steps=4,
    batch_schedule=BatchSchedule(((0, 8),)),
    z_loss=1e-4,
    seed=0,
    loss_chunk_length=32,
    eval_every_steps=2,
)
RUN = Run(
    model=MODEL,
    optimizer=ADAFACTOR,
    data=DATA,
    training=TRAINING,
    layout=Layout(mesh=MeshSpec(data=1, model=1)),
    saving=Saving(every_steps=2, keep=KeepPolicy(latest=9)),
)


def on_text(folder, **fields):
    """RUN on a few KB of text that it writes to a folder, with caches beside it."""
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"def {name}(x):\n    return x + {name!r}\n" * 40)
    data = dataclasses.replace(
        DATA,
        corpus=Corpus(source=TextFiles(files=f"{folder}/*.txt"), held_out_fraction=0.3),
        cache_directory=str(folder / "caches"),
    )
    return dataclasses.replace(RUN, data=data, **fields)

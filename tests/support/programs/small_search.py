"""The 8B model on 64 TPU v4: as a search knows it, its own layout, and a run of it."""

from palmscale.data.dataset import Data
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.text_files import StandardLibrary
from palmscale.data.stream import BatchSchedule
from palmscale.model.palm import PaLM
from palmscale.optim.build import AdamW
from palmscale.optim.schedules import Constant
from palmscale.partition.layout import Layout
from palmscale.partition.mesh import MeshSpec
from palmscale.plan.hardware.chips import CHIPS, GIB
from palmscale.plan.search.choices import Choice, Shape
from palmscale.run.run import Run
from palmscale.train.training import Training

SHAPE = Shape(
    width=4096,
    heads=16,
    head_size=256,
    mlp=16384,
    layers=32,
    vocabulary=256_000,
    sequences=512,
    length=2048,
    slices=1,
    devices=64,
    chip=CHIPS["v4"],
    offered_bytes=int(30.75 * GIB),
    ways=lambda replicas, data, model: (50e9, 200e9, 100e9),
)
BASE = Choice(data=16, model=4, gradient_accumulation_steps=1, loss_chunk_length=512, remat="full")
RUN = Run(
    model=PaLM(num_tokens=256_000, dim=4096, depth=32, heads=16, dim_head=256, remat="full"),
    optimizer=AdamW(
        learning_rate=Constant(value=1e-3),
        beta1=0.9,
        beta2=0.99,
        eps=1e-8,
        weight_decay=0.0,
        clip_global_norm=None,
    ),  # fmt: skip
    data=Data(corpus=Corpus(source=StandardLibrary()), sequence_length=2048, seed=0),
    training=Training(
        steps=1000,
        batch_schedule=BatchSchedule(((0, 512),)),
        z_loss=0.0,
        seed=0,
        loss_chunk_length=512,
    ),
    layout=Layout(mesh=MeshSpec(data=16, model=4)),
)

"""The 8B model on 64 TPU v4, as a search knows it, and the run's own way to lie there."""

from palmscale.plan.chips import CHIPS, GIB
from palmscale.plan.choices import Choice, Shape

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
BASE = Choice(data=16, model=4, microbatches=1, loss_chunk_length=512, remat="full")

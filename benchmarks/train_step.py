"""Times palmscale's train step beside the original PaLM-flax's, on the same shapes in one run.

    python benchmarks/train_step.py --palm_flax=PATH_TO_PALM_FLAX

See README.md beside this file for what is measured.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from palmscale import PaLM
from palmscale.data.stream import Batch
from palmscale.optim.build import AdamW
from palmscale.optim.schedules import Constant
from palmscale.partition.mesh import MeshSpec, layout, make_mesh
from palmscale.partition.rules import layout_rules
from palmscale.train.state import init_state, plan_state
from palmscale.train.step import make_train_step

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "support" / "programs"))
import original_palm_flax  # noqa: E402
import page  # noqa: E402

LEARNING_RATE, BETA1, BETA2, EPS, WEIGHT_DECAY = 1e-3, 0.9, 0.99, 1e-8, 0.01
RATIOS = {"palmscale float32": 1.0, "palmscale bfloat16": 1.3}  # what each is to reach


@dataclasses.dataclass
class Contestant:
    """A train step with its state, and the seconds and CPU-seconds of each round."""

    name: str
    advance: Callable[[], float]
    compile_seconds: float = 0.0
    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)

    def warm_up(self) -> None:
        """Compiles, and takes one more step so that nothing is done for the first time later."""
        start = time.perf_counter()
        self.losses.append(self.advance())
        self.compile_seconds = time.perf_counter() - start
        self.losses.append(self.advance())

    def step(self) -> None:
        """Takes and times one step."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.losses.append(self.advance())
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def original(shape: dict, source: pathlib.Path, tokens_BL: np.ndarray) -> Contestant:
    """Returns PaLM-flax with the usual loss around it; it comes with no train step of its own."""
    model = original_palm_flax.load(source).PaLM(**shape)
    optimizer = optax.adamw(LEARNING_RATE, b1=BETA1, b2=BETA2, eps=EPS, weight_decay=WEIGHT_DECAY)

    def init():
        params = model.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
        return params, optimizer.init(params)

    def loss(params, tokens_BL):
        input_BL = jnp.pad(tokens_BL[:, :-1], ((0, 0), (1, 0)))
        logits_BLV = model.apply(params, input_BL)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BLV, tokens_BL).mean()

    def train_step(state, tokens_BL):
        params, optimizer_state = state
        value, grads = jax.value_and_grad(loss)(params, tokens_BL)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), value

    step = jax.jit(train_step, donate_argnums=0)
    state = jax.jit(init)()

    def advance() -> float:
        nonlocal state
        state, value = step(state, tokens_BL)
        jax.block_until_ready(state)
        return float(value)

    return Contestant("PaLM-flax float32", advance)


def ours(shape: dict, args: argparse.Namespace, dtype: str, tokens_BL: np.ndarray) -> Contestant:
    """Returns palmscale's own model, state and step, on a mesh of one device."""
    model = PaLM(**shape, dtype=dtype, remat=args.remat, query_chunk=args.query_chunk)
    mesh, rules = make_mesh(MeshSpec(), jax.devices()[:1]), layout_rules("2d")
    optimizer = AdamW(
        learning_rate=Constant(value=LEARNING_RATE),
        beta1=BETA1,
        beta2=BETA2,
        eps=EPS,
        weight_decay=WEIGHT_DECAY,
        clip_global_norm=None,
    )
    with layout(mesh, rules):
        plan = plan_state(model=model, optimizer=optimizer, mesh=mesh, rules=rules)
        state = init_state(plan, model, seed=0)
        step = jax.jit(
            make_train_step(
                model=model,
                plan=plan,
                bos_id=0,
                seed=0,
                z_loss=0.0,
                loss_chunk_length=args.loss_chunk_length,
            ),
            donate_argnums=0,
        )

    def advance() -> float:
        nonlocal state
        with layout(mesh, rules):
            state, metrics = step(state, Batch(tokens_BL))
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return Contestant(f"palmscale {dtype}", advance)


def report(contestants: list[Contestant], tokens: int) -> None:
    """Prints a line for each contestant, then our ratios to the first."""
    base = contestants[0]
    print(f"{'':20} {'ms/step':>8} {'best':>8} {'tokens/s':>9} {'CPU-s/step':>10}  compile  loss")
    for c in contestants:
        wall = statistics.median(c.wall)
        print(
            f"{c.name:20} {1e3 * wall:8.0f} {1e3 * min(c.wall):8.0f} {tokens / wall:9.0f} "
            f"{statistics.median(c.cpu):10.2f} {c.compile_seconds:6.1f} s  "
            f"{c.losses[0]:.2f} -> {c.losses[-1]:.2f}"
        )
    for c in contestants[1:]:
        wall = [b / a for a, b in zip(c.wall, base.wall, strict=True)]
        cpu = [b / a for a, b in zip(c.cpu, base.cpu, strict=True)]
        print(
            f"{c.name} is {statistics.median(wall):.2f} times as fast as {base.name} "
            f"[{min(wall):.2f}, {max(wall):.2f}], by CPU time {statistics.median(cpu):.2f} "
            f"(target {RATIOS[c.name]})"
        )


def parse_arguments() -> argparse.Namespace:
    """Returns the options; the defaults are the shapes that the README's figures are of."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--palm_flax",
        type=pathlib.Path,
        required=True,
        help="palm_flax.py, or a checkout of https://github.com/conceptofmind/PaLM-flax",
    )
    sizes = dict(
        num_tokens=20000, dim=512, depth=4, heads=8, dim_head=64, sequence_length=512, batch=4
    )
    knobs = dict(rounds=9, query_chunk=128, loss_chunk_length=128)
    for name, default in {**sizes, **knobs}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    page.add_write(parser)
    parser.add_argument("--remat", default="full", help="PaLM.remat of ours, default full")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    shape = {n: getattr(args, n) for n in ("num_tokens", "dim", "depth", "heads", "dim_head")}
    token_shape = (args.batch, args.sequence_length)
    tokens_BL = np.random.default_rng(0).integers(1, args.num_tokens, token_shape, np.int32)
    try:
        contestants = [
            original(shape, args.palm_flax, tokens_BL),
            ours(shape, args, "float32", tokens_BL),
            ours(shape, args, "bfloat16", tokens_BL),
        ]
    except (ValueError, ModuleNotFoundError) as error:
        sys.exit(f"train_step.py: {error}")
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {vars(args)}")
    for contestant in contestants:
        contestant.warm_up()
    for turn in range(args.rounds):
        for i in range(len(contestants)):  # whoever comes first changes from round to round
            contestants[(turn + i) % len(contestants)].step()
    report(contestants, tokens_BL.size)
    if args.write:
        steps = [
            {"name": c.name, "seconds": c.wall, "cpu_seconds": c.cpu, "losses": c.losses}
            for c in contestants
        ]
        page.store("train_step", {"steps": steps})


if __name__ == "__main__":
    main()

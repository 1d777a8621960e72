"""Training runs whose speed somebody published, each with all that predicting it takes.

MaxText's rows are as its repository had them on the day when it published the number: the script,
its `base.yml`, its decoder and its count of FLOPs, which changed twice. All of its decoders here
are parallel, MHA with heads of 256, an ungated ReLU, one table of 32,768 tokens. A v4-N or v5p-N
has N / 2 chips.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

_MAXTEXT = "https://github.com/AI-Hypercomputer/maxtext"
_PALM = "arXiv:2204.02311"
_ASYNC = {"xla_enable_async_all_gather": True}
_FUSED = _ASYNC | {
    f"xla_tpu_{name}": True
    for name in (
        "enable_data_parallel_all_reduce_opt",
        "data_parallel_opt_different_sized_ops",
        "enable_async_collective_fusion",
        "enable_async_collective_fusion_multiple_steps",
        "overlap_compute_collective_tc",
    )
}
_V5E = _FUSED | {"xla_tpu_enable_async_collective_fusion_fuse_all_gather": True}
_V5P = _FUSED | {
    "xla_tpu_megacore_fusion_allow_ags": False,
    "xla_enable_async_collective_permute": True,
    "xla_tpu_enable_ag_backward_pipelining": True,
}
_V6E = _V5E | {
    "xla_tpu_scoped_vmem_limit_kib": 98304,
    "xla_tpu_enable_all_experimental_scheduler_features": True,
    "xla_tpu_enable_scheduler_memory_pressure_tracking": True,
    "xla_tpu_host_transfer_overlap_limit": 24,
}
_MAXTEXT_DECODER = {"kv_heads": 0, "dim_head": 256, "gated": False, "parallel": True, "tied": True}
_BIASES = "the source adds relative position biases to the scores; here positions are rotary"
_LLAMA_8B = {"dim": 4096, "depth": 32, "heads": 32, "mlp_dim": 14336}
_LLAMA_70B = {"dim": 8192, "depth": 80, "heads": 64, "mlp_dim": 28672}
_LLAMA = {"kv_heads": 8, "dim_head": 128}
_QKV_ON_HOST = ("query@host", "key@host", "value@host")
_TIERS = f"{_MAXTEXT}/blob/e591f30cb/docs/reference/models/tiering.md"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """A row of the table.

    Attributes:
        name: unique.
        source: where the number stands.
        setting: where what it ran stands.
        topology: as `palmscale plan` reads it.
        slices: of it.
        sequences: a step.
        length: tokens a sequence.
        model_parallel: devices along `model`; the others of a slice lie along `data`.
        mfu: as the source gives it; or
        tokens_per_second_per_chip: likewise.
        attention_counted: the part of 12 N H K L a token that the source's MFU counts.
        decoder: fields of benchmarks/decoder_module.py's Decoder; None: the gin file's own model.
        gin_file: the run.
        bindings: of gin, beyond.
        options: the compiler's; None: those of the gin file.
        assumed: what the source does not say, or what differs here.
    """

    name: str
    source: str
    setting: str
    topology: str
    slices: int = 1
    sequences: int
    length: int
    model_parallel: int = 1
    mfu: float | None = None
    tokens_per_second_per_chip: float | None = None
    attention_counted: float = 1.0
    decoder: Mapping[str, Any] | None = None
    gin_file: str = "benchmarks/plan_backtest.gin"
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, bool | int] | None = None
    assumed: tuple[str, ...] = ()

    def gin_bindings(self) -> list[str]:
        """Returns what the row sets over its gin file."""
        values: dict[str, Any] = {
            "SEQUENCE_LENGTH": self.length,
            "BATCH_SCHEDULE": ((0, self.sequences),),
            "MODEL_PARALLEL": self.model_parallel,
            "REPLICAS": self.slices,
        }
        if self.options is not None:
            values["TPU_COMPILER_OPTIONS"] = dict(self.options)
        if self.decoder is not None:
            values["LOSS_CHUNK_LENGTH"] = self.length  # the sources make whole logits
            fields = dict(self.decoder)
            fields["kv_heads"] = fields["kv_heads"] or fields["heads"]
            values |= {f"decoder_module.Decoder.{key}": value for key, value in fields.items()}
        return [f"{key}={value!r}" for key, value in {**values, **self.bindings}.items()]


def _maxtext(commit: str, script: str, readme: str, **fields: Any) -> dict[str, Any]:
    return {
        "source": f"{_MAXTEXT}/blob/{commit}/{readme}",
        "setting": f"{_MAXTEXT}/blob/{commit}/{script}",
        **fields,
    }


def _v4(commit: str, script: str, **fields: Any) -> PublishedRun:
    """April 2023: MFU counts no attention; Adam without clipping; rows of 1,024 tokens."""
    return PublishedRun(
        **_maxtext(commit, f"MaxText/configs/{script}.sh", "README.md"),
        length=1024,
        attention_counted=0.0,
        bindings={
            "build.AdamW.weight_decay": 0.0,
            "build.AdamW.clip_global_norm": None,
        },
        options=_ASYNC,
        assumed=(_BIASES,),
        **fields,
    )


def _v5e(script: str, **fields: Any) -> PublishedRun:
    """October 2023: MFU counts whole attention, which is a kernel; full rematerialization."""
    return PublishedRun(
        **_maxtext("9bc243c95", f"MaxText/configs/largest_job/{script}.sh", "README.md"),
        topology="v5e:16x16",
        length=2048,
        options=_V5E,
        assumed=("the source had no positions, and its kernel all pairs; here rotary and causal",),
        **fields,
    )


def _v5p(script: str, **fields: Any) -> PublishedRun:
    """December 2023: MFU counts half of attention, which is a kernel, and rotary positions."""
    return PublishedRun(
        **_maxtext(
            "76bd53b0f", f"MaxText/configs/v5p/{script}.sh", "MaxText/configs/v5p/README.md"
        ),
        length=2048,
        attention_counted=0.5,
        options=_V5P,
        **fields,
    )


def _v6e(name: str, **fields: Any) -> PublishedRun:
    """Late 2025: a speed in tokens; queries, keys and values wait in the hosts' memory."""
    return PublishedRun(
        name=name,
        source=_TIERS,
        setting=f"{_MAXTEXT}/blob/92e59fdf5/benchmarks/maxtext_trillium_model_configs.py",
        topology="v6e:16x16",
        options=_V6E,
        **fields,
    )


def _decoder(dim: int, mlp_dim: int, heads: int, depth: int, **fields: Any) -> dict[str, Any]:
    return {
        **_MAXTEXT_DECODER,
        "dim": dim,
        "mlp_dim": mlp_dim,
        "heads": heads,
        "depth": depth,
        **fields,
    }


_FLASH = {"attention": "splash", "one_hot_lookup": True}
_CUBOID = "the slice's shape: the default one"

PUBLISHED_RUNS = (
    PublishedRun(
        name="palm_540b_v4",
        source=f"{_PALM}, table 3: 46.2 % (238.3 thousand tokens a second)",
        setting=f"{_PALM}, sections 4 and 5",
        topology="v4:12x16x16",
        slices=2,
        sequences=2048,
        length=2048,
        model_parallel=12,
        mfu=0.462,
        gin_file="configs/recipes/palm_540b_v4_6144.gin",
        bindings={"REMAT": "full"},
        assumed=(
            "the pods' shape",
            "full rematerialization: the paper recomputes three quarters of the forward matmuls",
            "attention as a kernel, which the paper had not; compiler options: the recipe's",
        ),
    ),
    _v5p(
        "32b",
        name="maxtext_32b_v5p_128",
        topology="v5p:4x4x4",
        sequences=64 * 8,
        model_parallel=4,
        mfu=0.7147,
        decoder=_decoder(10240, 32768, 32, 32, remat="dots", **_FLASH),
    ),
    _v4(
        "281e04bf3",
        "1xv4-128",
        name="maxtext_22b_v4_128",
        topology="v4:4x4x4",
        sequences=64 * 16,
        mfu=0.567,
        decoder=_decoder(6144, 24576, 24, 48),
    ),
    _v5e(
        "16b",
        name="maxtext_16b_v5e_256",
        sequences=256 * 6,
        mfu=0.6110,
        decoder=_decoder(5120, 32768, 32, 32, **_FLASH),
    ),
    PublishedRun(
        name="llama2_70b_v5p_1024",
        source=f"{_TIERS} (also 65.4 %)",
        setting=f"{_MAXTEXT}/blob/92e59fdf5/benchmarks/maxtext_v5p_model_configs.py",
        topology="v5p:8x8x8",
        sequences=512 * 4,
        length=4096,
        tokens_per_second_per_chip=692,
        decoder={
            **_LLAMA_70B,
            **_LLAMA,
            "remat": ("query", "key", "value", "attention_out", "down"),
            **_FLASH,
        },
        bindings={"NUM_TOKENS": 32000},
        options=_V5E,
        assumed=(
            _CUBOID,
            "the batch a chip, 4, is of the setting for 64 chips to which the table refers",
        ),
    ),
    _v5p(
        "128b",
        name="maxtext_128b_v5p_256",
        topology="v5p:4x4x8",
        sequences=128 * 2,
        model_parallel=8,
        mfu=0.6868,
        decoder=_decoder(10240, 65536, 64, 64, remat="dots", **_FLASH),
    ),
    _v4(
        "281e04bf3",
        "1xv4-384",
        name="maxtext_52b_v4_384",
        topology="v4:4x4x12",
        sequences=192 * 10,
        mfu=0.560,
        decoder=_decoder(12288, 49152, 32, 32),
    ),
    _v5e(
        "32b",
        name="maxtext_32b_v5e_256",
        sequences=256 * 4,
        mfu=0.6686,
        decoder=_decoder(10240, 32768, 32, 32, **_FLASH),
    ),
    _v5e(
        "64b",
        name="maxtext_64b_v5e_256",
        sequences=256 * 2,
        mfu=0.5990,
        decoder=_decoder(10240, 32768, 32, 64, **_FLASH),
    ),
    _v5p(
        "512b",
        name="maxtext_512b_v5p_1024",
        topology="v5p:4x8x16",
        sequences=512 * 2,
        model_parallel=16,
        mfu=0.6399,
        decoder=_decoder(20480, 65536, 64, 128, **_FLASH),
        assumed=("the slice's shape, 4x8x16: in 8x8x8 no dims make up the 16 of `model`",),
    ),
    _v6e(
        "llama2_70b_v6e_256",
        sequences=256 * 4,
        length=4096,
        tokens_per_second_per_chip=900,
        decoder={**_LLAMA_70B, **_LLAMA, **_FLASH, "remat": _QKV_ON_HOST},
        bindings={"NUM_TOKENS": 32000},
    ),
    _v6e(
        "llama3_8b_v6e_256",
        sequences=256 * 4,
        length=8192,
        tokens_per_second_per_chip=7207,
        decoder={
            **_LLAMA_8B,
            **_LLAMA,
            **_FLASH,
            "remat": ("layer_input@host", "attention_out@host", *_QKV_ON_HOST),
        },
        bindings={"NUM_TOKENS": 128_256},
    ),
    _v6e(
        "llama3_70b_v6e_256",
        sequences=256 * 5,
        length=8192,
        tokens_per_second_per_chip=960,
        decoder={**_LLAMA_70B, **_LLAMA, **_FLASH, "remat": ("layer_input@host", *_QKV_ON_HOST)},
        bindings={"NUM_TOKENS": 128_256},
    ),
)

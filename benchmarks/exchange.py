"""Memory and time of an import and an export of weights as large as PaLM 62B's.

    python benchmarks/exchange.py [--layers=64]

The input is a Hugging Face folder of sparse files, 125 GB in bfloat16 that read as zeros. The
import writes a checkpoint whose chunks are compressed, so that 250 GB of zeros fit on this disk;
the export reads it and writes to files that keep nothing but their length. All else is what the
commands run. Each is measured in a process of its own: the peak of its resident memory above what
it had after importing palmscale, and its time.
"""

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from unittest import mock

import ml_dtypes
import numpy as np

from palmscale import PaLM

_GIB = 1 << 30
_WIDTHS = {"dim": 8192, "heads": 32, "dim_head": 256, "ff_mult": 4, "num_tokens": 256_000}
_ZSTD = {"name": "zstd", "configuration": {"level": 1}}


class _Holes:
    """A file of which large writes leave holes; they must be zeros."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")

    def write(self, content: bytes | memoryview) -> None:
        if len(content) < 1 << 16:
            self._file.write(content)
        else:
            self._file.seek(len(content), 1)

    def __enter__(self) -> "_Holes":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.truncate()
        self._file.close()


def _sparse_input(folder: Path, layers: int) -> int:
    """Writes the input; returns its size in bytes."""
    from palmscale.data.vocabulary import ByteVocabulary
    from palmscale.interop import hf, hf_config
    from palmscale.interop.layouts import Outgoing
    from palmscale.interop.palmscale_safetensors import parameter_shapes
    from palmscale.interop.safetensors_file import write_shards
    from palmscale.interop.tensors import Tensor

    model = PaLM(depth=layers, norm_scale_offset=0.0, **_WIDTHS)
    dtype = np.dtype(ml_dtypes.bfloat16)
    folder.mkdir()
    outgoing = Outgoing(
        model=model, params={}, vocabulary=ByteVocabulary(), context_length=2048, dtype="bfloat16"
    )
    (folder / "config.json").write_text(json.dumps(hf_config.of_model(outgoing)))
    zero = np.zeros(1, dtype)
    zeros = {
        name: Tensor(
            shape, dtype, lambda part: np.broadcast_to(zero, [s.stop - s.start for s in part])
        )
        for name, shape in parameter_shapes(model).items()
    }
    tensors = hf.exported(model, zeros)
    write_shards(folder, tensors, metadata={"format": "pt"}, open_file=_Holes)
    return sum(tensor.bytes for tensor in tensors.values())


def _measured(work: str, folder: Path) -> tuple[float, float]:
    """Returns the seconds of a piece of work, and the growth of peak memory in GiB."""
    from palmscale.checkpoint import array_parts
    from palmscale.checkpoint.steps import StepFolders
    from palmscale.interop import hf
    from palmscale.interop.layouts import ExportLayout
    from palmscale.run.export import export
    from palmscale.run.import_weights import import_weights

    codecs = [*array_parts._CODECS, _ZSTD]
    sparse = ExportLayout(
        dtypes=("bfloat16",), write=lambda *given: hf.write(*given, open_file=_Holes)
    )
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    if work == "import":
        with (
            mock.patch.object(array_parts, "_CODECS", codecs),
            mock.patch.object(StepFolders, "check_room"),
        ):
            import_weights(folder / "input", "hf", folder / "run", vocabulary="bytes")
    else:
        with mock.patch.object(hf, "EXPORT", sparse):
            export(folder / "run", "hf", folder / "output")
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, (after - before) * 1024 / _GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=64)
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        size = _sparse_input(folder / "input", args.layers)
        print(f"{args.layers} layers, {size / 1e9:.1f} GB in bfloat16", flush=True)
        for work in ("import", "export"):
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=processes) as pool:
                seconds, gib = pool.submit(_measured, work, folder).result()
            rate = size / seconds / 1e6
            print(f"{work}: {gib:.2f} GiB of memory, {seconds:.0f} s, {rate:.0f} MB/s", flush=True)
        found = sum(path.stat().st_size for path in (folder / "output").glob("*.safetensors"))
        assert math.isclose(found, size, rel_tol=1e-3), (found, size)


if __name__ == "__main__":
    main()

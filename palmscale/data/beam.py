"""The parts of a build as Apache Beam pipelines, for corpora that take a cluster to tokenize.

Beam has its own environment (requirements-beam.txt): its protobuf is not TensorFlow's.
"""

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palmscale.data.processes import Count
from palmscale.errors import UserError


class BeamPipelines:
    """An executor whose workers may be on any machine that mounts the same file system.

    Attributes:
        flags: of Beam, such as `--runner=FlinkRunner`; none: the DirectRunner.
        directory: that every worker reaches by the same path; results pass through it.
    """

    def __init__(self, flags: Sequence[str], directory: str | Path):
        self._flags, self._directory = list(flags), Path(directory)

    def each(
        self, function: Callable[[Any, Count], Any], items: Sequence[Any], count: Count
    ) -> Iterator[Any]:
        """Yields results once all are there; see `palmscale.data.processes.Executor`.

        Results are JSON values. Progress is Beam's to tell: `count` is not called.
        """
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ModuleNotFoundError:
            raise UserError(
                "--beam needs Apache Beam, which is not installed - it has an environment of its"
                " own - install it there with `pip install -r requirements-beam.txt`"
            ) from None
        if not items:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".beam-", dir=self._directory) as results:
            write = functools.partial(_write_result, function=function, directory=results)
            with beam.Pipeline(options=PipelineOptions(self._flags)) as pipeline:
                _ = (
                    pipeline
                    | beam.Create(list(enumerate(items)))
                    | beam.Reshuffle()  # or all items would be fused into one worker's work
                    | beam.Map(write)
                )
            for number in range(len(items)):
                yield json.loads((Path(results) / f"{number}.json").read_text())


def _write_result(
    numbered: tuple[int, Any], *, function: Callable[[Any, Count], Any], directory: str
) -> None:
    number, item = numbered
    result = function(item, lambda more: None)
    # Beam may run an item twice: what appears is whole, and the same.
    with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as partial:
        json.dump(result, partial)
    Path(partial.name).replace(Path(directory) / f"{number}.json")

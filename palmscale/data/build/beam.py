"""Builds as Apache Beam pipelines, for corpora that take a cluster to tokenize.

Beam needs a Python environment of its own (requirements-beam.txt): it requires an older protobuf
than TensorFlow.
"""

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palmscale.data.build.processes import Count
from palmscale.errors import UserError
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import place


class BeamPipelines:
    """An executor whose workers may run on any machine that mounts the same file system.

    Args:
        flags: Beam's flags, such as `--runner=FlinkRunner`; none: the DirectRunner.
        directory: a folder that every worker sees under the same path; results pass through it.

    Raises:
        UserError: the folder is in a bucket.
    """

    def __init__(self, flags: Sequence[str], directory: str | Path):
        folder = place(directory)
        if isinstance(folder, ObjectPath):
            raise UserError(
                f"Data.cache_directory={folder} cannot be used with Beam, whose workers write"
                " files; expected a folder that all of them mount, for example the mounted bucket."
            )
        self._flags, self._directory = list(flags), folder.expanduser()

    def each(
        self, function: Callable[[Any, Count], Any], items: Sequence[Any], count: Count
    ) -> Iterator[Any]:
        """Yields the results after all items are done; see `Executor`.

        Results must be JSON values. `count` is never called: Beam reports progress itself.

        Raises:
            UserError: Beam is not installed.
        """
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ModuleNotFoundError:
            raise UserError(
                "BeamPipelines needs Apache Beam, which is not installed; install it in an"
                " environment of its own with `pip install -r requirements-beam.txt`."
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
                    | beam.Reshuffle()  # else Beam fuses all items into one worker's task
                    | beam.Map(write)
                )
            for number in range(len(items)):
                yield json.loads((Path(results) / f"{number}.json").read_text())


def _write_result(
    numbered: tuple[int, Any], *, function: Callable[[Any, Count], Any], directory: str
) -> None:
    number, item = numbered
    result = function(item, lambda more: None)
    # Beam may run an item twice: the result appears atomically, and is the same.
    with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as partial:
        json.dump(result, partial)
    Path(partial.name).replace(Path(directory) / f"{number}.json")

"""The run that a checkpoint describes; it brings no code but what the user chose."""

import re
from collections.abc import Iterable

import optax

from palmscale.data.dataset import Data
from palmscale.data.sources.seqio_tasks import Tfds
from palmscale.errors import UserError
from palmscale.run.named_classes import import_modules, is_among
from palmscale.run.rebuild import rebuild
from palmscale.run.run import Run
from palmscale.run.stored_meta import read_meta
from palmscale.run.workdir import Workdir, checkpoints


def stored_run(workdir: Workdir, modules: Iterable[str] = ()) -> Run | None:
    """Returns the run that the newest checkpoint describes, to evaluate it.

    None: it is of 0.1.0, which kept the run as gin alone.

    Evaluation needs no optimizer, so none is built: the run has one that does nothing.

    Args:
        workdir: the run's folder.
        modules: to import, whose classes the checkpoint may name; see `palmscale.load`.

    Raises:
        UserError: there is no checkpoint, or it names a class or a module that it may not.
    """
    modules = tuple(modules)
    reader = checkpoints(workdir)
    import_modules(modules)
    meta = read_meta(reader)
    if "run" not in meta:
        return None
    run = rebuild(meta["run"], modules, Run, optimizer=optax.identity())
    check_reads_no_code(run.data, modules)
    return run


def check_reads_no_code(data: Data, modules: Iterable[str]) -> None:
    """Checks that the data of a stored run is read without code that only the run names.

    Raises:
        UserError: it imports a module that is not among `modules`, or reads a dataset of TensorFlow
            Datasets whose own files name Python classes.
    """
    modules = tuple(modules)
    for module in data.import_modules:
        if not is_among(module, modules):
            raise UserError(
                f"the stored run imports the module {module!r} to read its text; if you trust it,"
                f" choose it: modules={module}."
            )
    for part in data.parts().values():
        source = part.corpus and part.corpus.source
        # features.json names classes; a namespace, as in `kubric:movi_a`, is a repository of code.
        if isinstance(source, Tfds) and (source.data_dir or re.match(r"[^/]*:", source.dataset)):
            raise UserError(
                f"the stored run reads Tfds.dataset={source.dataset!r} from a folder or namespace"
                " whose files may name code; if you trust them, name the run's gin file."
            )

"""Pictures of a cache's documents, as PNG files. Needs matplotlib, the extra `plot`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palmscale.errors import UserError

_SHOWN_GROUPS = 24  # the largest; the rest are one bar


def draw_documents(split: Mapping[str, Any], path: Path, *, title: str) -> None:
    """Writes a picture of how long the documents of a split are and where they come from.

    Args:
        split: its entry in the manifest.
        path: of the PNG file.
        title: of the cache.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError(
            "--picture needs matplotlib, which is not installed - it draws the picture - install it"
            " with `pip install 'palmscale[plot]'`"
        ) from None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    lengths, groups = figure.subplots(1, 2)
    _draw_lengths(lengths, split, title)
    _draw_groups(groups, split)
    try:
        figure.savefig(path, format="png", dpi=110)
    except OSError as error:
        raise UserError(
            f"--picture={path} cannot be written ({error.strerror}) - needed is a file in a folder"
            " that exists - correct the path"
        ) from None


def _draw_lengths(axes: Any, entry: Mapping[str, Any], title: str) -> None:
    counts = np.array(entry["length_histogram"])
    edges = 2.0 ** (np.arange(len(counts) + 1) / 2)
    first = int(np.flatnonzero(counts)[0]) if counts.any() else 0
    axes.stairs(counts[first:], edges[first:], fill=True, color="#4878a8")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("tokens in a document, [eod] included")
    axes.set_ylabel("documents")
    axes.set_title(f"{title}: {entry['documents']:,} documents", fontsize=10)


def _draw_groups(axes: Any, entry: Mapping[str, Any]) -> None:
    tokens = {name or "(all)": group["tokens"] for name, group in entry["groups"].items()}
    largest = sorted(tokens, key=tokens.get, reverse=True)
    shown = {name: tokens[name] for name in largest[:_SHOWN_GROUPS]}
    if rest := largest[_SHOWN_GROUPS:]:
        shown[f"{len(rest)} others"] = sum(tokens[name] for name in rest)
    total = max(1, sum(shown.values()))
    names = list(shown)[::-1]
    bars = axes.barh(names, [shown[name] for name in names], color="#a87848")
    axes.bar_label(bars, [f"{shown[name] / total:.1%}" for name in names], padding=3, fontsize=8)
    axes.margins(x=0.12)
    axes.set_xlabel("tokens")
    axes.set_title(f"sources: {total:,} tokens", fontsize=10)

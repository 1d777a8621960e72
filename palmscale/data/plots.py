"""Plots of the documents in caches, as PNG files. Needs matplotlib, the extra `plot`."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palmscale.errors import UserError
from palmscale.observe.controls import escaped

_SHOWN_GROUPS = 24  # the largest; one bar sums up the others


def plot_documents(split: Mapping[str, Any], path: Path, *, title: str) -> None:
    """Plots the lengths and the groups of the documents of a split.

    Args:
        split: its entry in the manifest.
        path: of the PNG file to write.
        title: a name for the cache.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    with _two_panels(path, height_inches=4.2) as (lengths, groups):
        _draw_lengths(lengths, split, title)
        _draw_groups(groups, split)


def plot_mixture(
    splits: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float], path: Path
) -> None:
    """Plots the lengths of each component's documents, and the components' shares.

    Args:
        splits: entries in the manifests, by component.
        weights: of the components.
        path: of the PNG file to write.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    with _two_panels(path, height_inches=max(4.2, 1.4 + 0.5 * len(splits))) as (lengths, shares):
        colors = _colors(list(splits))
        _draw_lengths_of_each(lengths, splits, colors)
        _draw_shares(shares, splits, weights, colors)


@contextlib.contextmanager
def _two_panels(path: Path, *, height_inches: float) -> Iterator[tuple[Any, Any]]:
    """Yields the axes of two panels, and writes the figure afterwards."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError(
            "plots need matplotlib, which is not installed; install it with `pip install"
            " 'palmscale[plot]'`."
        ) from None
    figure = Figure(figsize=(11, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    yield tuple(figure.subplots(1, 2))
    try:
        figure.savefig(path, format="png", dpi=110)
    except OSError as error:
        raise UserError(
            f"the plot {path} cannot be written ({error.strerror}); use a file in an existing"
            " folder."
        ) from None


def _colors(names: Sequence[str]) -> dict[str, Any]:
    from matplotlib import colormaps

    if len(names) <= 10:
        return dict(zip(names, map(colormaps["tab10"], range(10))))
    return dict(zip(names, map(colormaps["turbo"], np.linspace(0, 1, len(names)))))


def _draw_lengths_of_each(axes: Any, splits: Mapping[str, Any], colors: Mapping[str, Any]) -> None:
    counts = {name: np.array(entry["length_histogram"]) for name, entry in splits.items()}
    first = min((int(np.flatnonzero(c)[0]) for c in counts.values() if c.any()), default=0)
    for name, count in counts.items():
        if count.any():
            edges = 2.0 ** (np.arange(len(count) + 1) / 2)
            shares, color = 100 * count[first:] / count.sum(), colors[name]
            axes.stairs(shares, edges[first:], color=color, linewidth=1.8, label=name)
            axes.stairs(shares, edges[first:], color=color, fill=True, alpha=0.1)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens in a document, [eod] included")
    axes.set_ylabel("% of the component's documents")
    if any(count.any() for count in counts.values()):
        axes.legend(fontsize=8, frameon=False)
    total = sum(entry["documents"] for entry in splits.values())
    axes.set_title(f"{len(splits)} components: {total:,} documents", fontsize=10)


def _draw_shares(
    axes: Any,
    splits: Mapping[str, Any],
    weights: Mapping[str, float],
    colors: Mapping[str, Any],
) -> None:
    """Draws each component's weight, solid, above its share of the available tokens, pale."""
    tokens = {name: entry["tokens"] for name, entry in splits.items()}
    total = max(1, sum(tokens.values()))
    mixed, available = (
        [100 * of[name] / max(1e-30, sum(of.values())) for name in splits]
        for of in (weights, tokens)
    )
    positions = np.arange(len(splits))
    shades = [colors[name] for name in splits]
    for shares, offset, alpha in ((mixed, -0.2, 1.0), (available, 0.2, 0.4)):
        bars = axes.barh(positions + offset, shares, height=0.36, color=shades, alpha=alpha)
        axes.bar_label(bars, [f"{share:.1f} %" for share in shares], padding=3, fontsize=8)
    labels = [f"{name}\n{tokens[name]:,}" for name in splits]
    axes.set_yticks(positions, labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlabel("% of rows by weight (solid), % of available tokens (pale)")
    axes.set_title(f"shares of the components: {total:,} tokens", fontsize=10)


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
    # A dollar sign would begin a formula.
    labels = [escaped(name).replace("$", r"\$") for name in names]
    bars = axes.barh(labels, [shown[name] for name in names], color="#a87848")
    axes.bar_label(bars, [f"{shown[name] / total:.1%}" for name in names], padding=3, fontsize=8)
    axes.margins(x=0.12)
    axes.set_xlabel("tokens")
    axes.set_title(f"groups: {total:,} tokens", fontsize=10)

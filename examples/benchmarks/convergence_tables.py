"""The tables of convergence.py, in Markdown, from its results file.

Run as a script it prints them.

    python examples/benchmarks/convergence_tables.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "convergence.json"
TITLES = {
    "mlp": "Dense",
    "cnn": "Convolutions",
    "autoencoder": "Autoencoder",
    "lstm": "LSTM",
    "transformer": "Transformer without normalisation",
    "resnet": "Residual convolutions",
    "residual_mlp": "Residual Dense",
}
UNITS = {"resnet": "block", "residual_mlp": "block", "transformer": "block"}
SCHEMES = ("default", "activation", "variance", "isometric")
USUAL = ("relu", "gelu", "tanh")  # measured nearly everywhere
FAILED = 0.5  # a test score below this
CLOSE = 0.01  # a difference that does not count

Record = dict[str, Any]
Rows = dict[tuple[str, ...], dict[str, list[Record]]]


def read(path: Path = RESULTS) -> list[Record]:
    """Return the records of a results file, none where there is no file."""
    if not path.exists():
        return []
    records: list[Record] = json.loads(path.read_text())["records"]
    return records


def summary(records: Sequence[Record]) -> str:
    """Return one table: a network, its usual activations and inputs together, a row."""
    usual = [record for record in records if record["activation"] in USUAL]
    return _table(usual, _together, ("network", "trained by"))


def activations(records: Sequence[Record]) -> str:
    """Return the table of the other activations, a row for each."""
    rare = [record for record in records if record["activation"] not in USUAL]
    return _table(rare, _by_activation, ("network", "trained by"))


def tables(records: Sequence[Record]) -> str:
    """Return every measured cell: a table for each kind of network."""
    parts = []
    for kind, title in TITLES.items():
        here = [record for record in records if record["kind"] == kind]
        if here:
            table = _table(here, _each, ("network", "trained by"))
            parts.append(f"**{title}**\n\n{table}")
    return "\n\n".join(parts)


def variants(records: Sequence[Record]) -> str:
    """Return the table of other starts, beside the schemes of the same networks."""
    others = [record for record in records if record["start"] not in SCHEMES]
    names = list(dict.fromkeys(record["start"] for record in others))
    places = {_cell(record) for record in others}
    here = [record for record in records if _cell(record) in places]
    columns = ("variance", "isometric", *names)
    rows = _rows(here, _together)
    lines = [["network", "trained by", *columns], ["---"] * (len(columns) + 2)]
    for row, starts in rows.items():
        lines.append([*row, *(brief(starts.get(name, [])) for name in columns)])
    return _markdown(lines)


def brief(records: Sequence[Record]) -> str:
    """Return the mean test score in per cent with its interval, and the epochs.

    The interval is the 95 % one of Student's t over seeds, whose scores are means over
    the records. The epochs to the first of the validation targets are the median over
    runs with the quartiles; "∞" where so many of them do not get there. How many runs
    failed follows, if any: they end below 50 %.
    """
    if not records:
        return ""
    scores = _by_seed(records)
    text = f"{100 * scores.mean():.1f} ± {100 * half_width(scores):.1f}; "
    middle, low, high = _quartiles(records)
    text += middle if middle == low == high else f"{middle} ({low}–{high})"
    tests = [score for record in records for score in record["test"]]
    failed = sum(score < FAILED for score in tests)
    return text + (f"; {failed} of {len(tests)} failed" if failed else "")


def half_width(scores: Any) -> float:
    """Return half the 95 % interval of the mean of independent scores, by Student's t.

    >>> round(half_width(np.array([0.9, 0.92, 0.94, 0.96, 0.98])), 3)
    0.039
    """
    error = np.std(scores, ddof=1) / math.sqrt(len(scores))
    return float(stats.t.ppf(0.975, len(scores) - 1) * error)


def verdict(default: Sequence[Record], chosen: Sequence[Record]) -> str:
    """Return in words how Keras's default does beside a scheme, seed by seed."""
    difference = _by_seed(default) - _by_seed(chosen)
    width = half_width(difference)
    mean = float(difference.mean())
    if abs(mean) > width:
        side = "ahead" if mean > 0 else "behind"
        return f"{100 * abs(mean):.1f} ± {100 * width:.1f} {side}"
    word = "as good" if abs(mean) < CLOSE else "not told apart"
    later = _median(default) - _median(chosen)
    if math.isnan(later) or abs(later) < 1:
        return word
    side = "later" if later > 0 else "sooner"
    if math.isinf(later):
        return f"{word}, {side}"
    return f"{word}, {abs(later):g} epoch{'s' if abs(later) != 1 else ''} {side}"


def _by_seed(records: Sequence[Record]) -> Any:
    return np.mean([record["test"] for record in records], axis=0)


def _epochs(records: Sequence[Record]) -> list[float]:
    found = [epochs for record in records for epochs in record["to_first"]]
    return [math.inf if one is None else one for one in found]


def _median(records: Sequence[Record]) -> float:
    return float(np.quantile(_epochs(records), 0.5, method="inverted_cdf"))


def _quartiles(records: Sequence[Record]) -> list[str]:
    # Without interpolation, which infinities would make of no use.
    found = np.quantile(_epochs(records), (0.5, 0.25, 0.75), method="inverted_cdf")
    return [f"{one:g}" if math.isfinite(one) else "∞" for one in found]


def _table(
    records: Sequence[Record],
    label: Callable[[Record], tuple[str, ...]],
    titles: Sequence[str],
) -> str:
    ends = ('`"auto"` picks', "Keras's default beside it")
    lines = [[*titles, *SCHEMES, *ends]]
    lines.append(["---"] * len(lines[0]))
    for row, starts in _rows(records, label).items():
        picked = sorted(n for n, some in starts.items() if any(r["auto"] for r in some))
        chosen = [record for some in starts.values() for record in some if _is(record)]
        word = verdict(starts["default"], chosen) if chosen else ""
        cells = [brief(starts.get(name, [])) for name in SCHEMES]
        lines.append([*row, *cells, ", ".join(picked), word])
    return _markdown(lines)


def _is(record: Record) -> bool:
    return bool(record["auto"])


def _rows(
    records: Sequence[Record], label: Callable[[Record], tuple[str, ...]]
) -> Rows:
    rows: Rows = {}
    for record in sorted(records, key=_order):
        cells = rows.setdefault(label(record), {})
        cells.setdefault(record["start"], []).append(record)
    return rows


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(record: Record) -> tuple[Any, ...]:
    return (record["activation"], record["inputs"], *_together(record))


def _together(record: Record) -> tuple[str, ...]:
    detail = f", {record['detail']}" if record["detail"] else ""
    unit = UNITS.get(record["kind"], "layer") + "s" * (record["depth"] > 1)
    if record["kind"] == "autoencoder":
        unit = "+ " + str(record["depth"]) + " layers"
    size = f"{record['depth']} {unit} × {record['width']}"
    return f"{TITLES[record['kind']]}, {size}{detail}", record["optimizer"]


def _by_activation(record: Record) -> tuple[str, ...]:
    network, optimizer = _together(record)
    return f"{network}, {record['activation']}", optimizer


def _each(record: Record) -> tuple[str, ...]:
    scale = "" if record["inputs"] == "standardised" else ", pixels in [0, 1]"
    detail = f" {record['detail']}" if record["detail"] else ""
    name = f"{record['depth']} × {record['width']} {record['activation']}{detail}"
    return name, record["optimizer"] + scale


def _order(record: Record) -> tuple[Any, ...]:
    names = ("detail", "width", "depth", "activation", "inputs")
    kind = list(TITLES).index(record["kind"])
    return kind, *(record[name] for name in names), -ord(record["optimizer"][0])


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the short tables alone")
    parser.add_argument("--out", type=Path, help="a folder for the tables")
    arguments = parser.parse_args(argv)
    records = read()
    text = f"{summary(records)}\n\n{activations(records)}\n\n{variants(records)}\n"
    if not arguments.quick:
        text += f"\n{tables(records)}\n"
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "convergence_tables.md").write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

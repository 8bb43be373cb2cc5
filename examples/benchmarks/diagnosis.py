"""Faults planted in networks: who finds them by name, and who raises false alarms.

The labelled networks of tests/diagnosis, among them bugs that others published and
their repairs, are each shown to `il.diagnose` (and to
`VarianceMonitor`, where the fault shows in training), and to the absolute-threshold
rules of smdebug, TheDeepChecker, AUTOTRAINER and DeepDiagnosis (diagnosis_rivals.py).
Those look at a network's first step and, where it is trained, at a step after each
epoch, always with data; all their alarms count. Of a faulty network is told

- found: each code of the planted fault;
- consequence: only what follows from the fault;
- misnamed: only what is not the case;
- missed: nothing;

and of a healthy one whether an error or warning was raised on it. Of keras-initlab it
is also counted how often the first finding names the planted fault, and how many alarms
a faulty network gets. A "+" counts (of
keras-initlab, lists) the codes that were told and are not the case; diagnosis.json
has all of them.

    KERAS_BACKEND=jax python examples/benchmarks/diagnosis.py [--quick]
        [--cases TEXT …] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import keras
import numpy as np
from diagnosis_rivals import EXPLODED, RIVALS, SAME, Observer

from keras_initlab.tables import render_table
from tests.diagnosis.networks import FAULTY, HEALTHY, Case, alarms, batch, fit, found
from tests.diagnosis.published_further import EVERY

OURS = "keras-initlab"
TOOLS = (OURS, *RIVALS)
VERDICTS = ("found", "consequence", "misnamed", "missed")
QUICK = (
    "zeros",
    "constants, trained",
    "N(0, 1), tanh",
    "tanh, Glorot, six layers",
    "residual, trained",
)


def rivals(case: Case) -> dict[str, set[str]]:
    """Return the alarms of each rival over all of a case."""
    model, (x, y) = case.build(), case.data()
    observer = Observer(case.build)
    told: dict[str, set[str]] = {name: set() for name in RIVALS}
    for step in range(1 + case.epochs * (case.phase == "training")):
        if step:
            fit(model, x, y, 1)
        # NaN and infinities are some of the planted faults.
        with np.errstate(all="ignore"):
            try:
                record = observer.step(model, batch(x), batch(y), first=step == 0)
            except Exception:
                # Of a step that fails, those rules are shown nothing.
                break
            for name, rule in RIVALS.items():
                told[name] |= rule(record)
    return told


def meant(case: Case, told: set[str]) -> set[str]:
    """Return alarms of which one may mean several faults in their best sense."""
    true = {*case.codes, *case.allowed}
    for group in (EXPLODED, SAME):
        if told >= group and group & true:
            told = told - (group - true)
    return told


def judge(case: Case, told: set[str]) -> tuple[str, list[str]]:
    """Return what an answer is worth, and what in it is not the case."""
    false = sorted(told - {*case.codes, *case.allowed})
    if not case.codes:
        return ("false alarm" if told else "silent"), false
    if told >= set(case.codes):
        return "found", false
    if not told:
        return "missed", false
    return ("misnamed" if len(false) == len(told) else "consequence"), false


def run(case: Case) -> dict[str, Any]:
    """Return what each tool says of a case, and what that is worth."""
    start = time.perf_counter()
    findings = found(case)
    seconds = time.perf_counter() - start
    others = {name: meant(case, codes) for name, codes in rivals(case).items()}
    told = {OURS: alarms(findings), **others}
    answers = {}
    for name, codes in told.items():
        verdict, false = judge(case, codes)
        answers[name] = {"verdict": verdict, "told": sorted(codes), "false": false}
    return {
        "case": case.name,
        "phase": case.phase,
        "codes": list(case.codes),
        "allowed": list(case.allowed),
        "findings": [str(one) for one in findings],
        "first": findings[0].code if findings else None,
        "alarms": sum(one.severity != "info" for one in findings),
        "seconds": seconds,
        "answers": answers,
    }


def cell(tool: str, answer: dict[str, Any]) -> str:
    """Return a tool's answer for the table; of rivals' untrue codes, how many."""
    verdict, false = answer["verdict"], answer["false"]
    if not false:
        return str(verdict)
    return f"{verdict} +{len(false) if tool != OURS else ' ' + ', '.join(false)}"


def summary(results: list[dict[str, Any]]) -> list[list[str]]:
    """Return a row for each tool: how many faults found, how many false alarms."""
    faulty = [one for one in results if one["codes"]]
    healthy = [one for one in results if not one["codes"]]
    rows = []
    for tool in TOOLS:
        verdicts = [one["answers"][tool]["verdict"] for one in faulty]
        false = [one["answers"][tool]["false"] for one in faulty]
        alarmed = [one["answers"][tool]["verdict"] != "silent" for one in healthy]
        counts = [str(verdicts.count(name)) for name in VERDICTS[1:]]
        rows.append(
            [
                tool,
                f"{verdicts.count('found')} / {len(faulty)}",
                *counts,
                str(sum(map(bool, false))),
                f"{sum(alarmed)} / {len(healthy)}",
            ]
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run the cases; print a row for each, and one for each tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a handful of cases")
    parser.add_argument("--cases", nargs="*", help="only those with this in their name")
    parser.add_argument("--out", type=Path, help="a folder for diagnosis.json")
    arguments = parser.parse_args(argv)
    cases = [*FAULTY, *(one.faulty for one in EVERY)]
    cases += [*HEALTHY, *(one.sound for one in EVERY)]
    if arguments.quick:
        cases = [case for case in cases if case.name in QUICK]
    if arguments.cases:
        cases = [c for c in cases if any(text in c.name for text in arguments.cases)]
    results = []
    for case in cases:
        keras.backend.clear_session()
        results.append(run(case))
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(results, indent=1)
            (arguments.out / "diagnosis.json").write_text(text + "\n")
    columns: list[tuple[str, Any]] = [("network", "left"), ("planted", "left")]
    columns += [(name, "left") for name in TOOLS]
    rows = [
        [
            one["case"],
            ", ".join(one["codes"]) or "–",
            *(cell(tool, one["answers"][tool]) for tool in TOOLS),
        ]
        for one in results
    ]
    print(render_table("Faulty and healthy networks", columns, rows))
    others = {case.name for one in EVERY for case in (one.faulty, one.sound)}
    for title, some in (
        ("Summary", [one for one in results if one["case"] not in others]),
        ("Published bugs", [one for one in results if one["case"] in others]),
    ):
        if some:
            print_summary(title, some)
    return 0


def print_summary(title: str, results: list[dict[str, Any]]) -> None:
    """Print a row for each tool, and of keras-initlab what comes first."""
    columns: list[tuple[str, Any]] = [("tool", "left"), ("found", "right")]
    columns += [(name, "right") for name in VERDICTS[1:]]
    columns += [("told what is not so", "right"), ("false alarm on healthy", "right")]
    print()
    print(render_table(title, columns, summary(results)))
    faulty = [one for one in results if one["codes"]]
    first = sum(one["first"] in one["codes"] for one in faulty)
    count = sum(one["alarms"] for one in faulty) / max(len(faulty), 1)
    print()
    print(
        f"{OURS}: the first finding names the fault in {first} of {len(faulty)}; "
        f"{count:.1f} alarms for a faulty network."
    )


if __name__ == "__main__":
    raise SystemExit(main())

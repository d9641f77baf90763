"""Rows of the benchmark: what is measured beside what, in turns, and how the numbers are told.

A machine is faster in one minute than in the next. So what is to be compared is measured in turns within one run,
each row tells medians with their quartiles, and only the ratios of one row mean something. Each turn has an order of
its own (A B C, C A B, ...): what the kernel still does for one subject (the end of a network namespace, of a cgroup)
falls on all others alike.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from context import Bench

Unit = Literal["ms", "MB", "MB/s", "/s"]


@dataclass(frozen=True)
class Aim:
    """What a subject is to reach beside its baseline: at most `factor` times it, plus `plus` (in the row's unit).

    With `at_most` or `at_least`, an absolute bound without a baseline. For rates (`MB/s`, `/s`) more is better: at
    least the baseline divided by `factor`.
    """

    factor: float = 1.0
    plus: float = 0.0
    at_most: float | None = None
    at_least: float | None = None

    def told(self, unit: Unit) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g} {unit}"
        if self.at_least is not None:
            return f"≥ {self.at_least:,.0f} {unit}"
        if unit in ("MB/s", "/s"):
            return f"≥ {1 / self.factor:g}×"
        text = f"≤ {self.factor:g}×" if self.factor != 1.0 or not self.plus else "≤ 1×"
        return f"{text} + {self.plus:g} {unit}" if self.plus else text

    def met(self, value: float, baseline: float | None, unit: Unit) -> bool | None:
        """Whether it is reached; None where there is nothing to compare with."""
        if self.at_most is not None:
            return value <= self.at_most
        if self.at_least is not None:
            return value >= self.at_least
        if baseline is None:
            return None
        if unit in ("MB/s", "/s"):
            return value >= baseline / self.factor
        return value <= baseline * self.factor + self.plus


@dataclass(frozen=True)
class Subject:
    """One thing that is measured. `sample` measures once and returns the number in the row's unit."""

    name: str
    sample: Callable[[], Awaitable[float]] | None  # None: not to be had here
    against: str | None = None
    aim: Aim | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Row:
    """Subjects that are measured in turns."""

    subjects: list[Subject]
    unit: Unit = "ms"
    rounds: int = 15
    warm_up: int = 1


@dataclass(frozen=True)
class RowMaker:
    """A row by its name; `make` prepares it, and cleans up when it was measured."""

    name: str
    title: str
    make: Callable[[Bench], AbstractAsyncContextManager[Row]]
    on_demand: bool = False  # only when asked for by name


@dataclass(frozen=True)
class Result:
    """What was measured of one subject."""

    subject: Subject
    samples: list[float]
    baseline: float | None = None  # the median of what it is compared with
    error: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        if len(self.samples) < 2:
            return None
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def ratio(self) -> float | None:
        if self.baseline is None or self.median is None or not self.baseline:
            return None
        return self.median / self.baseline

    def met(self, unit: Unit) -> bool | None:
        if self.subject.aim is None or self.median is None:
            return None
        return self.subject.aim.met(self.median, self.baseline, unit)


@dataclass(frozen=True)
class RowResult:
    """A measured row."""

    name: str
    title: str
    unit: Unit
    results: list[Result] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As plain data, for --json."""
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "subjects": [
                {
                    "name": result.subject.name,
                    "median": result.median,
                    "quartiles": result.quartiles,
                    "samples": result.samples,
                    "against": result.subject.against,
                    "ratio": result.ratio,
                    "aim": result.subject.aim.told(self.unit) if result.subject.aim else None,
                    "met": result.met(self.unit),
                    "missing": result.subject.why_not or result.error or None,
                }
                for result in self.results
            ],
        }


async def measure(maker: RowMaker, row: Row) -> RowResult:
    """Measure every subject of a row in turns. One that fails is told and left out of the further rounds."""
    samples: dict[str, list[float]] = {subject.name: [] for subject in row.subjects}
    errors: dict[str, str] = {}
    order = random.Random(maker.name)  # the same order in every run
    for number in range(-row.warm_up, row.rounds):
        for subject in order.sample(row.subjects, len(row.subjects)):
            if subject.sample is None or subject.name in errors:
                continue
            try:
                value = await subject.sample()
            except Exception as error:  # the other subjects are worth their numbers all the same
                errors[subject.name] = f"{type(error).__name__}: {error}".strip().rpartition("\n")[2]
                print(f"{maker.name}: {subject.name}: {error}", file=sys.stderr)
                continue
            if number >= 0:
                samples[subject.name].append(value)
    medians = {name: statistics.median(values) for name, values in samples.items() if values}
    results = [
        Result(
            subject,
            samples[subject.name],
            None if subject.against is None else medians.get(subject.against),
            errors.get(subject.name, ""),
        )
        for subject in row.subjects
    ]
    return RowResult(maker.name, maker.title, row.unit, results)


def number(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def lines(result: RowResult) -> list[str]:
    """A row of the table, for people."""
    told = [f"{result.title} [{result.name}], {result.unit}"]
    for item in result.results:
        if item.median is None:
            told.append(f"  {item.subject.name:<30} -         {item.subject.why_not or item.error}")
            continue
        low, high = item.quartiles or (item.median, item.median)
        spread = f"{number(low)}…{number(high)}"
        extremes = f"{number(min(item.samples))}…{number(max(item.samples))}"
        line = f"  {item.subject.name:<30} {number(item.median):>8}  {spread:>15}  {extremes:>15}  "
        if item.ratio is not None:
            line += f"{item.ratio:6.2f}× {item.subject.against}"
        if item.subject.aim is not None:
            met = {True: "met", False: "MISSED", None: "not compared"}[item.met(result.unit)]
            line += f"  (aim {item.subject.aim.told(result.unit)}: {met})"
        told.append(line.rstrip())
    return told


HEADER = f"  {'':<30} {'median':>8}  {'quartiles':>15}  {'min…max':>15}  ratio"


def markdown(results: list[RowResult]) -> str:
    """The table for docs/performance.md."""
    told = ["| | median | quartiles | ratio | aim |", "|---|--:|--:|--:|---|"]
    for result in results:
        told.append(f"| **{result.title}** (`{result.name}`, {result.unit}) | | | | |")
        for item in result.results:
            if item.median is None:
                told.append(f"| {item.subject.name} | - | {item.subject.why_not or 'failed'} | | |")
                continue
            low, high = item.quartiles or (item.median, item.median)
            ratio = "" if item.ratio is None else f"{item.ratio:.2f}× {item.subject.against}"
            aim = ""
            if item.subject.aim is not None:
                met = {True: "met", False: "**missed**", None: "not compared"}[item.met(result.unit)]
                aim = f"{item.subject.aim.told(result.unit)}: {met}"
            spread = f"{number(low)}…{number(high)}"
            told.append(f"| {item.subject.name} | {number(item.median)} | {spread} | {ratio} | {aim} |")
    return "\n".join(told) + "\n"

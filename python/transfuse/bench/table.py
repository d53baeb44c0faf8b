"""The table of a report, for terminals and as Markdown."""

from collections.abc import Iterable
from dataclasses import dataclass

import rich.box
import rich.table
import rich.text

from transfuse.bench import libraries, operation
from transfuse.bench.measure import threads_text
from transfuse.bench.report import ALLOCATED, Entry, Line, Report
from transfuse.bench.statistics import Estimate

FULL_WIDTH = 170
"""Columns of a terminal that the whole table needs."""
DETAILS = ("allocated", "speed", "variation")
NONE = "–"
COLORS = {"faster": "green", "slower": "red", "even": "yellow"}


@dataclass(frozen=True)
class Row:
    """A line in words.

    Attributes
    ----------
    case, name, dtype, threads : str
    ours, peer : str
        Times of transfuse and of the fastest peer; "out" column if there is one there.
    our_form, form : str
        Our statement if there are several, and the peer's.
    ratio, allocated : str
        Ratio and interval where `out` is given, and where the result is allocated.
    speed, share : str
        In the unit of what limits the line, and over that limit; with the attainable share where a softmax lowers it.
    variation : str
        Coefficients of variation of both.
    verdict : str
    style : str
        Colour of the verdict.
    """

    case: str
    name: str
    dtype: str
    threads: str
    ours: str
    peer: str
    our_form: str
    form: str
    ratio: str
    allocated: str
    speed: str
    share: str
    variation: str
    verdict: str
    style: str


HEADINGS = {
    "case": "sizes",
    "dtype": "dtype",
    "threads": "threads",
    "ours": "transfuse",
    "peer": "fastest peer",
    "ratio": "ratio [95 %]",
    "allocated": "result allocated",
    "speed": "speed",
    "share": "of the limit",
    "variation": "variation",
    "verdict": "verdict",
}


def duration(seconds: float) -> str:
    """Three digits and a unit: "3.12 µs"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= size * 0.9995 or unit == "ns":
            break
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 99.95 or unit == "ns" else f"{value:.3g} {unit}"


def library_label(name: str) -> str:
    """How a library is called."""
    if name not in libraries.PATHS:
        return name
    label: str = operation.find(libraries.PATHS[name]).label
    return label


def row(line: Line) -> Row:
    """A line in words."""
    ours, peer = line.ours(line.headline), line.fastest_peer(line.headline)
    ratio = line.ratio(line.headline)
    speed, share = _limit(line, ours) if ours else ("", "")
    return Row(
        case=line.label,
        name=line.name,
        dtype=line.dtype,
        threads=str(line.threads),
        ours=duration(line.seconds_of(ours)) if ours else NONE,
        peer=f"{library_label(peer.library)} {duration(line.seconds_of(peer))}" if peer else NONE,
        our_form=ours.statement if ours and line.has_choice(ours) else "",
        form=peer.statement if peer else "",
        ratio=_text(line.ratio("out")),
        allocated=_text(line.ratio("allocated")),
        speed=speed,
        share=share,
        variation=" / ".join(f"{line.variation(entry):.0%}" for entry in (ours, peer) if entry is not None),
        verdict=line.verdict,
        style=COLORS[ratio.verdict] if ratio and line.decided and not line.broken else "",
    )


def _limit(line: Line, ours: Entry) -> tuple[str, str]:
    """Speed and share of whichever limit, arithmetic or memory, we are closer to."""
    peak, memory, ceiling = line.share_of_peak(ours), line.share_of_bandwidth(ours), line.ceiling
    seconds = line.seconds_of(ours)
    if memory is not None and memory > peak / (ceiling or 1):
        return f"{line.bytes / seconds / 1e9:.3g} GB/s", f"{memory:.0%} memory"
    attainable = f" (of {ceiling:.0%})" if ceiling else ""
    return f"{line.flops / seconds / 1e9:.3g} GFLOP/s", f"{peak:.0%} FMA{attainable}"


def _text(ratio: Estimate | None) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else NONE


def _headings(report: Report) -> dict[str, str]:
    return HEADINGS | {"case": report.sizes}


def table(report: Report, *, width: int = FULL_WIDTH) -> rich.table.Table:
    """For a terminal or a notebook.

    One narrower than FULL_WIDTH columns gets the columns that matter most, and says what all lines share in the title.
    """
    wide = width >= FULL_WIDTH
    rows = [row(line) for line in report.lines]
    tier = report.machine.get("tier", "")
    title = f"{report.title}: transfuse ({tier}) against the fastest peer" if tier else report.title
    hidden: set[str] = set()
    if not wide:
        hidden = set(DETAILS)
        if len({(line.dtype, line.threads) for line in report.lines}) == 1:
            hidden |= {"dtype", "threads"}
            title += f"\n{report.lines[0].dtype}, {threads_text(report.lines[0].threads)}"
    headings = {name: heading for name, heading in _headings(report).items() if name not in hidden}
    shown = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD)
    for name, heading in headings.items():
        left = name in ("case", "dtype", "peer", "verdict")
        whole = name in ("dtype", "ours", "ratio")
        shown.add_column(heading, justify="left" if left else "right", no_wrap=whole, overflow="fold")
    for one in rows:
        cells: dict[str, str | rich.text.Text] = {name: getattr(one, name) for name in headings}
        cells["case"] = rich.text.Text.assemble(one.case, "\n" if one.name else "", (one.name, "dim"))
        cells["verdict"] = rich.text.Text(one.verdict, one.style)
        if wide:
            cells["peer"] = rich.text.Text.assemble(one.peer, "\n", (one.form, "dim"))
            cells["ours"] = rich.text.Text.assemble(one.ours, "\n" if one.our_form else "", (one.our_form, "dim"))
        else:
            cells["ratio"] = _both_ratios(one)
            cells["share"] = one.share.replace(" (", "\n(")
            cells["verdict"] = rich.text.Text(one.verdict.removesuffix(ALLOCATED), one.style)
        shown.add_row(*cells.values())
    return shown


def _both_ratios(one: Row) -> rich.text.Text:
    """The ratio where `out` is given above the one where the result is allocated, or the only one that there is."""
    if one.ratio == NONE != one.allocated:
        return rich.text.Text.assemble(one.allocated, "\n", ("allocated", "dim"))
    return rich.text.Text.assemble(one.ratio, "\n", (f"allocated {one.allocated}", "dim"))


def markdown(report: Report, columns: Iterable[str] = tuple(HEADINGS)) -> str:
    """The same as a Markdown table; the peer's statement beside its time."""
    known = _headings(report)
    chosen = {name: known[name] for name in columns}
    lines = ["| " + " | ".join(chosen.values()) + " |", "|" + "---|" * len(chosen)]
    for one in map(row, report.lines):
        cells = {name: str(getattr(one, name)) for name in chosen}
        if "case" in cells and one.name:
            cells["case"] += f" ({one.name})"
        if "peer" in cells and one.form:
            cells["peer"] += f" `{one.form}`"
        if "ours" in cells and one.our_form:
            cells["ours"] += f" `{one.our_form}`"
        lines.append("| " + " | ".join(cells.values()) + " |")
    return "\n".join(lines)


def remarks(report: Report) -> list[str]:
    """What a reader must know besides the table: who is missing, what failed, what was dropped."""
    found = [f"{library_label(name)} took no part: {reason}" for name, reason in report.absent.items()]
    for line in report.lines:
        where = f"{line.label} {line.dtype}, {threads_text(line.threads)}"
        if line.note:
            found.append(f"{where}: {line.note}")
        for entry in line.entries:
            if entry.state in ("failed", "wrong", "stopped"):
                found.append(f"{where}: {library_label(entry.library)} `{entry.statement}` {entry.state}: {entry.note}")
        if line.dropped:
            found.append(f"{where}: {line.dropped} of {len(line.clean)} rounds dropped: a foreign job was on a core")
    if report.interrupted:
        found.append("interrupted: the lines above are what was measured until then")
    return found

"""A readable report of `Scores`, as Markdown and as a page for the browser, from one list of sections."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from .scoring import Scores

__all__ = ["Section", "report_sections", "summary_lines", "to_html", "to_markdown"]

_OBJECT_FIGURES = ("cgF1", "positive_micro_F1", "positive_macro_F1", "precision", "recall", "F1")
_IMAGE_FIGURES = ("IL_MCC", "IL_precision", "IL_recall", "IL_F1", "IL_FPR")
_GROUP_FIGURES = ("num_pairs", "num_positive_pairs", "cgF1", "positive_micro_F1", "IL_MCC", "precision", "recall")
_MOST_PHRASES = 20
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #bbb;padding:.2em .6em;text-align:right}td:first-child,th:first-child{text-align:left}"
    "img{max-width:100%}"
)


@dataclass
class Section:
    """A heading with paragraphs, tables (the first row is the header) and pictures (title, file)."""

    heading: str
    paragraphs: list[str] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)


def report_sections(
    scores: Scores, pictures: Sequence[tuple[str, str]] = (), missing: Sequence[str] = (), title: str = "Evaluation"
) -> list[Section]:
    """What a report says: figures with confidence intervals, tables, pictures, and what the reader should know."""
    settings = scores.settings
    first = Section(
        title,
        [
            f"{scores.metrics['num_pairs']:.0f} picture-phrase pairs, {scores.metrics['num_positive_pairs']:.0f} with "
            f"objects; {settings['annotators']} annotator(s); definition: {settings['definition']}; score threshold "
            f"{settings['threshold']:g}. Figures are fractions of 1; papers print cgF1 and F1 times 100. -1: undefined."
        ],
    )
    sections = [first, *_figures(scores)]
    if scores.human:
        sections.append(_groups("Agreement of annotators", scores.human, (*_OBJECT_FIGURES[:3], "IL_MCC"), "protocol"))
    if len(scores.domains) > 1:
        sections.append(_groups("Domains", scores.domains, _GROUP_FIGURES, "domain"))
    sections.append(_worst_phrases(scores))
    if pictures or missing:
        lost = [f"Not drawn, because matplotlib is missing (pip install 'sam3-hf[evaluate]'): {', '.join(missing)}."]
        sections.append(Section("Plots", lost if missing else [], pictures=list(pictures)))
    sections.append(Section("To know", list(scores.notes) or ["Nothing was left out."]))
    return sections


def summary_lines(scores: Scores) -> list[str]:
    """The main figures, a line each."""
    names = ["cgF1", "positive_micro_F1", "positive_macro_F1", "IL_MCC", "IL_FPR", "precision", "recall"]
    names += [f"box_{name}" for name in ("cgF1", "positive_micro_F1")] + ["mask_AP", "box_AP"]
    names += ["count_MAE", "count_accuracy", "plain_count_MAE", "plain_count_accuracy", "num_pairs"]
    lines = []
    for name in names:
        if name in scores.metrics:
            interval = scores.intervals.get(name)
            ends = f"  [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
            lines.append(f"{name:24} {scores.metrics[name]:10.4f}{ends}")
    return lines


def to_markdown(sections: Sequence[Section]) -> str:
    """The sections as Markdown."""
    parts = []
    for number, section in enumerate(sections):
        parts.append(f"{'#' if number == 0 else '##'} {section.heading}")
        parts += section.paragraphs if number == 0 else [f"- {line}" for line in section.paragraphs]
        if section.table:
            rows = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in section.table]
            parts.append("\n".join([rows[0], f"|{'---|' * len(section.table[0])}", *rows[1:]]))
        parts += [f"![{title}]({file})" for title, file in section.pictures]
    return "\n\n".join(parts) + "\n"


def to_html(sections: Sequence[Section]) -> str:
    """The sections as one page; its pictures are files beside it."""
    body = []
    for number, section in enumerate(sections):
        level = "h1" if number == 0 else "h2"
        body.append(f"<{level}>{html.escape(section.heading)}</{level}>")
        body += [f"<p>{html.escape(line)}</p>" for line in section.paragraphs]
        if section.table:
            header, *rows = [[html.escape(cell) for cell in row] for row in section.table]
            lines = ["".join(f"<th>{cell}</th>" for cell in header)]
            lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
            body.append(f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>")
        body += [
            f'<h3>{html.escape(title)}</h3><img src="{html.escape(file)}" alt="{html.escape(title)}">'
            for title, file in section.pictures
        ]
    head = f'<meta charset="utf-8"><title>{html.escape(sections[0].heading)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _figures(scores: Scores) -> list[Section]:
    metrics = scores.metrics
    sections = []
    for prefix, what in (("", "Masks"), ("box_", "Boxes")):
        if f"{prefix}cgF1" not in metrics:
            continue
        level = f"{100 * scores.settings['level']:g} % interval"
        table = [["figure", "IoU 0.50:0.95", level, "IoU 0.50", "IoU 0.75"]]
        for name in _OBJECT_FIGURES:
            values = [_number(metrics[f"{prefix}{name}{at}"]) for at in ("@0.5", "@0.75")]
            table.append([name, _number(metrics[prefix + name]), _interval(scores, prefix + name), *values])
        for name in _IMAGE_FIGURES:
            table.append([name, _number(metrics[prefix + name]), _interval(scores, prefix + name), "", ""])
        sections.append(Section(what, table=table))
    ap = [name for name in metrics if "_AP" in name or "_AR" in name]
    if ap:
        sections.append(
            Section("Average precision", table=[["figure", "value"], *([n, _number(metrics[n])] for n in ap)])
        )
    counting = [name for name in metrics if "count_" in name]
    if counting:
        recipe = scores.settings.get("counting", "not computed: no masks")
        text = (
            f"`count_...` is the paper's recipe ({recipe}), `plain_count_...` the number of answers at the threshold."
        )
        rows = [[name, _number(metrics[name])] for name in counting]
        sections.append(Section("Counting of present phrases", [text], [["figure", "value"], *rows]))
    return sections


def _groups(heading: str, groups: dict[str, dict[str, float]], figures: Sequence[str], first: str) -> Section:
    rows = [[name, *(_group_number(values, figure) for figure in figures)] for name, values in groups.items()]
    return Section(heading, table=[[first, *figures], *rows])


def _worst_phrases(scores: Scores) -> Section:
    """The phrases that are there and found worst, or wrongly found."""
    ranked = sorted(scores.phrases.items(), key=lambda item: (_merit(item[1]), item[0]))
    section = _groups(
        "Phrases", dict(ranked[:_MOST_PHRASES]), (*_GROUP_FIGURES[:4], "IL_FPR", *_GROUP_FIGURES[5:]), "phrase"
    )
    section.paragraphs = [
        f"The {min(_MOST_PHRASES, len(ranked))} of {len(ranked)} phrases with the worst positive_micro_F1 minus "
        "IL_FPR; per_phrase.csv has all."
    ]
    return section


def _interval(scores: Scores, name: str) -> str:
    return "[{:.4f}, {:.4f}]".format(*scores.intervals[name]) if name in scores.intervals else ""


def _merit(figures: dict[str, float]) -> float:
    """How well a phrase is found where it is, less how often where it is not."""
    found = figures["positive_micro_F1"] if figures["num_positive_pairs"] else 1.0
    return found - figures["IL_FPR"]


def _group_number(figures: dict[str, float], name: str) -> str:
    if name.startswith("num_"):
        return f"{figures[name]:.0f}"
    undefined = name not in ("IL_MCC", "IL_FPR") and not figures.get("num_positive_pairs", 1)
    return "-" if undefined else _number(figures[name])


def _number(value: float) -> str:
    return f"{value:.4f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

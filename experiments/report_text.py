"""What the report says of a table's rows, as text: cells, fingerprints, cautions, and how it was made."""

import json
from typing import Any

from experiments.metrics import METRICS
from experiments.metrics.base import STAND_IN
from experiments.progress import duration_text
from experiments.results import Results, RowResult, compare, compare_rows, number_text


def _has_paper(results: Results) -> bool:
    return any(result.row.paper for result in results.rows)


def table_text(results: Results) -> dict[str, Any]:
    """{"columns", "rows"} as text, without the columns that no row fills."""
    columns, rows = _columns(results), [_cells(results, result) for result in results.rows]
    kept = [i for i in range(len(columns)) if i < 4 or any(row[i] != "–" for row in rows)]
    return {"columns": [columns[i] for i in kept], "rows": [[row[i] for i in kept] for row in rows]}


def _columns(results: Results) -> list[str]:
    per_metric = []
    for metric in results.table.shown_metrics.values():
        paper = ["paper", "difference", "verdict"] if _has_paper(results) else []
        per_metric += [metric.title, *[f"{metric.title}: {name}" for name in paper]]
    has_baseline = any(result.row.baseline for result in results.rows)
    compared = ["against the baseline"] if has_baseline else []
    return ["row", "mtm", "status", *per_metric, *compared, "kimg", "time", "s/kimg", "memory", "parameters"]


def _cells(results: Results, result: RowResult) -> list[str]:
    per_metric: list[str] = []
    for key, metric in results.table.shown_metrics.items():
        ours, paper = result.metrics.get(key), result.row.paper.get(key)
        per_metric.append(_metric_text(results, result, key))
        if _has_paper(results):
            known = ours is not None and paper is not None
            difference = f"{ours - paper:+.3g}" if ours is not None and paper is not None else "–"
            verdict = compare(ours, paper, metric) if ours is not None and paper is not None else "–"
            if known and results.table.meaningless:
                difference, verdict = "–", "meaningless"
            elif known and result.mark(key):
                difference, verdict = "–", STAND_IN
            per_metric += [number_text(paper), difference, verdict]
    compared = [_against_baseline(results, result)] if any(r.row.baseline for r in results.rows) else []
    memory = f"{result.peak_rss_bytes / 1e9:.2f} GB" if result.peak_rss_bytes else "–"
    cost = [f"{result.kimg:g}", duration_text(result.wall_s) if result.wall_s else "–", number_text(result.s_per_kimg)]
    parameters = f"{result.parameters:,}" if result.parameters else "–"
    row = result.row
    return [row.title, row.mtm, result.status, *per_metric, *compared, *cost, memory, parameters]


def _metric_text(results: Results, result: RowResult, name: str) -> str:
    """The mean over the seeds and its spread, then every run; no mean where the runs took it in different ways."""
    mean = result.metrics.get(name)
    text = number_text(mean, result.spread(name) if mean is not None else None)
    if len(result.runs) > 1:
        values = [(run, run.value(name)) for run in result.runs]
        runs = [f"seed {run.seed}: {run.status if value is None else number_text(value)}" for run, value in values]
        text += f"\n({', '.join(runs)})" if result.values(name) else ""
    text += result.mark(name)
    return f"{text} (meaningless)" if results.table.meaningless and result.values(name) else text


def _against_baseline(results: Results, result: RowResult) -> str:
    if result.row.baseline is None:
        return "the baseline" if any(r.row.baseline == result.row.id for r in results.rows) else "–"
    if results.table.meaningless:
        return "meaningless"
    baseline = results.by_id(result.row.baseline)
    titled = len(result.row.metrics) > 1
    return "; ".join(
        (f"{METRICS[name].title}: " if titled else "") + compare_rows(result, baseline, name)
        for name in result.row.metrics
    )


def fingerprints(results: Results) -> list[str]:
    """Each distinct fingerprint of each metric as one line; where rows differ, with the rows that have it."""
    lines = []
    for name, metric in results.table.shown_metrics.items():
        texts: dict[str, list[str]] = {}
        for result in results.rows:
            if fingerprint := result.fingerprint(name):
                text = " · ".join(f"{key}: {_plain(value)}" for key, value in fingerprint.items())
                texts.setdefault(text, []).append(result.row.title)
        for text, titles in texts.items():
            whose = [metric.title] * (len(results.table.shown_metrics) > 1) + titles * (len(texts) > 1)
            lines.append(f"{', '.join(whose)}: {text}" if whose else text)
    return lines


def cautions(results: Results) -> list[str]:
    """Where a set has fewer images than the features have dimensions, so that the distance is biased upwards."""
    lines = []
    for result, metric in [(row, name) for row in results.rows for name in row.row.metrics]:
        fingerprint = result.fingerprint(metric)
        dimensions = fingerprint.get("dimensions")
        if "ddof" not in fingerprint:  # no Fréchet distance
            continue
        for name in ("real_nimg", "generated_nimg", "real_nclip", "generated_nclip"):
            nimg = fingerprint.get(name)
            if isinstance(dimensions, int) and isinstance(nimg, int) and nimg < dimensions:
                lines.append(
                    f"{result.row.title}: {name} is {nimg}, fewer than the {dimensions} dimensions of the features: "
                    "the distance is biased upwards, compare it with equal numbers of images only."
                )
    return lines


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:16] + "…" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text


def facts(results: Results) -> list[tuple[str, str]]:
    """What was run, where, and on what, as (name, text)."""
    found = []
    for name in dict.fromkeys(result.row.dataset for result in results.rows):
        info = results.datasets.get(name)
        if info:
            skipped = f", {info['skipped']} broken ones left out" if info["skipped"] else ""
            size = f"{info['nimg']} images of {info['resolution_px']} px{skipped}"
            title, content = results.table.datasets[name].title, info["content_sha256"][:16]
            found.append(("data", f"{title}: {size}, content {content}…"))
    entry = results.first_entry
    if entry:
        commit = str(entry.git.get("commit") or "not a git checkout")[:12]
        found.append(("code", commit + (" with local changes" if entry.git.get("dirty") else "")))
        found += _host_facts(results)
        found.append(("versions", ", ".join(f"{name} {version}" for name, version in entry.versions.items())))
        impl = next(
            (r.entry.trainer["mtm_impl"] for r in results.rows if r.entry and "mtm_impl" in r.entry.trainer), None
        )
        found += [("mtm_ops kernels", impl)] if impl else []
        found.append(("machine", _machine(entry.machine)))
        found.append(("seeds", ", ".join(sorted({str(run.seed) for r in results.rows for run in r.runs if run.entry}))))
        found.append(("finished", entry.time_utc))
    if results.calls:
        peak_gb = max(call.peak_rss_bytes for call in results.calls) / 1e9
        elapsed = duration_text(sum(call.wall_s for call in results.calls))
        times = f" in {len(results.calls)} calls" if len(results.calls) > 1 else ""
        found.append(("everything", f"{elapsed}{times}, at most {peak_gb:.2f} GB of memory for all processes together"))
    return found


def _host_facts(results: Results) -> list[tuple[str, str]]:
    """A line per state of an official codebase that a row was trained with."""
    texts: dict[tuple[str, str], None] = {}
    for result in results.rows:
        if result.entry and result.entry.host:
            host = result.entry.host
            patches = (
                ", ".join(f"{name} {digest[:8]}" for name, digest in host.get("patches", {}).items()) or "no patch"
            )
            edits = f", local changes {host['modified'][:8]}" if host.get("modified") else ""
            texts[f"vendor/{host.get('name')}", f"{str(host.get('commit'))[:12]}, {patches}{edits}"] = None
    return list(texts)


def _machine(machine: dict[str, Any]) -> str:
    parts = [f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('memory_gb')} GB"]
    if machine.get("gpus"):
        parts.append(f"{len(machine['gpus'])} x {machine['gpus'][0]}, driver {machine.get('driver')}")
    return "; ".join(parts)


def commands(results: Results) -> list[str]:
    lines = [line for result in results.rows for run in result.runs if run.entry for line in run.entry.commands]
    return list(dict.fromkeys(lines))  # runs share the command that makes their data

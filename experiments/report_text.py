"""Texts of the report about a table's rows: fingerprints, cautions, and how the table was made."""

import json
from typing import Any

from experiments.progress import duration_text
from experiments.results import Results


def fingerprints(results: Results) -> list[tuple[str, list[str]]]:
    """How each metric was computed, as (what all rows share, one line per group of rows with the differences)."""
    found = []
    several = len(results.table.shown_metrics) > 1
    for name, metric in results.table.shown_metrics.items():
        groups: dict[str, list[str]] = {}
        for result in results.rows:
            if fingerprint := result.fingerprint(name):
                groups.setdefault(json.dumps(fingerprint), []).append(result.row.title)
        prints = [json.loads(text) for text in groups]
        if not prints:
            continue
        shared = {key: value for key, value in prints[0].items() if all(one.get(key) == value for one in prints)}
        others = [
            f"{'; '.join(titles)}: {_pairs({key: value for key, value in one.items() if key not in shared})}"
            for one, titles in zip(prints, groups.values(), strict=True)
        ]
        head = f"{metric.title}: " if several else ""
        found.append((head + _pairs(shared), others if len(prints) > 1 else []))
    return found


def _pairs(fingerprint: dict[str, Any]) -> str:
    return " · ".join(f"{key}: {_plain(value)}" for key, value in fingerprint.items())


def cautions(results: Results) -> list[str]:
    """Warnings about Fréchet distances that are biased upwards because a set has fewer images than the features have
    dimensions."""
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
    """One line for each state of an official codebase that a row was trained with."""
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
    return list(dict.fromkeys(lines))  # several runs may have the same command that makes their data

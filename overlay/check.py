"""Checks the patch files: byte for byte if the upstream is fetched, else as far as possible without it."""

from collections.abc import Collection
from itertools import combinations

from . import git
from .catalog import Host, composed, load_patches
from .errors import OverlayError, Problem
from .inserter import blob_hash, insert
from .patchfile import Patch, render


def check(hosts: list[Host], selected: Collection[str] = ()) -> tuple[list[str], list[Problem]]:
    """(what was found, what is wrong) for all hosts."""
    found: list[str] = []
    problems: list[Problem] = []
    for host in hosts:
        problems += _listing(host) + _gitlink(host)
        try:
            patches = {c: p for c, p in load_patches(host).items() if not selected or c in selected}
        except OverlayError as refusal:
            problems += refusal.problems
            continue
        problems += [p for concern, patch in patches.items() for p in _canonical(host, concern, patch)]
        how, wrong = _hashes(host, patches)
        problems += wrong
        lines = sum(p.line_count for p in patches.values())
        found.append(
            f"{host.name}: {len(patches)} patches, {lines} lines; {how}" if patches else f"{host.name}: no patches"
        )
    return found, problems


def _listing(host: Host) -> list[Problem]:
    there = sorted(p.stem for p in host.patch_folder.glob("*.patch"))
    name = f"patches/{host.name}/series"
    return [
        Problem(f"check: {host.patch_name(c)} must be listed in {name}; got no such line. Add it where it belongs.")
        for c in there
        if c not in host.series
    ]


def _gitlink(host: Host) -> list[Problem]:
    links = git.gitlinks(host.root)
    got = links.get(host.vendor) if links is not None else host.commit  # a tarball has no gitlinks to compare
    if got == host.commit:
        return []
    return [
        Problem(
            f"check: {host.vendor} must be pinned to the commit in patches/upstreams.toml; expected {host.commit}, "
            f"got {got or 'no submodule'}. Run: git -C {host.vendor} checkout {host.commit} && git add {host.vendor}"
        )
    ]


def _canonical(host: Host, concern: str, patch: Patch) -> list[Problem]:
    if host.patch_path(concern).read_bytes() == render(patch):
        return []
    text = "be written as refresh writes it (no blank lines on top, '# ' comments, git's hunk numbers)"
    return [Problem(f"check: {host.patch_name(concern)} must {text}; got another form. Run refresh on it.")]


def _hashes(host: Host, patches: dict[str, Patch]) -> tuple[str, list[Problem]]:
    checkout = git.open_checkout(host.folder)
    blobs = git.tree_blobs(checkout, host.commit) if checkout else None
    if checkout is None or blobs is None:
        return f"hashes not checked, because {host.vendor} does not have the pinned commit (not fetched)", []
    problems: list[Problem] = []
    for path in dict.fromkeys(f.path for p in patches.values() for f in p.files):
        mode, blob = blobs.get(path, ("", ""))
        pristine = git.read_blobs(checkout, [blob])[blob] if mode.startswith("100") else None
        problems += _file_hashes(host, patches, path, pristine)
    return "every hash holds", problems


def _file_hashes(host: Host, patches: dict[str, Patch], path: str, pristine: bytes | None) -> list[Problem]:
    problems: list[Problem] = []
    good = {}
    for concern, file in ((c, f) for c, p in patches.items() for f in p.files if f.path == path):
        name = f"{host.patch_name(concern)} ({path})"
        before = blob_hash(pristine) if pristine is not None else "no such file"
        if before != file.before:
            problems.append(
                Problem(f"check: {name} must be made for the pinned file; expected {before}, got {file.before}.")
            )
            continue
        assert pristine is not None
        try:
            composed(host, path, pristine, {concern: file})
            good[concern] = file.insertions
        except OverlayError as refusal:
            problems += refusal.problems
    if pristine is not None:
        seen: dict[str, tuple[str, ...]] = {}
        for chosen in (c for n in range(len(good) + 1) for c in combinations(good, n)):
            twin = seen.setdefault(blob_hash(insert(pristine, {c: good[c] for c in chosen})), chosen)
            if twin != chosen:
                sets = " and ".join("+".join(s) or "nothing" for s in (twin, chosen))
                problems.append(
                    Problem(f"check: {host.name} ({path}) must tell its concerns apart; got the same for {sets}.")
                )
    return problems

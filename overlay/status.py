"""The state of each host, and all problems of all hosts."""

from collections.abc import Collection
from dataclasses import dataclass

from .errors import ABSENT, COMMAND, MODIFIED, NOT_APPLIED, OK, STALE
from .git import changed_paths
from .plan import where
from .tree import FileView, Tree


@dataclass(frozen=True)
class Status:
    code: int
    lines: tuple[str, ...]


def status(tree: Tree, selected: Collection[str]) -> Status:
    """One heading, `host: state, state`, and one line for each remark."""
    if tree.checkout is None:
        if not tree.patches:
            return Status(OK, (f"{tree.host.name}: absent (no patches for it yet)",))
        return Status(ABSENT, (f"{tree.host.name}: absent", f"  run: {COMMAND} apply --host {tree.host.name}"))
    code, lines = _concerns(tree, [c for c in tree.patches if not selected or c in selected])
    states = [{OK: "applied", NOT_APPLIED: "partly applied" if _any(tree) else "pristine"}[code]]
    if not tree.patches:
        states = ["pristine, no patches for it yet"]
    for name, found, one in (("stale", _stale(tree), STALE), ("modified", _modified(tree), MODIFIED)):
        if found:
            states.append(name)
            lines += found
            code = max(code, one)
    if tree.patches and any(v.current is None for v in tree.files.values()) and not _any(tree):
        states = states[1:]  # with unknown files and no known concern, 'pristine' would be a guess
    return Status(code, (f"{tree.host.name}: {', '.join(states)}", *lines))


def _any(tree: Tree) -> bool:
    return any(v.current for v in tree.files.values())


def _concerns(tree: Tree, concerns: list[str]) -> tuple[int, list[str]]:
    code, lines = OK, []
    for concern in concerns:
        files = [tree.files[f.path] for f in tree.patches[concern].files]
        have = sum(concern in (v.current or ()) and not v.interrupted for v in files)
        interrupted = any(v.interrupted for v in files)
        state = "applied" if have == len(files) else f"in {have} of {len(files)} files" if have else "not applied"
        hint = " (a run was interrupted: apply finishes it, revert undoes it)" if interrupted else ""
        lines.append(f"  {concern}: {state}{hint}")
        code = code if have == len(files) else NOT_APPLIED
    return code, lines


def _stale(tree: Tree) -> list[str]:
    lines = []
    if tree.patches and not tree.at_pin and tree.checkout is not None:
        lines.append(f"  at commit {tree.checkout.head}, patches are for {tree.host.commit}")
    if tree.committed and tree.checkout is not None:
        lines.append(f"  commit {tree.checkout.head[:10]} has lines of ours in it (apply and revert say what to do)")
    for view in tree.files.values():
        if view.stale:
            lines.append(f"  {where(tree.host, view)}: not the file that {', '.join(view.stale)} was made for")
        if view.older:
            lines.append(
                f"  {where(tree.host, view)}: has lines of an older version of the patches (apply renews them)"
            )
    return lines


def _modified(tree: Tree) -> list[str]:
    lines = []
    for view in tree.files.values():
        name = where(tree.host, view)
        if view.current is None:
            lines.append(f"  {name}: edits that no patch explains{_damage(view)}")
        elif view.edited:
            lines.append(f"  {name}: edits of yours beside our lines, which apply and revert keep")
    if lines:
        lines.append(f"  see what is yours: {COMMAND} edits --host {tree.host.name}")
    # Edits of files that no patch touches do no harm, but matter to an auditor.
    others = [p for p in changed_paths(tree.checkout) if p not in tree.files] if tree.checkout else []
    return [*lines, *(f"  {tree.host.vendor}/{path}: edits that no patch explains" for path in others)]


def _damage(view: FileView) -> str:
    return f", to lines of {', '.join(view.damaged)} too" if view.damaged else ""

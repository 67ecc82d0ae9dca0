"""The command line: python tools/apply_patches.py COMMAND [--host NAME]... [--concern NAME]..."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from . import fs
from .catalog import Host, load_hosts, select_hosts
from .check import check as check_hosts
from .errors import EXIT_CODES, FAILED, OK, USAGE, OverlayError, Problem
from .fetch import fetch as fetch_hosts
from .git import Checkout, open_checkout
from .patchfile import parse, render
from .plan import Change, plan, where
from .record import locked
from .refresh import Refreshed
from .refresh import refresh as refresh_tree
from .show import changed_lines
from .show import edits as edits_of
from .show import show as show_trees
from .status import status as status_of
from .transaction import commit, note
from .tree import Tree, read_tree

_ROOT = Path(__file__).resolve().parents[1]


def _options(*, write: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        if write:
            command = click.option("--dry-run", is_flag=True, help="Print what would be written; write nothing.")(
                command
            )
        concern = click.option(
            "--concern", "concerns", multiple=True, help="Only this concern: one of a host's patches (repeatable)."
        )
        host = click.option(
            "--host", "hosts", multiple=True, help="Only this host: a codebase under vendor/ (repeatable)."
        )
        return host(concern(command))

    return decorate


@click.group(epilog=EXIT_CODES)
@click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), default=_ROOT, help="The repository to work on."
)
@click.pass_context
def cli(context: click.Context, root: Path) -> None:
    """Insert our lines into the official codebases (hosts) under vendor/; remove, show, check and update them."""
    context.obj = root.resolve()


@cli.command()
@_options(write=True)
@click.pass_obj
def apply(root: Path, hosts: tuple[str, ...], concerns: tuple[str, ...], dry_run: bool) -> None:
    """Insert the patches' lines; first fetch missing checkouts. If any host is refused, nothing is written.

    Running it again changes nothing. Your own edits stay, and are listed.
    """
    _write(root, "apply", hosts, concerns, dry_run)


@cli.command()
@_options(write=True)
@click.pass_obj
def revert(root: Path, hosts: tuple[str, ...], concerns: tuple[str, ...], dry_run: bool) -> None:
    """Remove the patches' lines. Your own edits stay, and are listed."""
    _write(root, "revert", hosts, concerns, dry_run)


def _write(root: Path, verb: str, names: tuple[str, ...], concerns: tuple[str, ...], dry_run: bool) -> None:
    hosts = select_hosts(load_hosts(root), names, concerns)
    with _opened(hosts, write=not dry_run, fetch=verb == "apply" and not dry_run) as checkouts:
        trees = [read_tree(h, checkouts[h.name]) for h in hosts]
        changes = plan(trees, verb, concerns)
        if not dry_run:
            commit(trees, changes, verb)
    done = {"apply": "patched", "revert": "restored"}[verb]
    for tree in trees:
        _report(tree, [c for c in changes if c.tree is tree], f"would be {done}" if dry_run else done)


@contextmanager
def _opened(hosts: list[Host], *, write: bool, fetch: bool = False) -> Iterator[dict[str, Checkout | None]]:
    """The hosts' checkouts by name; if `write`, they are locked before anything is read."""
    checkouts = _checkouts(hosts, fetch=fetch)
    with locked([c for c in checkouts.values() if c and write]):
        yield checkouts


def _checkouts(hosts: list[Host], *, fetch: bool = False) -> dict[str, Checkout | None]:
    checkouts = {h.name: open_checkout(h.folder) for h in hosts}
    if absent := [h for h in hosts if fetch and h.series and not checkouts[h.name]]:
        fetch_hosts(absent)
        checkouts |= _checkouts(absent)
    return checkouts


def _report(tree: Tree, changes: list[Change], done: str) -> None:
    name = tree.host.name
    for number, change in enumerate(changes, start=1):
        has = ", ".join(change.aim.concerns) or "pristine"
        click.echo(f"* {name} ({number}/{len(changes)}) {tree.host.vendor}/{change.path}: {done}, now {has}")
    if not tree.patches:
        click.echo(f"* {name}: no patches")
    elif tree.checkout is None:
        click.echo(f"* {name}: not fetched, nothing to restore")
    elif not changes:
        click.echo(f"* {name}: nothing to do")
    if kept := [v for v in tree.files.values() if v.current is not None and v.edited]:
        click.echo(f"* {name}: edits of yours were kept, in {', '.join(where(tree.host, v) for v in kept)}:")
        click.echo("\n".join(f"    {line}" for line in changed_lines(tree.host, kept)))


@cli.command()
@_options()
@click.pass_obj
def status(root: Path, hosts: tuple[str, ...], concerns: tuple[str, ...]) -> None:
    """Print which concerns are applied, and every problem; the exit code is that of the worst problem."""
    code = OK
    problems: list[Problem] = []
    for host in select_hosts(load_hosts(root), hosts, concerns):
        try:
            found = status_of(read_tree(host, open_checkout(host.folder)), concerns)
        except OverlayError as refusal:
            problems += refusal.problems
            continue
        code = max(code, found.code)
        click.echo("\n".join(found.lines))
    if problems:
        raise OverlayError(*problems, *([Problem("status: see above for the other hosts.", code)] if code else []))
    sys.exit(code)


@cli.command()
@_options()
@click.option(
    "--context",
    "-U",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Context lines around an insertion.",
)
@click.pass_obj
def show(root: Path, hosts: tuple[str, ...], concerns: tuple[str, ...], context: int) -> None:
    """Print every inserted line with context, one diff per host. git apply accepts it. Coloured on a terminal."""
    trees = _trees(root, hosts, concerns, fetch=True)
    _print(show_trees(trees, concerns, f"--unified={context}", _colour()))


@cli.command()
@_options()
@click.pass_obj
def edits(root: Path, hosts: tuple[str, ...], concerns: tuple[str, ...]) -> None:
    """Print your own edits in the patched files, as a diff that git apply -R removes."""
    _print(edits_of(_trees(root, hosts, concerns), _colour()))


def _trees(root: Path, names: tuple[str, ...], concerns: tuple[str, ...], *, fetch: bool = False) -> list[Tree]:
    hosts = select_hosts(load_hosts(root), names, concerns)
    checkouts = _checkouts(hosts, fetch=fetch)
    return [read_tree(h, checkouts[h.name]) for h in hosts]


def _colour() -> str:
    return "--color=always" if _on_terminal() else "--color=never"


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def _print(parts: Iterator[str]) -> None:
    text = "".join(list(parts))  # complete, or nothing if it is refused
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")  # bytes unchanged
    sys.stdout.write(text)


@cli.command()
@click.option("--host", required=True, help="The host whose checkout was edited.")
@click.option("--concern", required=True, help="The concern that the edit belongs to.")
@click.option("--why", help="Why the patch exists: its opening comment. Required for a new patch.")
@click.option("--drop", multiple=True, metavar="FILE", help="Remove this file's lines from the patch (repeatable).")
@click.option("--dry-run", is_flag=True, help="Print the patch; write nothing.")
@click.pass_obj
def refresh(root: Path, host: str, concern: str, why: str | None, drop: tuple[str, ...], dry_run: bool) -> None:
    """Write one concern's patch again from the edited checkout. Any edit that is not an insertion is refused."""
    (chosen,) = select_hosts(load_hosts(root), [host], [])
    if concern not in chosen.series:
        text = f"--concern must be listed in patches/{host}/series; got {concern!r}. Add a line where it belongs."
        raise OverlayError(Problem(text, USAGE))
    with _opened([chosen], write=not dry_run) as checkouts:
        tree = read_tree(chosen, checkouts[host], missing_ok=concern)
        new = refresh_tree(tree, concern, why, drop)
        _store(chosen, tree, concern, new, dry_run)


def _store(host: Host, tree: Tree, concern: str, new: Refreshed, dry_run: bool) -> None:
    data, path = render(new.patch), host.patch_path(concern)
    if parse(data, host.patch_name(concern)) != new.patch:
        raise AssertionError("a patch must read back as it was written")
    if dry_run:
        click.echo(data.decode(), nl=False)
        return
    same = path.exists() and path.read_bytes() == data
    if not same:
        fs.discard(path)
        fs.write_atomic(path, data)
        note(tree, new.written)
    click.echo(f"* {host.patch_name(concern)}: {'unchanged' if same else 'written'}, {new.patch.line_count} lines")


@cli.command()
@_options()
@click.pass_obj
def check(root: Path, hosts: tuple[str, ...], concerns: tuple[str, ...]) -> None:
    """Check that the patch files parse, give a reason, are listed and match their hashes. Needs no checkouts."""
    found, problems = check_hosts(select_hosts(load_hosts(root), hosts, concerns), concerns)
    for line in found:
        click.echo(line)
    if problems:
        raise OverlayError(*problems)


def main(arguments: list[str] | None = None) -> None:
    """Run a command. A refusal prints each problem separately, and determines the exit code."""
    try:
        cli.main(arguments, prog_name="apply_patches.py", standalone_mode=True)
    except OverlayError as refusal:
        for problem in refusal.problems:
            click.echo(problem.text, err=True)
        sys.exit(refusal.code)
    except OSError as error:
        click.echo(f"apply_patches: I/O error: {error}. Fix the cause, then run the same command again.", err=True)
        sys.exit(FAILED)

"""A small repository with two hosts under vendor/ and patches for them, on which the engine's tests run."""

import contextlib
import io
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from overlay.cli import main
from overlay.inserter import blob_hash, insert
from overlay.patchfile import FilePatch, Insertion, Patch, render

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main", "-c", "core.autocrlf=false")

TRAIN = b"".join(b"train %d\n" % n for n in range(1, 21))
LAYER = b"".join(b"layer %d\n" % n for n in range(1, 11))
FILES = {
    "alpha": {"train.py": TRAIN, "net/layer.py": LAYER, "bom.py": b"\xef\xbb\xbfone\ntwo\n", "bare.py": b"one\ntwo"},
    "beta": {"train.py": TRAIN},
}
# Per file: (after line, lines). cpu and mtm both insert after train.py:7; mtm also inserts at the top of layer.py.
CONCERNS = {
    "alpha": {
        "compat": {"train.py": [(3, [b"compat A\n", b"compat B\n"])], "net/layer.py": [(10, [b"compat last\n"])]},
        "cpu": {"train.py": [(7, [b"cpu\n"]), (20, [b"cpu last\n"])]},
        "mtm": {"train.py": [(7, [b"mtm\n"])], "net/layer.py": [(0, [b"mtm first\n"]), (4, [b"mtm 1\n", b"mtm 2\n"])]},
    },
    "beta": {"compat": {"train.py": [(5, [b"beta compat\n"])]}},
}


@dataclass
class Done:
    code: int
    out: str
    err: str


def git(folder, *arguments, data=None, check=True):
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_DIR")}
    return subprocess.run([*GIT, "-C", str(folder), *arguments], input=data, capture_output=True, check=check, env=env)


def make_repo(folder, files):
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "upstream")


def file_patch(path, pristine, places):
    insertions = tuple(Insertion(after, tuple(lines)) for after, lines in places)
    return FilePatch(path, blob_hash(pristine), blob_hash(insert(pristine, {"c": insertions})), insertions)


def expected(host, path, concerns):
    """The file's contents with these concerns, assembled here without the engine."""
    lines = FILES[host][path].splitlines(keepends=True)
    places = [(after, n, new) for n, c in enumerate(CONCERNS[host]) if c in concerns
              for after, new in CONCERNS[host][c].get(path, [])]  # fmt: skip
    for after, _, new in sorted(places, key=lambda p: (-p[0], -p[1])):
        lines[after:after] = new
    return b"".join(lines)


class Lab:
    def __init__(self, root: Path):
        self.root = root

    def folder(self, host="alpha"):
        return self.root / "vendor" / host

    def file(self, path="train.py", host="alpha"):
        return self.folder(host) / path

    def run(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(["--root", str(self.root), *arguments])
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return Done(code, out.getvalue(), err.getvalue())

    def ok(self, *arguments):
        done = self.run(*arguments)
        assert done.code == 0, done
        return done

    def contents(self):
        """Every file in the hosts' work trees, including stray temporary files: path -> bytes."""
        vendor = self.root / "vendor"
        return {
            str(p.relative_to(vendor)): p.read_bytes()
            for p in sorted(vendor.rglob("*"))
            if p.is_file() and ".git" not in p.relative_to(vendor).parts
        }

    def want(self, concerns=("compat", "cpu", "mtm")):
        """The expected contents() with these concerns applied in every host."""
        return {f"{h}/{p}": expected(h, p, concerns) for h in FILES for p in sorted(FILES[h])}

    def write_patch(self, host, concern, files, why="Why: a test needs it."):
        pristine = {p: git(self.folder(host), "cat-file", "blob", f"HEAD:{p}").stdout for p in files}
        patch = Patch((why,), tuple(file_patch(p, pristine[p], places) for p, places in files.items()))
        folder = self.root / "patches" / host
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{concern}.patch").write_bytes(render(patch))

    def write_upstreams(self, hosts=tuple(FILES)):
        text = ""
        for host in hosts:
            head = git(self.folder(host), "rev-parse", "HEAD").stdout.decode().strip()
            text += f'[{host}]\nurl = "https://example.org/{host}"\ncommit = "{head}"\n'
            text += f'licence = "none"\nvendor = "vendor/{host}"\n\n'
        (self.root / "patches").mkdir(exist_ok=True)
        (self.root / "patches" / "upstreams.toml").write_text(text)

    def forget(self, host="alpha"):
        """Delete the record, so that only the files' bytes show what is applied."""
        (self.folder(host) / ".git" / "mtm-overlay.json").unlink(missing_ok=True)


def build_template(root):
    lab = Lab(root)
    for host, files in FILES.items():
        make_repo(lab.folder(host), files)
    lab.write_upstreams()
    for host, concerns in CONCERNS.items():
        for concern, files in concerns.items():
            lab.write_patch(host, concern, files)
        (root / "patches" / host / "series").write_text("# order matters\n" + "\n".join(concerns) + "\n")
    git(root, "init", "-q")
    git(root, "-c", "advice.addEmbeddedRepo=false", "add", "vendor", "patches")
    git(root, "commit", "-qm", "ours")
    return root

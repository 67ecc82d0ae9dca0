"""Sources in every format are listed in the same order and read without unpacking; untrustworthy files are refused."""

import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from sources_lab import folder, image, lmdb_folder, packed_tar, packed_zip, tar_bytes

from experiments.datasets.items import read_item
from experiments.datasets.listing import list_items
from experiments.files import UserError

FILES = {f"a/{i}.png": image(i) for i in (0, 9, 10)} | {"b/x.png": image(3), "notes.txt": b"text"}


def read(path: Path) -> dict[str, bytes]:
    return {item.name: read_item(item) for item in list_items(path)}


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        list_items(path)
    return str(caught.value)


def sources(tmp_path: Path) -> dict[str, Path]:
    a = {name.removeprefix("a/"): data for name, data in FILES.items() if name.startswith("a/")}
    rest = {name: data for name, data in FILES.items() if not name.startswith("a/")}
    return {
        "folder": folder(tmp_path / "folder", FILES),
        "zip": packed_zip(tmp_path / "deflated.zip", FILES),
        "stored zip": packed_zip(tmp_path / "stored.zip", FILES, zipfile.ZIP_STORED),
        "tar": packed_tar(tmp_path / "flat.tar", FILES),
        "tar of tars": packed_tar(tmp_path / "nested.tar", {"a.tar": tar_bytes(a)} | rest),
        "folder of tars": folder(tmp_path / "tars", {"a.tar": tar_bytes(a)} | rest),
        "folder of zips": folder(tmp_path / "zips", rest | {"a.zip": packed_zip(tmp_path / "a.zip", a).read_bytes()}),
    }


def test_every_format_gives_the_same_names_in_order_with_the_same_bytes(tmp_path):
    for kind, path in sources(tmp_path).items():
        found = read(path)
        assert list(found) == ["a/0.png", "a/10.png", "a/9.png", "b/x.png", "notes.txt"], kind
        assert found == FILES, kind


def test_an_lmdb_gives_its_values_by_key_whether_its_folder_or_its_file_is_given(tmp_path):
    values = {"0c3": b"three", "0a1": b"one", "0b2": b"\xff" * 5000}
    path = lmdb_folder(tmp_path / "deep" / "church_lmdb", values)
    for given in (path, path / "data.mdb", path.parent):
        assert read(given) == values


def test_hidden_files_are_left_out_and_linked_files_of_a_folder_are_read(tmp_path):
    path = folder(tmp_path / "in", {"a.png": b"a", ".b.png": b"b", "__MACOSX/a.png": b"c"})
    folder(tmp_path / "elsewhere", {"d.png": b"d"})
    (path / "link").symlink_to(tmp_path / "elsewhere")
    assert read(path) == {"a.png": b"a", "link/d.png": b"d"}


def test_members_that_lead_out_are_refused(tmp_path):
    for name in ("../evil.png", "a/../../evil.png", "/evil.png"):
        for make in (packed_zip, packed_tar):
            message = refused(make(tmp_path / f"in{make.__name__}", {"a.png": b"", name: b""}))
            assert f"names in an archive must stay inside it; got {name!r}" in message
    inner = tar_bytes({"../evil.png": b""})
    assert "must stay inside" in refused(packed_tar(tmp_path / "outer.tar", {"a.tar": inner}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    path = tmp_path / "in.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    assert "a tar must hold files and folders only; got 'a.png'" in refused(path)


def test_a_cut_tar_and_a_cut_zip_are_named_with_the_next_step(tmp_path):
    whole = tar_bytes({"a.png": b"x" * 5000, "b.png": b"y" * 5000})
    for length in (3000, 9000):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        assert "cut.tar" in refused(tmp_path / "cut.tar")
    (tmp_path / "outer.tar").write_bytes(tar_bytes({"n01.tar": whole[:9000]}))
    assert "truncated. Copy or make it again." in refused(tmp_path / "outer.tar")
    packed = packed_zip(tmp_path / "cut.zip", FILES)
    packed.write_bytes(packed.read_bytes()[:-40])
    assert "which is none of these, or is truncated" in refused(packed)


def test_a_cut_lmdb_is_refused_rather_than_read_past_its_end(tmp_path):
    path = lmdb_folder(tmp_path / "in", {f"{i:04d}": os.urandom(9000) for i in range(50)})
    with (path / "data.mdb").open("rb+") as file:
        file.truncate(200_000)
    assert "data.mdb is truncated (200000 of " in refused(path)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "data.mdb").write_bytes(b"no database" * 1000)
    assert "Failed to open the LMDB" in refused(tmp_path / "none")


def test_what_is_no_source_is_refused_with_the_next_step(tmp_path):
    (tmp_path / "text").write_text("text")
    assert "must be a folder, a zip, a tar, or an LMDB's folder" in refused(tmp_path / "text")
    assert "must exist" in refused(tmp_path / "absent")
    with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "text", "text")
    assert "must not be compressed" in refused(tmp_path / "in.tar.gz")
    assert "gunzip" in refused(tmp_path / "in.tar.gz")


def test_an_encrypted_zip_and_a_name_that_stands_twice_are_refused(tmp_path):
    packed = packed_zip(tmp_path / "in.zip", {"a.png": b"a"})
    data = bytearray(packed.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    packed.write_bytes(data)
    assert "'a.png' in" in refused(packed)
    assert "encrypted" in refused(packed)
    twice = folder(tmp_path / "twice", {"n01/a.png": b"a", "n01.tar": tar_bytes({"a.png": b"a"})})
    assert "a name must occur once; got 'n01/a.png'" in refused(twice)


def test_a_damaged_member_is_a_broken_file_not_a_wrong_one(tmp_path):
    packed = packed_zip(tmp_path / "in.zip", {"a.png": image(0), "b.png": image(1)}, zipfile.ZIP_STORED)
    first, second = list_items(packed)
    data = bytearray(packed.read_bytes())
    data[first.offset + 60] ^= 255
    packed.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        read_item(first)
    assert read_item(second) == image(1)
    with pytest.raises(ValueError, match="no member begins"):
        read_item(second._replace(offset=5))
    with pytest.raises(ValueError, match="truncated"):
        read_item(second._replace(offset=packed.stat().st_size - 10))


def test_a_fifo_in_a_folder_does_not_block(tmp_path):
    path = folder(tmp_path / "in", {"a.png": b"a"})
    os.mkfifo(path / "b.png")
    with pytest.raises(ValueError, match="not a regular file"):
        read_item(list_items(path)[1])


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.datasets.items.MAX_FILE_BYTES", 1 << 20)
    (bomb,) = list_items(packed_zip(tmp_path / "in.zip", {"bomb.png": bytes(64 << 20)}))
    with pytest.raises(ValueError, match="has 67 MB, more than 1 MB"):
        read_item(bomb)

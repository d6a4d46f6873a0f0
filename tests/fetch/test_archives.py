import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from igc.errors import FetchError
from igc.fetch.archives import extract

MakeTar = Callable[[list[tarfile.TarInfo]], Path]


def entry(name: str, size: int = 3, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size if kind == tarfile.REGTYPE else 0
    return info


def test_nothing_lands_outside_the_folder(make_tar: MakeTar, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    archive = make_tar([entry("../../up.txt"), entry("/abs.txt"), entry("ok/in.txt")])
    sizes = extract(archive, ("*",), folder)
    assert sizes == {"up.txt": 3, "abs.txt": 3, "in.txt": 3}
    assert set(tmp_path.rglob("*")) - before == {archive, *(folder / name for name in sizes)}


def test_links_and_devices_are_left_out(make_tar: MakeTar, tmp_path: Path) -> None:
    archive = make_tar(
        [
            entry("passwords", kind=tarfile.SYMTYPE, link="/etc/passwd"),
            entry("hard", kind=tarfile.LNKTYPE, link="/etc/passwd"),
            entry("pipe", kind=tarfile.FIFOTYPE),
            entry("file.txt"),
        ]
    )
    folder = tmp_path / "out"
    folder.mkdir()
    assert extract(archive, ("*",), folder) == {"file.txt": 3}
    assert [path.name for path in folder.iterdir()] == ["file.txt"]


def test_two_members_of_one_name_are_refused(make_tar: MakeTar, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="two members named 'same'"):
        extract(make_tar([entry("a/same"), entry("b/same")]), ("*",), tmp_path)


def test_a_pattern_without_a_member_is_an_error(make_tar: MakeTar, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"no member 'b/\*'"):
        extract(make_tar([entry("a/file")]), ("b/*",), tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06 not a zip", b"\x1f\x8b garbage", b"plain text"])
def test_a_damaged_archive_is_an_error(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken"
    file.write_bytes(content)
    with pytest.raises(FetchError, match="not a readable archive"):
        extract(file, ("*",), tmp_path)

"""smg-proto diff in somebody else's repository: roots, imports, modules, broken files, reviews."""

import json
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import need, run

from smg_proto.cli import main
from smg_proto.compat import ContractError, diff, load, read_acceptances
from smg_proto.compat._programs import ProgramError
from smg_proto.compat._sources import included

Files = dict[str, str]


def proto(package: str, body: str, *imports: str) -> str:
    lines = "".join(f'import "{name}";\n' for name in imports)
    return f'syntax = "proto3";\npackage {package};\n{lines}{body}\n'


MONEY = proto("money", "message Money { int64 units = 1; }")
SHOP = proto(
    "shop", "message Order {\n  int32 id = 1;\n  money.Money price = 2;\n}", "money/money.proto"
)


class Compilers:
    """In place of installed compilers: each records how it is called, and fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, output: str = "no") -> None:
        self.output = output
        self.commands: list[Sequence[str]] = []
        self.files: list[Files] = []  # of the folder in which each is called
        self.names: list[str] = []
        monkeypatch.setattr("smg_proto.compat._compile.program", str)  # found
        monkeypatch.setattr("smg_proto.compat._compile.find_spec", str)  # found
        monkeypatch.setattr("smg_proto.compat._compile.run", self.run)

    def run(self, command: Sequence[str], origin: str, *, seconds: float, cwd: Path) -> None:
        self.commands.append(command)
        found = [path for path in cwd.rglob("*") if path.is_file()]
        self.files.append(
            {p.relative_to(cwd).as_posix(): p.read_text(encoding="utf-8") for p in found}
        )
        if command[-1].startswith("@"):
            self.names = Path(command[-1][1:]).read_text(encoding="utf-8").split()
        raise ProgramError(f"{origin}: {command[0]} failed", self.output)


def write(folder: Path, files: Files) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def build(folder: Path) -> str:
    """A descriptor set of the folder, by the buf beside Python."""
    run("buf", "build", "-o", "set.binpb", cwd=folder)
    return str(folder / "set.binpb")


def commit(folder: Path) -> None:
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words, cwd=folder)


# --- under which name a file is imported ---------------------------------------------------------


def at(shop: str, money: str, **more: str) -> Files:
    """The two files where they lie, and others; a name's __ is its dot."""
    return {f"{shop}/shop.proto": SHOP, f"{money}/money.proto": MONEY} | {
        name.replace("__", "."): text for name, text in more.items()
    }


WORKSPACE = "version: v2 # two\nmodules:\n  - path: one\n    name: buf.build/a\n  - path: 'two'\n"
NESTED = {
    "x/one.proto": proto("one", "message One { two.Two t = 1; }", "two.proto"),
    "x/two.proto": proto("two", "message Two {}"),
}
FROM_ABOVE = SHOP.replace('"money/', '"org/repo/money/')


@pytest.mark.parametrize(
    "files",
    [
        at("shop", "money"),
        at("proto/shop", "proto/money"),
        at("lib/api/shop", "lib/api/money"),
        at("proto/shop", "third_party/money"),
        at("a/shop", "b/money"),
        {"shop.proto": FROM_ABOVE, "money/money.proto": MONEY},
        {"shop.proto": FROM_ABOVE, "money/money.proto": MONEY, **NESTED},
        at("p/shop", "p/money", buf__yaml="version: v2\nmodules:\n  - path: p\n"),
        at("one/shop", "two/money", buf__yaml=WORKSPACE),
        at(
            "one/shop", "two/money", buf__work__yaml="version: v1\ndirectories:\n  - one\n  - two\n"
        ),
        at("one/shop", "two/money", buf__yaml="version: v1beta1\nbuild:\n  roots: [one, two]\n"),
        at("x/shop", "x/money") | {"x/buf.yaml": "version: v1\n"},
    ],
)
def test_the_roots_of_a_repository_are_found(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("git")
    folder = write(tmp_path / "repository", files)
    assert "shop.Order" in load(folder).messages
    commit(folder)
    monkeypatch.chdir(folder)
    report = diff(load("git:HEAD"), load("."))
    assert report.findings == (), report.text()


@pytest.mark.parametrize(
    "config",
    [
        {"buf.yaml": "version: v2\nmodules:\n  - path: p\n    excludes:\n      - p/tests\n"},
        {"buf.yaml": "version: v1beta1\nbuild:\n roots: [p]\n excludes: [p/tests]\n"},
        {
            "buf.work.yaml": "version: v1\ndirectories: [p]\n",
            "p/buf.yaml": "version: v1\nbuild:\n  excludes: [tests]\n",
        },
    ],
)
def test_paths_that_buf_excludes_are_excluded(config: Files, tmp_path: Path) -> None:
    other = proto("other", "message Other {}")
    files = config | {
        "p/money/money.proto": MONEY,
        "p/tests/other.proto": "this is broken",
        "elsewhere/other.proto": other,
    }
    assert load(write(tmp_path, files)).packages == {"money"}


def test_modules_are_read_as_buf_reads_them(tmp_path: Path) -> None:
    """The same files under the same names, whether buf or we read its configuration."""
    config = """\
# A workspace.
version: v2
modules:
  - path: one
    excludes: [one/skipped]
  - path: two
    name: "buf.build/acme/two"
    includes:
    - two/money
deps: []
breaking:
  use:
    - FILE
"""
    folder = write(
        tmp_path,
        {
            "buf.yaml": config,
            "one/shop/shop.proto": SHOP,
            "one/skipped/a.proto": proto("a", "message A {}"),
            "two/money/money.proto": MONEY,
            "two/more/b.proto": proto("b", "message B {}"),
        },
    )
    run(need("buf"), "build", "-o", "buf.binpb", cwd=folder)
    report = diff(load(folder / "buf.binpb"), load(folder))
    assert report.findings == (), report.text()
    assert load(folder).own == load(folder / "buf.binpb").own


def test_every_layout_of_lists_and_mappings_in_a_configuration_is_read(tmp_path: Path) -> None:
    config = """\
deps:
version:\tv2
modules:
-
 path: one
 excludes:
  - one/skipped
-
- path: two
  includes:
  - two/money
lint:
"""
    files = at("one/shop", "two/money", buf__yaml=config) | {
        "one/skipped/a.proto": "broken",
        "two/more/b.proto": "broken",
        "three/c.proto": "broken",
    }
    assert load(write(tmp_path, files)).packages == {"shop", "money"}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("version: v2\n\tmodules:\n", "line 2 is indented with a tab"),
        (f"version: v2\n{'a' * 1001}: b\n", "line 2 has more than 1000 characters"),
        ("version: v2\n  modules:\n", "unexpected 'modules:'"),
        ("modules: {path: one}\n", "'{path: one}' is not supported here"),
        ("deps: [one,\n  two]\n", "'[one,' is not supported here"),
    ],
)
def test_a_configuration_that_is_not_understood_is_named_with_its_problem(
    config: str, problem: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, {"buf.yaml": config, "money.proto": MONEY})
    with pytest.raises(ContractError) as caught:
        load(folder)
    hint = "give the folder of the protos instead"
    assert str(caught.value) == f"{folder}: buf.yaml: {problem}; {hint}"


@pytest.mark.parametrize("kind", ["folder", "wheel", "crate"])
def test_imports_are_found_in_the_include_folders(kind: str, tmp_path: Path) -> None:
    shop = write(tmp_path / "shop", {"shop.proto": SHOP})
    with pytest.raises(ContractError, match=r"shop\.proto:3: imports money/money\.proto.* -I DIR"):
        load(shop)
    include = write(tmp_path / "include", {"money/money.proto": MONEY})
    if kind == "wheel":
        include = tmp_path / "include.whl"
        with zipfile.ZipFile(include, "w") as wheel:
            wheel.writestr("money/money.proto", MONEY)
    elif kind == "crate":
        include = tmp_path / "include.crate"
        with tarfile.open(include, "w:gz") as crate:
            member = tarfile.TarInfo("include-1.0/src/money/money.proto")
            member.size = len(MONEY)
            crate.addfile(member, BytesIO(MONEY.encode()))
    contract = load(shop, include=[include])
    # What is included is carried, and is not itself what is compared.
    assert contract.packages == {"shop"}
    assert "money.Money" in contract.messages
    assert main(["diff", str(shop), str(shop), "-I", str(include)]) == 0
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as wheel:
        wheel.writestr("tax.proto", proto("tax", ""))
    assert load(shop, include=[other, include]).messages.keys() == contract.messages.keys()


def test_nothing_outside_of_an_include_folder_is_looked_up(tmp_path: Path) -> None:
    folder = write(tmp_path, {"in/money.proto": MONEY, "out.proto": MONEY}) / "in"
    find = included([str(folder)])
    assert find("money.proto") == (MONEY.encode(), f"{folder}/money.proto")
    names = ("", "../out.proto", "../in/money.proto", f"{folder}/money.proto", "gone.proto")
    assert [find(name) for name in names] == [None] * len(names)


def test_what_only_an_included_file_extends_is_not_compared(tmp_path: Path) -> None:
    def side(name: str, kind: str) -> tuple[Path, Path]:
        body = f"extend google.protobuf.FieldOptions {{ {kind} unit = 50001; }}"
        unit = proto("shop", body, "google/protobuf/descriptor.proto")
        shop = proto("shop", "message Order { int32 id = 1; }", "unit.proto")
        return (
            write(tmp_path / name, {"shop.proto": shop}),
            write(tmp_path / f"{name}-include", {"unit.proto": unit}),
        )

    old, new = (
        load(folder, include=[include])
        for folder, include in (side("old", "int32"), side("new", "string"))
    )
    assert diff(old, new).verdict == "compatible"


def test_a_folder_of_a_revision_is_read_with_folders_of_the_same_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("git")
    folder = write(
        tmp_path / "r",
        {"api/v1/shop.proto": SHOP, "old/shop.proto": "broken", "vendor/money/money.proto": MONEY},
    )
    commit(folder)
    monkeypatch.chdir(folder)
    write(folder, {"vendor/money/money.proto": "broken by now"})
    assert load("git:HEAD:api/v1", include=["vendor"]).packages == {"shop"}
    assert load("git:HEAD:api/v1", include=["git:HEAD:vendor"]).packages == {"shop"}
    write(folder, {"other/money/money.proto": "another"})
    commit(folder)
    assert load("git:HEAD~1:api/v1", include=["vendor"]).packages == {"shop"}
    with pytest.raises(ContractError, match=r"imports money/money\.proto, which does not exist"):
        load("git:HEAD:api/v1")
    write(folder, {"vendor/money/money.proto": MONEY})
    commit(folder)
    assert load("git:HEAD:api/v1", include=["other/x", "vendor"]).packages == {"shop"}
    with pytest.raises(ContractError, match=r"no \.proto files in the folder no/such"):
        load("git:HEAD:no/such")


def test_the_message_for_a_missing_import_is_the_same_with_each_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = write(tmp_path, {"shop.proto": SHOP})
    words: list[str] = []
    for there in ({"buf": "buf"}, {"protoc": "protoc"}, {}):
        monkeypatch.setattr("smg_proto.compat._compile.program", lambda name, t=there: t.get(name))
        with pytest.raises(ContractError) as error:
            load(shop)
        words.append(str(error.value))
    assert len(set(words)) == 1


def test_every_compiler_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compilers = Compilers(monkeypatch)
    with pytest.raises(ContractError, match="buf failed"):
        load(write(tmp_path, at("shop", "money")))
    buf, grpc_tools, protoc = compilers.commands
    assert (buf[:3], protoc[0]) == (["buf", "build", "--config"], "protoc")
    assert grpc_tools[:3] == [sys.executable, "-m", "grpc_tools.protoc"]
    assert compilers.names == ["money/money.proto", "shop/shop.proto"]
    assert set(compilers.files[0]) == set(compilers.names)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_buf_alone_compiles_what_has_dependencies(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilers = Compilers(monkeypatch)
    config = f"version: {version}\ndeps:\n  - buf.build/acme/money\n"
    files = {"buf.yaml": config, "buf.lock": "# locked\n", "shop.proto": SHOP}
    with pytest.raises(ContractError, match="buf failed"):
        load(write(tmp_path, files))
    (command,), (sent,) = compilers.commands, compilers.files
    assert "--config" not in command
    wanted = {"version": version, "deps": ["buf.build/acme/money"]}
    assert json.loads(sent.pop("buf.yaml")) == wanted
    assert sent == {"buf.lock": "# locked\n", "shop.proto": SHOP}


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("money.proto:4:5: bad", ": {}/money.proto:4:5: bad"),
        (
            "two problems\nmoney.proto:3:1: warning: odd\nmoney.proto:4:5: bad\nmoney.proto:6: bad",
            ": {}/money.proto:4:5: bad (and 1 more)",
        ),
        ("x.proto:1:1: odd\nmoney.proto:4:5: bad", ": {}/money.proto:4:5: bad (and 1 more)"),
        ("x.proto:1:1: odd\ny.proto: bad", ": x.proto:1:1: odd (and 1 more)"),
        ("panic", ": buf failed"),
    ],
)
def test_the_first_error_of_the_compiler_is_shown(
    output: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Compilers(monkeypatch, output)
    with pytest.raises(ContractError) as caught:
        load(write(tmp_path, {"money.proto": MONEY}))
    assert str(caught.value) == str(tmp_path) + shown.format(tmp_path)


def test_what_included_files_import_is_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = proto("one", "message One { t.Two two = 1; t.Three three = 2; }", "b.proto", "c.proto")
    folder = write(tmp_path / "s", {"a.proto": one, "b.proto": proto("t", "message Two {}")})
    three = proto("t", "message Three { Four four = 1; }", "d.proto")
    first = write(tmp_path / "first", {"c.proto": three})
    second = write(tmp_path / "second", {"d.proto": proto("t", "message Four {}")})
    assert "t.Four" in load(folder, include=[first, second]).messages
    (folder / "b.proto").rename(first / "b.proto")
    monkeypatch.setattr("smg_proto.compat._limits.MAX_PROTO_FILES", 2)
    with pytest.raises(ContractError, match="imports more than 2 files"):
        load(folder, include=[first, second])


def test_a_configuration_without_any_proto_is_an_error(tmp_path: Path) -> None:
    config = "version: v2\nmodules:\n  - path: gone\n"
    folder = write(tmp_path, {"buf.yaml": config, "money.proto": MONEY})
    with pytest.raises(ContractError) as caught:
        load(folder)
    assert str(caught.value) == f"{folder}: no .proto files"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_unresolved_dependency_of_buf_is_named(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = f"version: {version}\ndeps:\n- buf.build/acme/money\n"
    shop = write(tmp_path / "s", {"buf.yaml": config, "shop.proto": SHOP})
    include = write(tmp_path / "include", {"money/money.proto": MONEY})
    assert load(shop, include=[include]).packages == {"shop"}
    monkeypatch.setattr("smg_proto.compat._compile.program", lambda name: None)
    with pytest.raises(ContractError, match="depends on buf"):
        load(shop)


# --- broken files --------------------------------------------------------------------------------


def test_a_broken_file_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, {"proto/a/a.proto": proto("a", "message A { strin x = 1; }")})
    assert main(["diff", str(folder), "self"]) == 2
    assert f"{folder}/proto/a/a.proto:3:13: " in capsys.readouterr().err


def test_keep_going_omits_a_broken_file_and_its_importers_on_both_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {
        "a.proto": proto("a", "message A { int32 x = 1; }"),
        "b.proto": proto("b", "message B { int32 x = 1; }"),
        "c.proto": proto("c", "message C { b.B b = 1; }", "b.proto"),
    }
    old = write(tmp_path / "old", good)
    broken = good | {"b.proto": "broken", "a.proto": proto("a", "message A { string x = 1; }")}
    new = write(tmp_path / "new", broken)
    assert main(["diff", str(old), str(new)]) == 2
    capsys.readouterr()
    assert main(["diff", str(old), str(new), "--keep-going", "--format", "json"]) == 1
    output = capsys.readouterr()
    reported = json.loads(output.out)
    assert reported["packages"] == ["a"]
    assert {finding["symbol"] for finding in reported["findings"]} == {"a.A.x"}
    assert "left out b.proto: " in output.err
    assert "left out c.proto: " in output.err
    assert main(["diff", str(old), str(new), "--exclude", "[bc].proto", "--level", "rpc"]) == 1
    capsys.readouterr()
    assert main(["diff", str(new), str(old), "--keep-going", "--format", "json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["packages"] == ["a"]
    assert output.err.count("smg-proto diff: left out ") == 2


def test_keep_going_omits_files_that_import_each_other_and_a_broken_one(
    tmp_path: Path,
) -> None:
    folder = write(
        tmp_path,
        {
            "a.proto": proto("a", "message A { int32 x = 1; }"),
            "b.proto": "broken",
            "c.proto": proto("c", "message C { d.D d = 1; }", "b.proto", "d.proto"),
            "d.proto": proto("d", "message D { c.C c = 1; }", "c.proto"),
        },
    )
    contract = load(folder, keep_going=True)
    assert contract.every_package == {"a"}
    assert contract.skipped == {
        "b.proto": contract.skipped["b.proto"],
        "c.proto": f"{folder}/c.proto: imports b.proto, which is left out",
        "d.proto": f"{folder}/d.proto: imports c.proto, which is left out",
    }


def test_a_broken_file_that_is_included_is_an_error_even_with_keep_going(tmp_path: Path) -> None:
    files = {"a.proto": proto("a", "message A {}"), "shop.proto": SHOP}
    folder = write(tmp_path / "tree", files)
    include = write(tmp_path / "include", {"money/money.proto": "broken"})
    with pytest.raises(ContractError, match=r"money/money\.proto:1:1: "):
        load(folder, include=[include], keep_going=True)


def test_with_keep_going_the_number_of_broken_files_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smg_proto.compat._limits.MAX_BROKEN_FILES", 2)
    broken = {f"b{number}.proto": f"broken {number}" for number in range(3)}
    folder = write(tmp_path, {"a.proto": proto("a", "message A { int32 x = 1; }"), **broken})
    with pytest.raises(ContractError, match="more than 2 files do not compile"):
        load(folder, keep_going=True)
    (folder / "b2.proto").unlink()
    assert load(folder, keep_going=True).every_package == {"a"}


def test_only_broken_files_are_an_error_even_with_keep_going(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path, {"a.proto": "broken"})
    assert main(["diff", str(folder), "self", "--keep-going"]) == 2
    assert "a.proto:1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "pattern", ["tests", "tests/", "tests/*.proto", "*/bad.proto", "t?sts/bad.proto"]
)
def test_folders_and_files_are_excluded(pattern: str, tmp_path: Path) -> None:
    folder = write(tmp_path, {"money.proto": MONEY, "tests/bad.proto": "broken"})
    assert load(folder, exclude=[pattern]).packages == {"money"}


# --- foreign packages ----------------------------------------------------------------------------


def test_packages_of_others_are_compared_if_requested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def both(units: str) -> Files:
        return {
            "money.proto": MONEY,
            "google/x.proto": proto("google.x", f"message X {{ {units} u = 1; }}"),
        }

    old, new = write(tmp_path / "old", both("int32")), write(tmp_path / "new", both("string"))
    assert main(["diff", str(old), str(new)]) == 0
    assert "google.x" in capsys.readouterr().out  # named, as it differs and was not compared
    assert main(["diff", str(old), str(new), "--package", "google.x"]) == 1
    assert diff(load(old, foreign=()), load(new, foreign=())).verdict == "data"
    assert diff(load(old, foreign=("money",)), load(new, foreign=("money",))).verdict == "data"


# --- reviews -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    old = proto("shop", "message Order {\n  int32 id = 1;\n  int32 count = 2;\n}")
    new = proto("shop", "message Order {\n  int32 id = 1;\n  string total = 3;\n}")
    return str(write(folder / "old", {"shop.proto": old})), str(
        write(folder / "new", {"shop.proto": new})
    )


@pytest.fixture(scope="module")
def compiled(pair: tuple[str, str]) -> tuple[str, str]:
    """The same as descriptor sets, for tests that compare them many times."""
    old, new = (build(Path(folder)) for folder in pair)
    return old, new


def test_accepted_findings_pass_and_each_line_is_needed(
    compiled: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "accepted.txt"
    assert main(["diff", *compiled, "--format", "accept"]) == 1
    lines = capsys.readouterr().out
    assert lines.count("\n") == 3
    path.write_text(f"# Reviewed.\n\n{lines}", encoding="utf-8")
    assert main(["diff", *compiled, "--accept", str(path), "--format", "json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert reported["verdict"] == "compatible"
    assert {finding["class"] for finding in reported["accepted"]} == {"data", "json", "source"}
    for gone in lines.splitlines():
        path.write_text("\n".join(set(lines.splitlines()) - {gone}), encoding="utf-8")
        assert main(["diff", *compiled, "--accept", str(path)]) == 1


@pytest.mark.parametrize(
    ("line", "words", "reported"),
    [
        ("data shop.Order.gone: why", [], "1: stale: there is no data finding about"),
        ("data shop.Order.count until 2.0: why", [], "give --release"),
        ("data shop.Order.count until 2.0: why", ["--release", "2.0.0"], "expired"),
        ("data shop.Order.count until 2.0: why", ["--release", "2.1rc1"], "expired"),
        ("data shop.Order.count", [], "write CLASS SYMBOL: REASON"),
        ("data shop.Order.count:", [], "write CLASS SYMBOL: REASON"),
        ("dat shop.Order.count: why", [], "write CLASS SYMBOL: REASON"),
        ("data a.B: x\ndata a.B: y", [], "duplicate of line 1"),
        ("\udcff", [], "not UTF-8"),
        ("data shop.Order.count until soon: why", ["--release", "2.0.0"], "expired"),
        pytest.param("#" * (4 * 2**20 + 1), [], "more than 4 MiB", id="large"),
    ],
)  # fmt: skip
def test_an_invalid_list_is_an_error(
    line: str,
    words: list[str],
    reported: str,
    compiled: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "accepted.txt"
    path.write_bytes(line.encode(errors="surrogateescape"))
    assert main(["diff", *compiled, "--accept", str(path), *words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert reported in output.err


@pytest.mark.parametrize(("count", "more"), [(20, []), (21, ["  and 1 more"])])
def test_at_most_twenty_problems_of_a_list_are_shown(
    count: int,
    more: list[str],
    compiled: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "accepted.txt"
    lines = [f"data shop.Order.gone{number}: why\n" for number in range(count)]
    path.write_text("".join(lines), encoding="utf-8")
    assert main(["diff", *compiled, "--accept", str(path)]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith(f"smg-proto diff: {path}:1: stale: ")
    assert shown[19].startswith(f"  {path}:20: stale: ")
    assert shown[20:] == more


def test_an_acceptance_holds_until_its_version(
    compiled: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "accepted.txt"
    path.write_text("data shop.Order.count until 2.0.0: goes with 2", encoding="utf-8")
    for release, code in {"1.9": 0, "2.0.0rc1": 0, "2.0.0.dev3": 0, "2": 2, "10.0": 2}.items():
        words = ["--accept", str(path), "--release", release, "--level", "data"]
        assert main(["diff", *compiled, *words]) == code, release
        assert ("expired" in capsys.readouterr().err) is (code == 2), release


def test_acceptances_for_other_packages_are_ignored(
    compiled: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "accepted.txt"
    path.write_text("data other.Order.count: elsewhere\n", encoding="utf-8")
    assert main(["diff", *compiled, "--accept", str(path)]) == 1
    assert read_acceptances(path)[0].reason == "elsewhere"
    with pytest.raises(ContractError, match="gone: No such file"):
        read_acceptances(tmp_path / "gone")


# --- formats -------------------------------------------------------------------------------------


def test_findings_are_placed_where_they_are_declared(
    pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """In the new contract; what is gone, where it was."""
    assert main(["diff", *pair, "--format", "json"]) == 1
    places = {
        (finding["symbol"], Path(finding["file"]).parent.name, finding["line"])
        for finding in json.loads(capsys.readouterr().out)["findings"]
    }
    assert places == {("shop.Order.count", "new", 3), ("shop.Order.total", "new", 5)}


def test_github_annotates_lines(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *pair, "--format", "github", "--level", "data"]) == 1
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.partition(" ")[0] for line in lines if line.startswith("::")]
    assert kinds == ["::error", "::warning", "::warning", "::notice"]
    assert "title=data%3A shop.Order.count" in lines[0]
    assert "shop.proto,line=" in lines[0]
    assert "%0A" in lines[0]  # the witness on a line of its own


def test_sarif_has_a_result_for_each_finding_with_rule_and_place(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "accepted.txt"
    path.write_text("json shop.Order.count: reviewed\n", encoding="utf-8")
    assert main(["diff", *pair, "--format", "sarif", "--accept", str(path)]) == 1
    run_ = json.loads(capsys.readouterr().out)["runs"][0]
    rules = {rule["id"] for rule in run_["tool"]["driver"]["rules"]}
    results = run_["results"]
    assert {result["ruleId"] for result in results} <= rules
    assert {result["level"] for result in results} == {"error", "warning", "note"}
    for result in results:
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"].endswith("shop.proto")
        assert location["physicalLocation"]["region"]["startLine"] >= 3
        assert (
            result["properties"]["symbol"] == location["logicalLocations"][0]["fullyQualifiedName"]
        )
    assert [r["ruleId"] for r in results if "suppressions" in r] == ["json"]
    assert run_["columnKind"] == "unicodeCodePoints"
    assert run_["properties"]["verdict"] == "data"


def test_junit_fails_the_symbols_that_break(
    pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *pair, "--format", "junit"]) == 1
    root = ElementTree.fromstring(capsys.readouterr().out)
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    suites = [(suite.get("tests"), suite.get("failures")) for suite in root.iter("testsuite")]
    assert suites == [("2", "1")]
    (failure,) = root.iter("failure")
    assert failure.get("type") == "data"
    assert "bytes" in (failure.text or "")
    assert main(["diff", pair[0], pair[0], "--format", "junit"]) == 0
    root = ElementTree.fromstring(capsys.readouterr().out)
    assert (root.get("tests"), root.get("failures")) == ("1", "0")


def test_a_comment_stays_within_the_limit_and_says_what_it_omits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def many(kind: str) -> Files:
        fields = "\n".join(f"  {kind} a_rather_long_name_{n} = {n};" for n in range(1, 600))
        return {"m.proto": proto("m", f"message M {{\n{fields}\n}}")}

    old, new = write(tmp_path / "old", many("int32")), write(tmp_path / "new", many("string"))
    assert main(["diff", str(old), str(new), "--format", "markdown"]) == 1
    reported = capsys.readouterr().out
    assert 60_000 < len(reported.encode()) <= 65_536
    shown = sum(line.startswith("- ") for line in reported.splitlines())
    assert f"\n{599 * 3 - shown} more findings are omitted" in reported


def test_findings_are_grouped_by_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def two(kind: str) -> Files:
        return {
            "a.proto": proto("a.v1", f"message M {{ {kind} x = 1; }}"),
            "b.proto": proto("b.v1", f"message M {{ {kind} x = 1; }}"),
        }

    old, new = write(tmp_path / "old", two("int32")), write(tmp_path / "new", two("string"))
    assert main(["diff", str(old), str(new)]) == 1
    lines = capsys.readouterr().out.splitlines()
    data = lines[lines.index("data: bytes are misread, lost or cannot be parsed") :]
    assert data[1] == "  a.v1"
    assert data[2].startswith("    a.v1.M.x (")
    assert "  b.v1" in data


def test_classes_from_the_level_on_fail_and_milder_ones_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each class against each level, of contracts that are compiled once."""
    classes = ["data", "rpc", "presence", "json", "source"]
    one = (
        "message M { int32 a = 1; } message N { int32 a = 1; } service S { rpc A(M) returns (M); }"
    )
    edits = {
        "data": one.replace("M { int32", "M { string"),
        "rpc": one.replace("returns (M)", "returns (stream M)"),
        "presence": one.replace("M { int32", "M { optional int32"),
        "json": one.replace("M { int32 a = 1", 'M { int32 a = 1 [json_name = "b"]'),
        "source": one.replace("returns (M)", "returns (N)"),
    }
    compiled = {
        name: build(write(tmp_path / name, {"p.proto": proto("p", text)}))
        for name, text in {"old": one, **edits}.items()
    }
    for place, cls in enumerate(classes):
        words = ["diff", compiled["old"], compiled[cls], "--level"]
        codes = [main([*words, level]) for level in classes]
        assert codes == [1 if n >= place else 0 for n in range(len(classes))], cls
    capsys.readouterr()


# --- as a library ---------------------------------------------------------------------------------


def test_a_report_has_findings_and_accepted_findings(pair: tuple[str, str], tmp_path: Path) -> None:
    report = diff(load(pair[0]), load(pair[1]))
    assert report.packages == ("shop",)
    (lost,) = (finding for finding in report.findings if finding.cls == "data")
    assert (lost.package, lost.removal, lost.by_name) == ("shop", True, False)
    path = tmp_path / "accepted.txt"
    path.write_text("data shop.Order.count: reviewed\n", encoding="utf-8")
    rest = report.accept(read_acceptances(path))
    assert rest.verdict == "json"
    assert rest.accepted == (lost,)


@pytest.mark.parametrize(
    ("imported", "advice"),
    [
        ("money/money.proto", "give its folder with -I DIR"),
        (
            "google/api/http.proto",
            "give its folder with -I DIR, or -I pypi:googleapis-common-protos==VERSION",
        ),
        ("google/other.proto", "give its folder with -I DIR"),
    ],
)
def test_a_missing_import_says_where_to_get_it(imported: str, advice: str, tmp_path: Path) -> None:
    write(tmp_path, {"shop.proto": proto("shop", "", imported)})
    with pytest.raises(ContractError) as caught:
        load(tmp_path)
    assert str(caught.value).endswith(
        f"shop.proto:3: imports {imported}, which does not exist; {advice}"
    )


def test_a_missing_dependency_of_buf_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"buf.build/owner/{letter}" for letter in "fbecad"]
    config = "version: v2\ndeps:\n" + "".join(f"  - {name}\n" for name in names)
    write(tmp_path, {"buf.yaml": config, "shop.proto": proto("shop", "", "money/money.proto")})
    monkeypatch.setattr("smg_proto.compat._compile.program", lambda name: None)
    with pytest.raises(ContractError) as caught:
        load(tmp_path)
    first_five = ", ".join(sorted(names)[:5])
    assert str(caught.value).endswith(
        f"; buf.yaml depends on {first_five}, which buf can fetch: pip install buf-bin"
    )


def test_a_value_with_a_backtick_stays_code_in_markdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side, default in (("old", "x`y"), ("new", "z")):
        field = f'optional string a = 1 [default = "{default}"];'
        text = f'syntax = "proto2";\npackage p;\nmessage M {{ {field} }}\n'
        write(tmp_path / side, {"m.proto": text})
    folders = [str(tmp_path / side) for side in ("old", "new")]
    assert main(["diff", *folders, "--format", "markdown"]) == 1
    output = capsys.readouterr().out
    assert "sent `` nothing, so a is 'x`y' ``; read `nothing, so a is 'z'`" in output

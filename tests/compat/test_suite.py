"""The suite notices when somebody tampers with it: each kind of damage, done to a copy."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import _frozen
import _vectors
import golden
import pytest
from _contract import as_line, contract, facts, parse
from _frozen import COMPAT, PUBLISHED, Frozen
from _upstream import EXPERIMENTAL, UPSTREAMS
from golden import Golden
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from live import cells, uncovered

import smg_proto
from smg_proto._descriptors import Symbol

pytestmark = pytest.mark.packaging

OURS = "9.9.9"
NOW = contract(smg_proto.descriptor_set())


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen files of this checkout, and the checkout itself frozen as one more release."""
    home = tmp_path_factory.mktemp("compat")
    for name in ("releases", "vectors"):
        shutil.copytree(COMPAT / name, home / name)
    made = tmp_path_factory.mktemp("made")
    _vectors.write("smg_proto", made)
    frozen = Frozen(home, [*Frozen.here().own, OURS])
    frozen.write(OURS, NOW, smg_proto.descriptor_set(), made)
    return home


@pytest.fixture
def frozen(pristine: Path, tmp_path: Path) -> Frozen:
    shutil.copytree(pristine, tmp_path / "compat")
    return Frozen(tmp_path / "compat", [*Frozen.here().own, OURS])


def all_problems(frozen: Frozen) -> list[str]:
    golden_vectors = Golden(frozen)
    found = [*frozen.defects(), *frozen.broken_promises(NOW, OURS)]
    for path in frozen.fixtures():
        found += golden_vectors.problems(path)
    return found


def refresh_sums(frozen: Frozen) -> None:
    (frozen.home / "SHA256SUMS").write_text(frozen.sums(), encoding="utf-8")


def test_unchanged_files_pass(frozen: Frozen) -> None:
    assert all_problems(frozen) == []


@pytest.mark.parametrize("name", ["contract.txt", "descriptors.binpb"])
@pytest.mark.parametrize("release", ["published-0.4.14", "vllm-proto-0.4.0", OURS])
def test_a_removed_freeze_is_reported(frozen: Frozen, release: str, name: str) -> None:
    (frozen.home / "releases" / release / name).unlink()
    refresh_sums(frozen)
    assert f"releases/{release}/{name}: missing; every release has one" in list(frozen.defects())


def test_each_removed_file_of_vectors_is_reported(frozen: Frozen) -> None:
    dropped = frozen.fixtures()
    for path in dropped:
        path.unlink()
    refresh_sums(frozen)
    found = set(frozen.defects())
    for path in dropped:
        assert f"{path.relative_to(frozen.home)}: missing; every release has one" in found


def test_a_release_without_a_snapshot_is_reported(frozen: Frozen) -> None:
    found = list(Frozen(frozen.home, [*frozen.own, "10.0.0"]).defects())
    assert "releases/10.0.0/contract.txt: missing; every release has one" in found


@pytest.mark.parametrize("path", [f"vectors/{OURS}/more.jsonl", "releases/0.0.1/contract.txt"])
def test_a_file_that_nothing_uses_is_found(frozen: Frozen, path: str) -> None:
    (frozen.home / path).parent.mkdir(exist_ok=True)
    (frozen.home / path).write_text("", encoding="utf-8")
    refresh_sums(frozen)
    assert [p for p in frozen.defects() if p.startswith(path)]


def test_any_edit_of_a_frozen_file_is_found_by_its_checksum(frozen: Frozen) -> None:
    for path in frozen.files():
        with (frozen.home / path).open("ab") as file:
            file.write(b"\n")
    found = "\n".join(frozen.defects())
    assert all(path.as_posix() in found for path in frozen.files())


def edit_byte(vector: dict[str, str]) -> None:
    """Flip one bit, the last: most often of a value, so that the bytes still are a message."""
    wire = bytearray.fromhex(vector["hex"])
    wire[-1] ^= 1
    vector["hex"] = wire.hex()


def edit_json(vector: dict[str, str]) -> None:
    vector["json"] = {}  # type: ignore[assignment]


@pytest.mark.parametrize("edit", [edit_byte, edit_json])
def test_an_edited_vector_is_found_even_under_a_new_checksum(
    frozen: Frozen, edit: Callable[[dict[str, str]], None]
) -> None:
    choice = random.Random(4)
    golden_vectors = Golden(frozen)
    for path in [*frozen.vectors(OURS).iterdir(), *frozen.vectors("published-0.4.6").iterdir()]:
        rows = path.read_text(encoding="utf-8").splitlines()
        chosen = [
            i for i, row in enumerate(rows) if '"case":"full"' in row and '"hex":""' not in row
        ]
        number = choice.choice(chosen)
        vector = json.loads(rows[number])
        edit(vector)
        rows[number] = json.dumps(vector)
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        found = list(golden_vectors.problems(path))
        where = f"vectors/{path.parent.name}/{path.name}:{number + 1}:"
        assert [p for p in found if p.startswith(where)], f"{where} {rows[number]}"


def test_a_removed_vector_is_reported(frozen: Frozen) -> None:
    path = frozen.vectors(OURS) / "smg.v1.jsonl"
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for case in golden.REQUIRED:
        first = next(i for i, row in enumerate(rows) if f'"case":"{case}"' in row)
        path.write_text("".join(rows[:first] + rows[first + 1 :]), encoding="utf-8")
        (problem,) = Golden(frozen).problems(path)
        assert problem.endswith(f"has no vector for {case}")


def test_the_fixture_of_a_deleted_type_fails(
    frozen: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = dict(golden.todays_classes())
    del left["smg.v1.ChatRequest"]
    monkeypatch.setattr(golden, "todays_classes", lambda: left)
    found = list(Golden(frozen).problems(frozen.vectors(OURS) / "smg.v1.jsonl"))
    assert found
    assert all("smg.v1.ChatRequest" in p and "lack this message" in p for p in found)


def retyped(reader: type[Message], number: int) -> type[Message]:
    """A message class like this one, but that one field, a number, is a bool."""
    file = FileDescriptorProto(name="retyped.proto", package="retyped", syntax="proto3")
    reader.DESCRIPTOR.CopyToProto(file.message_type.add())
    (message,) = file.message_type
    (field,) = (field for field in message.field if field.number == number)
    assert field.type == field.TYPE_UINT32
    field.type = field.TYPE_BOOL
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(f"retyped.{message.name}"))


@pytest.mark.parametrize("side", ["today", "older"])
def test_a_reader_with_another_field_type_is_found(
    frozen: Frozen, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    name = "vllm.grpc.engine.EmbedResponse"
    vectors = Golden(frozen)
    classes = golden.todays_classes() if side == "today" else vectors.readers["published-0.4.28"]
    monkeypatch.setitem(classes, name, retyped(classes[name], 2))
    found = list(vectors.problems(frozen.vectors(OURS) / "vllm.grpc.engine.jsonl"))
    assert all(name in problem for problem in found)
    expected = "write back something else" if side == "today" else "reader of published-0.4.28"
    assert [problem for problem in found if expected in problem]


def test_a_freeze_whose_lines_were_edited_is_found(frozen: Frozen) -> None:
    for release in ("published-0.4.28", OURS):
        path = frozen.home / "releases" / release / "contract.txt"
        first, second, rest = path.read_text(encoding="utf-8").split("\n", 2)
        path.write_text(f"{first}\n{rest}", encoding="utf-8")
        refresh_sums(frozen)
        (dropped,) = parse(second)
        found = list(Frozen(frozen.home, frozen.own).defects())
        assert [p for p in found if release in p and p.endswith(dropped.name)]


def test_a_stale_freeze_of_the_current_version_is_found(frozen: Frozen) -> None:
    some = min(NOW, key=as_line)
    moved_on = NOW - {some} | {replace(some, comment="00000000")}
    assert list(frozen.broken_promises(moved_on, "9.9.10.dev0")) == [], (
        "comments may be rewritten later"
    )
    (problem,) = frozen.broken_promises(moved_on, OURS)
    assert "stale" in problem
    assert some.name in problem


def first_field(package: str) -> Symbol:
    fields = (x for x in NOW if x.package == package and x.kind == "field")
    return min(fields, key=as_line)


@pytest.mark.parametrize("change", [{"number": 77}, {"type": "bytes"}, {"oneof": "other"}, None])
def test_each_broken_promise_is_named(frozen: Frozen, change: dict[str, Any] | None) -> None:
    for package, release in (("smg.v1", OURS), ("vllm.grpc.engine", f"published-{PUBLISHED[-1]}")):
        victim = first_field(package)
        now = NOW - {victim} | ({replace(victim, **change)} if change else set())
        found = list(frozen.broken_promises(now, "10.0.0.dev0"))
        assert [p for p in found if p.startswith(f"{victim.name}: differs from {release}: ")]


@pytest.mark.parametrize("package", sorted(EXPERIMENTAL))
def test_a_mirror_that_differs_from_its_engines_latest_release_is_named(
    frozen: Frozen, package: str
) -> None:
    victim = first_field(package)
    of_ours = replace(victim, name=f"{victim.name}_of_ours", number=1000)
    for now in (NOW - {victim}, NOW - {victim} | {replace(victim, number=77)}, NOW | {of_ours}):
        found = list(frozen.broken_promises(now, "10.0.0.dev0"))
        assert found
        assert all(": differs from " in problem for problem in found)


def test_a_break_by_the_engine_is_followed(frozen: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    # vLLM renumbers a field in its next release, and the mirror with it.
    (vllm,) = (upstream for upstream in UPSTREAMS if upstream.package == "vllm")
    nextone = replace(vllm, releases=(*vllm.releases, "0.7.0"))
    others = tuple(upstream for upstream in UPSTREAMS if upstream is not vllm)
    monkeypatch.setattr(_frozen, "UPSTREAMS", (nextone, *others))
    files = frozen.descriptors("vllm-proto-0.6.0")
    (inference,) = (file for file in files.file if file.name == "inference.proto")
    (usage,) = (m for m in inference.message_type if m.name == "TokenIds")
    usage.field[0].number = 9
    frozen_then = Frozen(frozen.home, frozen.own)
    write_release(frozen_then, "vllm-proto-0.7.0", files)
    now = {x for x in NOW if x.package != "vllm"} | contract(files)
    assert list(frozen_then.broken_promises(now, "10.0.0.dev0")) == []
    assert list(frozen_then.defects()) == []

    vectors = Golden(frozen_then)
    today = vectors.readers["vllm-proto-0.7.0"]
    monkeypatch.setattr(golden, "todays_classes", lambda: today)
    for release in nextone.frozen:
        assert list(vectors.problems(frozen_then.vectors(release) / "vllm.jsonl")) == []


def write_release(frozen: Frozen, release: str, files: FileDescriptorSet) -> None:
    """Freeze these descriptors as scripts/freeze.py does."""
    image, made = frozen.home / "image.binpb", frozen.home / "made"
    image.write_bytes(files.SerializeToString())
    _vectors.write(str(image), made)
    frozen.write(release, facts(contract(files)), files, made)


def test_a_published_number_that_is_reused_with_another_type_is_named(frozen: Frozen) -> None:
    like = first_field("tokenspeed.grpc.scheduler")
    back = replace(like, name=f"{like.package}.MultimodalInputs.back", number=3, type="string")
    (problem,) = {p for p in frozen.broken_promises(NOW | {back}, "10.0.0.dev0") if "0.4.8" in p}
    assert problem == f"{back.name}: 3 had another type in published-0.4.8"


def test_a_missing_cell_of_the_live_matrix_is_noticed(frozen: Frozen) -> None:
    every = cells(frozen)
    assert not uncovered(every, frozen)
    for cell in every:
        assert uncovered([other for other in every if other != cell], frozen)
    assert uncovered(cells(Frozen.here()), frozen), "one more release needs more cells"

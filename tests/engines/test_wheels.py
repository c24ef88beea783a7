"""A machine that there is no wheel for: the engine's tests are skipped, and say for which."""

import platform
import sys

import pytest

from engines import wheels
from engines.wheels import SGLANG_PYTHONS, VLLM_RS, sglang_grpc


def test_a_machine_without_a_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "IN_CI", False)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(
        pytest.skip.Exception, match=r"vllm 0\.33\.0 has no wheel for Linux riscv64"
    ):
        VLLM_RS.fetch(print)


def test_an_old_libc_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    assert not VLLM_RS.unavailable()
    needs = sglang_grpc(SGLANG_PYTHONS[0]).unavailable()
    assert needs.startswith("sglang 0.5.23 needs glibc 2.34; this ")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert "has none" in VLLM_RS.unavailable()


def test_there_is_no_wheel_for_another_python() -> None:
    assert "has no wheel" in sglang_grpc("3.10").unavailable()

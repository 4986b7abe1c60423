"""What every test relies on: the installed package, a folder of its own, and the test data."""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import quick
import safetensors.numpy

REPOSITORY = Path(__file__).resolve().parents[1]


def _prefer_the_installed_package():
    """Take the clone off the path, where `python -m pytest` puts it.

    Its source folder has no compiled modules, and would hide the package that was installed from
    it. It stays if nothing else provides the package.
    """
    before = sys.path[:]
    sys.path[:] = [entry for entry in before if Path(entry).resolve() != REPOSITORY]
    if importlib.util.find_spec("pyx_transformer") is None:
        sys.path[:] = before


_prefer_the_installed_package()

from pyx_transformer import _runtime  # noqa: E402 - only now is it the right one


def pytest_ignore_collect(collection_path, config):
    """With `-m quick` leave out the other files: to import them takes longer than a test does."""
    is_other = collection_path.name.startswith("test_") and collection_path.name not in quick.FILES
    return True if is_other and config.getoption("markexpr") == "quick" else None


def pytest_addoption(parser):
    parser.addoption(
        "--skipped-before",
        action="store_true",
        help="only tests that were skipped when they last ran, now that what they need is there",
    )


def pytest_configure(config):
    if config.pluginmanager.has_plugin("cacheprovider"):
        config.pluginmanager.register(Skipped(config.cache), "skipped")


class Skipped:
    """Keeps, in pytest's cache, which tests and files were skipped when they last ran."""

    KEY = "pyx_transformer/skipped"

    def __init__(self, cache):
        self.cache, self.before = cache, frozenset(cache.get(self.KEY, []))
        self.now = {*self.before}

    def pytest_runtest_logreport(self, report):
        if report.skipped:
            self.now.add(report.nodeid)
        elif report.when == "call":
            self.now.discard(report.nodeid)

    def pytest_collectreport(self, report):
        (self.now.add if report.skipped else self.now.discard)(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        if config.getoption("skipped_before"):
            items[:] = [
                item
                for item in items
                if not {item.nodeid, item.nodeid.partition("::")[0]}.isdisjoint(self.before)
            ]

    def pytest_sessionfinish(self):
        self.cache.set(self.KEY, sorted(self.now))


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        is_used = parameters.get("kernels") in (None, _runtime.kernels.ISA_NAME)
        if item.path.name in quick.FILES and is_used:
            item.add_marker("quick")


@pytest.fixture(autouse=True, scope="session")
def outside_the_clone(tmp_path_factory):
    """Run in an empty folder: a Python started by a test finds the installed package there too."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("work"))
    yield
    os.chdir(before)


@pytest.fixture
def rng():
    """Random numbers, the same ones in every test."""
    return np.random.default_rng(0)


@pytest.fixture(params=_runtime.available_isas())
def kernels(request):
    """The compiled kernels, for each instruction set that this CPU runs in turn."""
    return _runtime.load_kernels(request.param)


@pytest.fixture
def use_threads(monkeypatch):
    """A function that sets the number of threads of the calls to come."""
    return lambda n: monkeypatch.setattr(_runtime, "get_num_threads", lambda: n)


@pytest.fixture(scope="session")
def shared_data():
    """The folder of trained models and texts beside the repository (PYX_TRANSFORMER_TEST_DATA).

    Tests that need it are skipped where it is missing, but fail in CI.
    """
    default = REPOSITORY.parent / "shared" / "data"
    path = Path(os.environ.get("PYX_TRANSFORMER_TEST_DATA") or default)
    if not path.is_dir():
        reason = f"no test data in {path}; PYX_TRANSFORMER_TEST_DATA can name another folder"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def copied(shared_data, tmp_path):
    """A function that copies a model of hf-tiny: its folder, its config and its tensors."""

    def copy(name):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(shared_data / "hf-tiny" / name / file, folder / file)
        config = json.loads((folder / "config.json").read_text())
        return folder, config, safetensors.numpy.load_file(folder / "model.safetensors")

    return copy

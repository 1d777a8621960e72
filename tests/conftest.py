"""Every test runs on the CPU with one compilation cache, and may skip only for a listed reason."""

import importlib.metadata
import os
import pathlib
import re
import secrets
import signal
import tempfile

import pytest

# A shell ignores Ctrl-C for its background jobs, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before JAX is imported. Subprocesses inherit it.
os.environ["JAX_PLATFORMS"] = os.environ.get("PALMSCALE_TEST_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(tempfile.gettempdir(), f"palmscale-jax-cache-{os.getuid()}"),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Tiny programs run as fast without optimizations, and compile in a third of the time.
_QUICK_TO_COMPILE = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # As palmscale sets it where it starts JAX: simulated devices would stand still at times.
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
]
if importlib.metadata.version("jax") < "0.11":  # later versions end at the name of this flag
    _QUICK_TO_COMPILE.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_QUICK_TO_COMPILE))
# libtpu, where it is installed, would otherwise wait for a metadata server that is not there.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

# What takes a minute or more comes first: at the end both workers of `-n 2` are busy.
LONGEST_FILES = (
    "e2e/test_many_processes.py",
    "e2e/test_object_store.py",
    "e2e/test_verify_resume.py",
    "e2e/test_tpu_pod.py",
    "e2e/test_local_sh.py",
    "e2e/test_plan.py",
    "e2e/test_quickstart.py",
)
ALLOWED_SKIPS = pathlib.Path(__file__).with_name("allowed_skips.txt")
_unlisted: list[str] = []


@pytest.fixture(scope="session")
def _object_store_port(tmp_path_factory):
    import object_store

    pytest.importorskip("gcp_storage_emulator", reason=object_store.ABSENT)
    root = tmp_path_factory.mktemp("objects")
    with object_store.serving(root) as port:
        yield root, port


@pytest.fixture
def bucket(_object_store_port, request, monkeypatch):
    """An empty bucket of an object store, for this process and those that it starts."""
    import object_store

    name = re.sub(r"\W+", "-", request.node.name.lower().replace("_", "-"))[:50].strip("-")
    made = object_store.made(*_object_store_port, f"{name}-{secrets.token_hex(3)}")
    for variable, value in made.environment.items():
        monkeypatch.setenv(variable, value)
    return made


def allowed_skips() -> list[str]:
    """Returns the lines of allowed_skips.txt that are not comments: beginnings of skip reasons."""
    lines = (line.strip() for line in ALLOWED_SKIPS.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pytest_collection_modifyitems(items):
    folder = pathlib.Path(__file__).parent
    order = {folder / name: index for index, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_runtest_logreport(report):
    _note(report)


def pytest_collectreport(report):
    _note(report)


def _note(report):
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not any(reason.startswith(listed) for listed in allowed_skips()):
        _unlisted.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session, exitstatus):
    if _unlisted and exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if _unlisted:
        terminalreporter.section("skips that tests/allowed_skips.txt does not list", red=True)
        for line in _unlisted:
            terminalreporter.line(line)

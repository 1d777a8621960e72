import pathlib
import subprocess
import sys

import numpy as np

BENCHMARKS = pathlib.Path(__file__).parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import generate_contestants  # noqa: E402
import page  # noqa: E402


def test_it_finds_all_that_it_imports():
    command = [sys.executable, BENCHMARKS / "generate.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "--palm_pytorch" in done.stdout, done.stderr


def test_other_engines_rotate_the_pairs_that_palm_rotates():
    D, H, K = 3, 2, 4
    key = np.arange(D * K, dtype=np.float32).reshape(1, D, K)
    query = np.arange(D * H * K, dtype=np.float32).reshape(1, D, H, K)
    zeros = {"embedding": np.zeros(2), "final_norm": np.zeros(D), "norm": np.zeros((1, D))}
    found = generate_contestants.out_by_in(zeros | {"key": key, "query": query})
    # Neighbours there are half a head apart here.
    np.testing.assert_array_equal(found["0.key"][:, 0], [0, 2, 1, 3])
    np.testing.assert_array_equal(found["0.query"][:, 0], [0, 2, 1, 3, 4, 6, 5, 7])
    np.testing.assert_array_equal(found["0.norm"], np.ones(D))


def test_the_page_states_ratios_and_differences():
    result = {
        "date": "d", "machine": "m", "versions": "v", "parameters": 126e6,
        "differences": {"ours": 0.0, "theirs": 3e-6},
        "engines": [
            {"name": "ours", "cpu_seconds_per_token": [0.04, 0.05]},
            {"name": "theirs", "cpu_seconds_per_token": [0.08, 0.10]},
            {"name": "older", "cpu_seconds_per_token": [0.4, 0.5]},
        ],
        "palmscale": dict(
            early=[0.04], late=[0.041], one_by_one=[0.04], batched=[0.008], choice=[0.11],
            own=[0.1], plain=[0.04], foreseen=[0.02],
        ),
    }  # fmt: skip
    text = page.generate(result)
    assert "| theirs | 0.090 [0.080, 0.100] | 2.00 [2.00, 2.00] | 3e-06 |" in text
    assert "weights of its own" in text and "| ... times as fast | 5.0 |" in text
    assert "| 1.10 |" in text and "| 2.0 |" in text

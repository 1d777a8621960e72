"""The engines themselves run in tests/e2e/test_engines_live.py."""

import http.server
import json
import sys
import threading
import types

import numpy as np
import pytest

from palmscale.interop import engines


@pytest.fixture
def llama_cpp():
    """A server that answers as llama.cpp's does; (its URL, what it was asked)."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(
                (self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            )
            top = [{"id": 2, "logprob": -0.5}, {"id": 0, "logprob": -1.5}, {"id": 1, "logprob": -3}]
            answer = json.dumps({"completion_probabilities": [{"top_logprobs": top}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_log_probabilities_are_ordered_by_id(llama_cpp):
    url, asked = llama_cpp
    found = engines.next_token(url, np.array([0, 2], np.int32), num_tokens=3, end_id=1)
    np.testing.assert_array_equal(found, [-1.5, -3, -0.5])
    ((path, body),) = asked
    assert path == "/completion" and body["prompt"] == [0, 2] and body["n_probs"] == 3


def test_an_engine_that_is_not_installed_does_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tokens = np.zeros(1, np.int32)
    with pytest.raises(engines.DidNotRun, match="the package torch is not installed"):
        engines.run_transformers(tmp_path, tokens)
    with pytest.raises(engines.DidNotRun, match="the package xllamacpp is not installed"):
        engines.run_llama_cpp(tmp_path, tokens, num_tokens=3, end_id=1)


def test_an_engine_that_is_too_old_does_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    old = types.ModuleType("transformers")
    old.__version__ = "4.57.0"
    monkeypatch.setitem(sys.modules, "transformers", old)
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    with pytest.raises(engines.DidNotRun, match="version 4.57.0 does not have Cohere2Moe"):
        engines.run_transformers(tmp_path, np.zeros(1, np.int32))

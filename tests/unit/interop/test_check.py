"""Every way that an export once went wrong, or could, is caught by the exporter's own check."""

import dataclasses

import engine_exports
import numpy as np
import pytest

from palmscale.interop import check, gguf_file, hf, hf_config

WRITERS = {"hf": hf, "gguf": gguf_file}


def export(layout, folder, case="rms_wide", dtype="float32"):
    outgoing = engine_exports.outgoing(case, dtype)
    path = folder / f"export.{layout}"
    WRITERS[layout].write(outgoing, path)
    return outgoing, path


@pytest.fixture
def no_engine(monkeypatch):
    """Where an engine happens to be installed, it does not run: the check finds the fault alone."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.parametrize("case", ["rms_wide", "layer_wide"])
@pytest.mark.parametrize("layout", WRITERS)
def test_a_right_export_passes_and_the_engine_that_did_not_run_is_named(
    layout, case, tmp_path, no_engine
):
    said = WRITERS[layout].EXPORT.check(*export(layout, tmp_path, case))
    engine, package = {"hf": ("transformers", "torch"), "gguf": ("llama.cpp", "xllamacpp")}[layout]
    assert f"{engine} itself did not run: the package {package} is not installed." in said


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [("hf", "bfloat16"), ("gguf", "bfloat16"), ("gguf", "q8_0"), ("gguf", "q4_0")],
)
def test_rounded_weights_pass_and_their_error_is_told(layout, dtype, tmp_path, no_engine):
    said = WRITERS[layout].EXPORT.check(*export(layout, tmp_path, dtype=dtype))
    assert f"before rounding to {dtype}" in said


def plant_layer_norm(monkeypatch):
    import gguf

    config = hf_config.of_model
    monkeypatch.setattr(hf_config, "of_model", lambda o: config(o) | {"rms_norm_eps": None})
    writer = gguf.GGUFWriter
    monkeypatch.setattr(writer, "add_layer_norm_rms_eps", writer.add_layer_norm_eps)


def plant_gate_and_up_swapped(monkeypatch):
    kernels = hf.KERNELS
    swapped = kernels | {"gate": kernels["up"], "up": kernels["gate"]}
    monkeypatch.setattr(hf, "KERNELS", swapped)


def plant_rotary_not_permuted(monkeypatch):
    monkeypatch.setattr(hf, "interleaved", np.arange)


def plant_norm_offset_dropped(monkeypatch):
    monkeypatch.setattr(hf, "_plain", lambda model, scale: scale)


FAULTS = (
    plant_layer_norm,
    plant_gate_and_up_swapped,
    plant_rotary_not_permuted,
    plant_norm_offset_dropped,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [("hf", "float32"), ("hf", "bfloat16"), ("gguf", "float32"), ("gguf", "q4_0")],
)
def test_a_wrong_export_is_caught(layout, dtype, fault, tmp_path, monkeypatch, no_engine):
    fault(monkeypatch)
    with pytest.raises(RuntimeError, match="logits .* differ from the model's by up to"):
        WRITERS[layout].EXPORT.check(*export(layout, tmp_path, dtype=dtype))


def test_weights_that_were_written_wrong_are_caught_after_rounding_too(tmp_path, no_engine):
    outgoing, path = export("gguf", tmp_path, dtype="q8_0")
    other = engine_exports.outgoing("rms_wide", "q8_0")
    zeros = {**other.params, "layers/up": other.params["layers/gate"]}
    path.unlink()
    gguf_file.write(dataclasses.replace(other, params=zeros), path)
    with pytest.raises(RuntimeError, match="log-probabilities .* differ from the model's"):
        gguf_file.check(outgoing, path)


def test_a_model_that_memory_cannot_hold_is_said_to_be_unchecked(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemAvailable:     1 kB\n")
    monkeypatch.setattr(check, "_MEMORY", tmp_path / "meminfo")
    assert "The logits were not checked" in gguf_file.check(*export("gguf", tmp_path))


def test_an_engine_that_memory_cannot_hold_does_not_run(tmp_path, monkeypatch):
    answers = iter([False, True])  # of a layer, of the whole model
    monkeypatch.setattr(check, "is_too_large", lambda needed: next(answers))
    said = gguf_file.check(*export("gguf", tmp_path))
    assert "llama.cpp itself did not run: it takes more memory than is free." in said


def test_an_engine_that_differs_fails_the_check(tmp_path, monkeypatch):
    outgoing, path = export("gguf", tmp_path)
    monkeypatch.setattr("palmscale.interop.engines.run_llama_cpp", lambda *a, **k: np.zeros(259))
    with pytest.raises(RuntimeError, match="log-probabilities of llama.cpp"):
        gguf_file.check(outgoing, path)


def test_tokens_are_drawn_from_all_of_the_vocabulary_after_bos():
    ids = check.sample_tokens(256_000, 16)
    assert ids[0] == 0 and len(set(ids.tolist())) == 16 and ids.max() > 100_000

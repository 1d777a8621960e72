import dataclasses

import jax
import optax
import pytest
from flax import linen as nn
from small_run import RUN, on_text

from palmscale.errors import UserError
from palmscale.partition.layout import Layout
from palmscale.partition.mesh import MeshSpec
from palmscale.run.session import compiled_step, meta, open_session, plan_session, session_identity

DEVICE = jax.devices()[:1]


def test_a_plan_has_a_layout_a_vocabulary_and_counts_but_no_rows():
    with plan_session(RUN, DEVICE) as session:
        assert session.caches == {} and session.vocabulary.size == 259
        assert session.counts.stored > session.counts.model
        attention = RUN.model.attention_flops_per_token(RUN.data.sequence_length)
        assert session.flops_per_token == (6 * session.counts.model, attention)


def test_a_session_has_rows_and_the_step_of_its_plan(tmp_path):
    run = on_text(tmp_path)
    with open_session(run) as session, plan_session(run, DEVICE) as planned:
        assert session.caches[""].sequence_length == 32
        assert session_identity(run, session)["data"]["digest"] == session.caches[""].digest
        described = meta(run, session, "PaLM.dim = 32")
        assert described["mesh"] == {"replica": 1, "data": 1, "model": 1}
        assert described["operative_config"] == "PaLM.dim = 32"
        assert described["rules"]["mlp"] == "model"
        assert planned.state_plan.abstract == session.state_plan.abstract
        assert compiled_step(run, session) is not compiled_step(run, session)


def test_a_batch_that_does_not_divide_is_refused_before_rows_are_built(tmp_path):
    run = on_text(tmp_path)
    training = dataclasses.replace(run.training, gradient_accumulation_steps=3)
    with pytest.raises(UserError, match="a batch of 8 sequences"):
        with open_session(dataclasses.replace(run, training=training)):
            raise AssertionError("opened")
    assert not (tmp_path / "caches").exists()


class Tied(nn.Module):
    """`logits` is the dtype of its logits; it sows a value."""

    logits: str = "float32"
    num_tokens: int = 259

    def setup(self):
        init = nn.with_logical_partitioning(nn.initializers.ones, ("vocab", "vocab_embed"))
        self.table = self.param("table", init, (self.num_tokens, 8))

    def __call__(self, tokens_BL):
        return self.unembed(self.hidden(tokens_BL))

    def hidden(self, tokens_BL):
        self.sow("losses", "size", self.table.mean())
        return self.table[tokens_BL]

    def unembed(self, x_BLD):
        return (x_BLD @ self.table.T).astype(self.logits)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(model=Tied(logits="bfloat16")), "Tied.unembed returns bfloat16 logits"),
        (dict(packing="segments"), "Tied.hidden takes no segment_BL"),
        (dict(optimizer=optax.lbfgs()), "the optimizer fails for the model's parameters: "),
        (
            dict(layout=Layout(mesh=MeshSpec(data=1, model=1), overrides={"vocab": "vocab"})),
            "mesh axis",
        ),
    ],
    ids=["logits", "packed rows", "optimizer", "layout"],
)
def test_a_module_or_optimizer_that_does_not_fit_is_refused_before_rows_are_built(
    tmp_path, changes, said
):
    changes = dict(changes)
    run = on_text(tmp_path, model=Tied())
    if packing := changes.pop("packing", None):
        changes["data"] = dataclasses.replace(run.data, packing=packing)
    run = dataclasses.replace(run, **changes)
    with pytest.raises(UserError, match=said):
        with open_session(run):
            raise AssertionError("opened")
    assert not (tmp_path / "caches").exists()


def test_what_a_module_sows_is_said_not_to_be_part_of_the_loss(caplog):
    with plan_session(dataclasses.replace(RUN, model=Tied()), DEVICE):
        pass
    assert "Tied sows 'losses', which is not part of the loss" in caplog.text


def test_a_mesh_of_other_devices_is_refused():
    layout = Layout(mesh=MeshSpec(data=3, model=1))
    with pytest.raises(UserError, match="needs 3 devices and there are 1"):
        with plan_session(dataclasses.replace(RUN, layout=layout), DEVICE):
            raise AssertionError("entered")

"""What a server counts, for Prometheus."""

import fake_engine
from prometheus_client.parser import text_string_to_metric_families

from palmscale.infer.request import Request
from palmscale.serve.metrics import Metrics


def values(metrics):
    families = text_string_to_metric_families(metrics.text().decode())
    return {s.name: s.value for family in families for s in family.samples if not s.labels}


def test_two_servers_of_a_process_count_for_themselves():
    one, other = Metrics(), Metrics()
    one.generated_tokens.inc(3)
    assert values(one)["palmscale_generated_tokens_total"] == 3
    assert values(other)["palmscale_generated_tokens_total"] == 0


def test_the_engines_own_numbers_are_read_when_they_are_asked_for():
    metrics, engine = Metrics(), fake_engine.FakeEngine(slots=3)
    metrics.watch(fake_engine.served(engine))
    assert values(metrics)["palmscale_slots"] == 3
    assert values(metrics)["palmscale_waiting_sequences"] == 0
    engine.submit(Request(prompt=[0], max_tokens=2))
    assert values(metrics)["palmscale_waiting_sequences"] == 1
    engine.step()
    assert values(metrics)["palmscale_running_sequences"] == 1

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from palmscale.errors import DoesNotFitError
from palmscale.plan.hardware.topology import parse
from palmscale.plan.program.compile import compile_step, offered_bytes

DEVICE = parse("v5e-1").describe()[0]


def lowered(rows):
    x = jax.ShapeDtypeStruct((rows, 1024), jnp.float32, sharding=SingleDeviceSharding(DEVICE))
    return jax.jit(lambda x: jnp.sin(x).T @ x).lower(x)


def test_a_program_that_fits_reports_its_memory():
    compiled = compile_step(lowered(2048).compile)
    assert compiled.argument_bytes == 2048 * 1024 * 4
    assert compiled.output_bytes == 1024 * 1024 * 4
    assert compiled.peak_bytes >= compiled.argument_bytes + compiled.output_bytes
    assert compiled.text.startswith("HloModule")


def test_a_program_that_does_not_fit_reports_by_how_much():
    with pytest.raises(DoesNotFitError) as error:
        compile_step(lowered(2**23).compile)
    assert error.value.needed_bytes > error.value.offered_bytes > 15 * 2**30


def test_what_a_chip_offers_is_asked_of_the_compiler():
    assert offered_bytes(DEVICE) == int(15.75 * 2**30)


def test_another_error_of_the_compiler_is_passed_on():
    unknown = functools.partial(lowered(2048).compile, {"xla_no_such_option": "true"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        compile_step(unknown)

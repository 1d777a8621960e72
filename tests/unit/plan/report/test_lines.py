import small_plan

from palmscale.plan.report import lines


def test_a_speed_is_printed_with_its_bounds():
    found = dict(lines.facts(small_plan.plan(dollars_per_chip_hour=2.0)))
    assert found["memory"] == "fits: 5.00 GiB of 15.75 a device at peak"
    assert found["step time"] == "1.00 to 1.25 s (lower and upper bound)"
    assert found["  exposed communication"] == "data 0.50 to 0.62 s"
    assert found["MFU (paper's)"] == "40.0% to 50.0%; causal 38.4% to 48.0%"
    assert found["price"] == "142 to 178 dollars"


def test_an_unknown_clock_prints_unknown():
    found = dict(lines.facts(small_plan.plan(small_plan.fits(prediction=None))))
    assert found["step time"].startswith("unknown")
    assert "MFU (paper's)" not in found


def test_what_does_not_fit_says_by_how_much_and_no_speed():
    found = dict(lines.facts(small_plan.plan(small_plan.does_not_fit())))
    assert found["memory"].startswith("DOES NOT FIT: the step's own arrays need 31.50 GiB")
    assert "15.75: 2.0 times what there is" in found["memory"]
    assert found["  saved"] == (
        "float32[3,512,8] for the backward pass, 256.00 GiB in all: at least 1.00 GiB a device"
    )
    assert "step time" not in found


def test_rows_of_collectives_and_arrays_are_sorted_and_short():
    verdict = small_plan.fits()
    headings, rows = lines.collective_rows(verdict.collectives)
    assert rows[0] == [
        "reduce-scatter data", "f32[1024,1024]", "3", "4.0", "0.1", "no", "backward",
        "model.py:12",
    ]  # fmt: skip
    assert len(headings) == len(rows[0])
    headings, rows = lines.array_rows(verdict.memory.peak_arrays)
    assert rows[0][:3] == ["f32[1024,1024]", "1", "4.0"]
    assert len(headings) == len(rows[0])

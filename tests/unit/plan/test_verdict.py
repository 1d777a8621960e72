import small_plan

from palmscale.plan.verdict import DoesNotFit, Fits, Verdict


def test_a_verdict_that_fits_and_one_that_does_not_are_two_types():
    fits, not_fitting = small_plan.fits(), small_plan.does_not_fit()
    assert isinstance(fits, Fits) and isinstance(fits, Verdict) and fits.fits
    assert isinstance(not_fitting, DoesNotFit) and not not_fitting.fits
    assert not hasattr(not_fitting, "prediction")

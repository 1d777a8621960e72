import numpy as np
import pytest

import palmscale
from palmscale.errors import UserError


def test_the_history_is_arrays_with_nan_where_a_step_has_no_value(result, workdir):
    history = palmscale.history(workdir)
    np.testing.assert_array_equal(history["step"], [1, 2, 3, 4])
    assert np.isfinite(history["loss"]).all()
    np.testing.assert_array_equal(np.isfinite(history["eval_loss"]), [False, True, False, True])
    assert history["eval_loss"][-1] == result.metrics["eval_loss"]


def test_metrics_of_an_earlier_version_have_todays_names(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "held_out_loss": 3.0}\n')
    history = palmscale.history(tmp_path)
    assert history["step"].tolist() == [1] and history["eval_loss"].tolist() == [3.0]


def test_a_folder_without_metrics_says_so(tmp_path):
    with pytest.raises(UserError, match="no metrics in"):
        palmscale.history(tmp_path)

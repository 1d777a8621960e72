import small_plan


def test_model_flops_count_whole_attention_and_causal_ones_half_of_it():
    step = small_plan.step(tokens=10, weight_flops_per_token=6.0, attention_flops_per_token=2.0)
    assert step.model_flops == 80 and step.causal_flops == 70

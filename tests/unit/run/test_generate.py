import palmscale


def test_the_text_is_that_of_the_loaded_model(result, workdir):
    wanted = {"max_tokens": 12, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 3}
    assert palmscale.generate(workdir, "def ", **wanted) == palmscale.load(workdir).generate(
        "def ", **wanted
    )

"""Five of lm-eval's own tasks, with their prompts and metrics, on a few local questions each."""

import importlib.util
import json
import pathlib

NAMES = ("arc_easy", "hellaswag", "lambada_openai", "triviaqa", "wikitext")
_FILES = {
    "arc_easy": "arc/arc_easy.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
    "triviaqa": "triviaqa/default.yaml",
    "wikitext": "wikitext/wikitext.yaml",
}
_WORDS = ("red", "blue", "green", "naïve")


def _rows(number):
    """A question of each task, in the columns of its dataset on the hub."""
    word = _WORDS[number % 4]
    return {
        "arc_easy": {
            "question": f"Which word is number {number}?",
            "choices": {"text": list(_WORDS), "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[number % 4],
        },
        "hellaswag": {
            "activity_label": "Painting",
            "ctx_a": f"A person paints {number} walls.",
            "ctx_b": "then the person",
            "endings": [f"likes {word}.", "sleeps.", f"eats the {word} paint.", "leaves [step]."],
            "label": str(number % 4),
        },
        "lambada_openai": {"text": f"The wall was {word}, and he said that it was {word}"},
        "triviaqa": {"question": f"What color is {word}", "answer": {"aliases": [word]}},
        "wikitext": {"page": f" = {word} =\n\n The color {word} , number {number} , is old . \n"},
    }


def write(folder: pathlib.Path, documents=4, names=NAMES):
    """Writes task files `<name>_local` and their data to a folder."""
    tasks = pathlib.Path(importlib.util.find_spec("lm_eval").origin).with_name("tasks")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        data = folder / f"{name}.jsonl"
        rows = [_rows(number)[name] for number in range(documents)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {split: str(data) for split in ("train", "validation", "test")}
        own = {
            "include": str(tasks / _FILES[name]),
            "task": f"{name}_local",
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        }
        if name == "triviaqa":
            ends = {"until": ["\n", ".", ","], "do_sample": False, "max_gen_toks": 16}
            own["generation_kwargs"] = ends
        (folder / f"{name}.yaml").write_text(json.dumps(own))  # which is YAML, too
    return folder

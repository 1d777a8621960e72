"""What the settings of a run mean, in one line each, and which one a word may stand for."""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from palmscale.run.nearest import nearest

_SECTION = re.compile(r"^(Attributes|Args):\n((?:[ ]+.*\n|\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)\.(?: |$)")

# What other frameworks call a field.
_OTHER_WORDS: dict[str, str] = {
    "PaLM.dim": "width hidden_size d_model n_embd embed_dim emb_dim model_dim",
    "PaLM.depth": "layers num_layers n_layer n_layers num_hidden_layers num_decoder_layers",
    "PaLM.heads": "num_heads n_head n_heads num_attention_heads num_query_heads",
    "PaLM.dim_head": "head_dim head_size d_kv d_head",
    "PaLM.ff_mult": "mlp_ratio mlp_dim intermediate_size ffn_dim d_ff hidden_dim",
    "PaLM.num_tokens": "vocab_size n_vocab vocabulary_size",
    "PaLM.remat": "gradient_checkpointing activation_checkpointing remat_policy recompute",
    "PaLM.dtype": "precision mixed_precision compute_dtype bf16 fp16",
    "Training.steps": "max_steps num_steps total_steps iterations max_iters num_train_steps epochs"
    " num_epochs num_train_epochs",
    "Training.seed": "random_seed init_seed",
    "Training.gradient_accumulation_steps": "grad_accum accumulate_grad_batches microbatches",
    "Training.eval_every_steps": "eval_interval eval_period eval_freq val_check_interval",
    "BatchSchedule.stages": "batch batch_size global_batch_size train_batch_size"
    " per_device_batch_size",
    "Data.sequence_length": "seq_len seq_length max_length context_length context_size block_size"
    " max_target_length max_position_embeddings",
    "Data.vocabulary": "tokenizer tokenizer_path vocab vocab_file vocab_path",
    "one_of.text_files": "dataset dataset_path data_path train_file train_files corpus text",
    "one_of.prompt_key": "prompt_column prompt_field input_key instruction_key question_key",
    "one_of.text_key": "text_column text_field completion_key response_key output_key answer_key",
    "base_model.workdir": "init_from init_checkpoint initial_checkpoint_path pretrained_model"
    " model_name_or_path load_parameters_path from_pretrained",
    "InverseSqrt.peak": "lr max_lr learning_rate",
    "WarmupCosine.peak": "lr max_lr learning_rate",
    "Constant.value": "lr learning_rate",
    "WarmupCosine.warmup_steps": "lr_warmup num_warmup_steps warmup_ratio warmup",
    "InverseSqrt.warmup_steps": "lr_warmup num_warmup_steps warmup_ratio warmup",
    "Adafactor.clip_global_norm": "grad_clip max_grad_norm gradient_clipping clip_norm",
    "AdamW.clip_global_norm": "grad_clip max_grad_norm gradient_clipping clip_norm",
    "Saving.every_steps": "checkpoint_period checkpoint_every save_steps save_interval ckpt_every",
    "KeepPolicy.latest": "save_total_limit max_to_keep keep",
    "MeshSpec.data": "dp fsdp data_parallel data_parallelism ici_fsdp_parallelism num_devices",
    "MeshSpec.model": "tp tensor_parallel tensor_parallelism ici_tensor_parallelism",
    "MeshSpec.replicas": "dcn_data_parallelism num_slices",
    "Reporting.wandb_project": "wandb wandb_name",
}


def meaning(target: Any, field: str) -> str:
    """Returns what the docstring of a class or function says of a field: its first sentence.

    Empty for a field that is not documented.
    """
    for owner in inspect.getmro(target) if inspect.isclass(target) else (target,):
        for _, section in _SECTION.findall(f"{inspect.cleandoc(owner.__doc__ or '')}\n"):
            for names, text in _ENTRY.findall(section):
                if field in names.split(", "):
                    return _SENTENCE_END.split(" ".join(text.split()))[0]
    return ""


def closest(word: str, settings: Mapping[str, Iterable[str]]) -> str | None:
    """Returns the setting that a word may stand for, by its name, another framework's, or spelling.

    Args:
        word: as the user wrote it: `DIM`, `hidden_size`.
        settings: what can be set, `TRAIN_STEPS` or `PaLM.dim`, and the fields that each sets.
    """
    spelled: dict[str, str] = {}
    for setting, fields in settings.items():
        for field in fields:
            for other in (*_OTHER_WORDS.get(field, "").split(), field.rpartition(".")[2]):
                spelled.setdefault(other, setting)
        spelled[setting.casefold()] = setting
    found = nearest(word, spelled)
    return None if found is None else spelled[found]

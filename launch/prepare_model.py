#!/usr/bin/env python3
"""Makes a Hugging Face model directory (bf16 safetensors) from a GGUF file.

  launch/prepare_model.py --gguf FILE --out DIR [--max-shard-size SIZE]

Weights are dequantized by transformers' own GGUF reader. The directory holds config.json,
generation_config.json, model*.safetensors, tokenizer.json and tokenizer_config.json. It appears in one
rename, so a directory that exists is complete; a second run leaves it as it is.
Exit codes: 0 done, 2 bad input, 3 machine (disk, memory, a missing package).
"""

import argparse
import json
import os
import shutil
import sys
import tempfile

from exit_codes import Failure, run

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything comes from the file
os.environ.setdefault("TQDM_DISABLE", "1")

NEEDED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
PROBE = "Round tables have 12 knights,  and no head — “ünïcödé” too.\n\tThe end."


def missing_files(directory):
    """The files that `directory` lacks to be a complete model; empty when it is one."""
    missing = [name for name in NEEDED if not os.path.isfile(os.path.join(directory, name))]
    index = os.path.join(directory, "model.safetensors.index.json")
    shards = ["model.safetensors"]
    if os.path.isfile(index):
        with open(index, encoding="utf-8") as f:
            shards = sorted(set(json.load(f)["weight_map"].values()))
    return missing + [name for name in shards if not os.path.isfile(os.path.join(directory, name))]


def check_gguf(path):
    if not os.path.isfile(path):
        raise Failure(f"{path}: no such file (--gguf takes a GGUF file)")
    with open(path, "rb") as f:
        magic = f.read(4)
    if magic != b"GGUF":
        raise Failure(f"{path}: not a GGUF file (it starts with {magic!r}, not b'GGUF')")


def load(gguf):
    """The float model and the tokenizer that the file holds."""
    import numpy
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    from transformers.utils import logging
    logging.disable_progress_bar()

    # The model is built from the config and filled by hand, because from_pretrained(gguf_file=...) needs
    # accelerate and marks the model as quantized, which save_pretrained then refuses.
    folder, name = os.path.split(os.path.abspath(gguf))
    try:
        config = AutoConfig.from_pretrained(folder, gguf_file=name)
        if hasattr(config, "rms_norm_eps"):  # GGUF keeps it as float32: 9.999999747e-06 was 1e-05
            config.rms_norm_eps = float(str(numpy.float32(config.rms_norm_eps)))
        config.dtype = torch.bfloat16
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        tensors = load_gguf_checkpoint(gguf, return_tensors=True, model_to_load=model)["tensors"]
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    except Exception as error:  # on a damaged file the readers raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Failure(f"{gguf}: transformers can't read it: {reason}")

    result = model.load_state_dict(tensors, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    absent = [name for name in result.missing_keys if name not in tied]
    if absent or result.unexpected_keys:
        raise Failure(f"{gguf}: its tensors don't fit {config.model_type}: missing {absent[:3]}, "
                      f"unknown {list(result.unexpected_keys)[:3]}")
    model.tie_weights()
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise Failure(f"{gguf}: {name} holds values that aren't finite")

    for name in ("_name_or_path", "_model_name_or_path"):  # nothing of this machine goes into the output
        model.config.__dict__.pop(name, None)
    if getattr(config, "max_position_embeddings", None):
        tokenizer.model_max_length = config.max_position_embeddings
    return model, tokenizer


def check_written(directory):
    """Reads the directory back as its users do. Returns a greedy continuation of a sentence, for the user to look at."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    tokenizer = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    back = tokenizer.decode(tokenizer.encode(PROBE, add_special_tokens=False).ids)
    if back != PROBE:
        raise Failure(f"the tokenizer doesn't give back its input: {PROBE!r} became {back!r}")

    import torch
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    ids = tokenizer.encode("The capital of France is", add_special_tokens=False).ids
    out = model.generate(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                         max_new_tokens=8, do_sample=False)
    return tokenizer.decode(out[0].tolist())


def prepare(gguf, out, max_shard_size):
    out = os.path.abspath(out)
    if os.path.isdir(out) and os.listdir(out):
        missing = missing_files(out)
        if not missing:
            print(f"{out}: complete already, left as it is")
            return
        raise Failure(f"{out}: exists, but isn't a complete model (no {missing[0]}); remove it or choose another --out")
    if os.path.exists(out) and not os.path.isdir(out):
        raise Failure(f"{out}: exists and isn't a directory; choose another --out")
    check_gguf(gguf)

    parent = os.path.dirname(out)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=os.path.basename(out) + ".tmp.", dir=parent)
    try:
        model, tokenizer = load(gguf)
        model.save_pretrained(temporary, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(temporary)
        text = check_written(temporary)
        missing = missing_files(temporary)
        if missing:
            raise Failure(f"transformers didn't write {missing[0]}")
        os.chmod(temporary, 0o755)  # mkdtemp and safetensors write private files
        for name in os.listdir(temporary):
            os.chmod(os.path.join(temporary, name), 0o644)
            with open(os.path.join(temporary, name), "rb") as f:
                os.fsync(f.fileno())
        os.rename(temporary, out)  # replaces an empty directory, fails on any other
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    size = sum(os.path.getsize(os.path.join(out, name)) for name in os.listdir(out))
    print(f"{out}: {model.config.model_type}, {model.num_parameters() / 1e6:.1f} M parameters, {size / 1e6:.1f} MB; continues a test sentence with {text!r}")


def main():
    parser = argparse.ArgumentParser(description="Makes a Hugging Face model directory from a GGUF file.")
    parser.add_argument("--gguf", required=True, metavar="FILE", help="the GGUF file")
    parser.add_argument("--out", required=True, metavar="DIR", help="the model directory to make")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="bytes per safetensors file (default 5GB)")
    arguments = parser.parse_args()
    return run(prepare, arguments.gguf, arguments.out, arguments.max_shard_size)


if __name__ == "__main__":
    sys.exit(main())

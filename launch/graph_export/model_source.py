"""From config.json to a model without weights: the class, the config, and buffers that hold what the config alone decides."""

import copy
import hashlib
import json
import os
import re

import torch
import transformers

from . import mixtures
from .errors import BadInput, reason

# Published under a name of their own, with the code of another model: vLLM, transformers_utils/config.py, _CONFIG_REGISTRY.
SAME_AS = {"kimi_k2": "deepseek_v3"}
CLASS_ENDINGS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


def config_sha256(folder):
    with open(os.path.join(folder, "config.json"), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def read_config_json(folder):
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            raw = json.load(file)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; name the folder of a model")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON: {error}")
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise BadInput(f"{path}: it has no model_type, so it does not describe a model")
    return raw


class Source:
    """A model's config and the class that runs it."""

    def __init__(self, folder, own_code=False):
        self.folder = folder
        self.path = os.path.join(folder, "config.json")
        raw = read_config_json(folder)
        self.model_type = raw["model_type"]
        known = SAME_AS.get(self.model_type, self.model_type) in transformers.CONFIG_MAPPING
        self.own_code = own_code and not known  # transformers' own class is taken if there is one
        if not known and not (own_code and "auto_map" in raw):
            way = ("it comes with its own code, which runs only with --trust-remote-code" if "auto_map" in raw
                   else "take a transformers that knows it")
            raise BadInput(f"{self.path}: model_type: transformers {transformers.__version__} does not know "
                           f"'{self.model_type}'; {way}")
        try:
            self.config = self._read_config(raw)
        except Exception as error:  # a config's own checks raise anything
            raise BadInput(f"{self.path}: transformers cannot read it: {reason(error)}")
        for part in [self.config, *sub_configs(self.config)]:
            if getattr(part, "quantization_config", None) is not None:
                del part.quantization_config  # weights are dequantized before they reach a graph
        self.model_class = self._find_class(raw)

    def _read_config(self, raw):
        if self.model_type in SAME_AS and self.model_type not in transformers.CONFIG_MAPPING:
            name = SAME_AS[self.model_type]
            return transformers.CONFIG_MAPPING[name].from_dict({**raw, "model_type": name, "auto_map": {}})
        return transformers.AutoConfig.from_pretrained(self.folder, trust_remote_code=self.own_code)

    def _find_class(self, raw):
        names = raw.get("architectures") or []
        for name in names:
            found = getattr(transformers, name, None) if isinstance(name, str) and name.endswith(CLASS_ENDINGS) else None
            if found is not None and getattr(found, "config_class", None) is type(self.config):
                return found
        for auto in (transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText):
            if type(self.config) in auto._model_mapping:
                found = auto._model_mapping[type(self.config)]
                # As from_config() does (transformers 5.23, models/auto/auto_factory.py): the text part of a larger config.
                if found.config_class is (getattr(self.config, "sub_configs", None) or {}).get("text_config"):
                    self.config = self.config.get_text_config()
                return found
        if self.own_code:
            return transformers.AutoModelForCausalLM
        raise BadInput(f"{self.path}: model_type '{self.model_type}' is no causal language model of transformers")

    def build(self, config, dtype, device):
        """A model in evaluation mode, with 'sdpa' as its attention where its code knows that, else 'eager'."""
        try:
            try:
                return self._build(config, dtype, device, "sdpa")
            except ValueError as error:  # "... does not support an attention implementation through sdpa"
                if "attention" not in str(error):
                    raise
                return self._build(config, dtype, device, "eager")
        except Exception as error:  # the model's own code raises anything
            raise BadInput(f"{self.path}: the model cannot be built: {reason(error)}")

    def _build(self, config, dtype, device, attention):
        options = dict(attn_implementation=attention, dtype=dtype)
        own = copy.deepcopy(config)
        with torch.device(device):
            if hasattr(self.model_class, "_from_config"):
                model = self.model_class._from_config(own, **options)
            else:
                model = self.model_class.from_config(own, trust_remote_code=self.own_code, **options)
        for part in [model.config, *sub_configs(model.config)]:
            part._experts_implementation_internal = "grouped_mm"  # the others loop over experts
        keep_in_fp32(model, dtype)
        mixtures.prepare(model)
        return model.eval()


def sub_configs(config):
    """The configs that lie in a config, at any depth."""
    for value in vars(config).values():
        if isinstance(value, transformers.PretrainedConfig):
            yield value
            yield from sub_configs(value)


def keep_in_fp32(model, dtype):
    """What from_pretrained() keeps in fp32 whatever the model's dtype: transformers 5.23, modeling_utils.py,
    _get_dtype_plan."""
    patterns = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        patterns |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    if dtype == torch.float32 or not patterns:
        return
    wanted = re.compile("|".join(rf"(?:^|\.)(?:{p})(?:\.|$)" for p in sorted(patterns)))
    for module_name, module in model.named_modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                full = f"{module_name}.{name}" if module_name else name
                if tensor is not None and tensor.is_floating_point() and wanted.search(full):
                    new = tensor.detach().float()
                    store[name] = torch.nn.Parameter(new, requires_grad=tensor.requires_grad) if store is module._parameters else new


def fill_buffers(model):
    """Gives buffers on the meta device the values that follow from the config (RoPE frequencies), as from_pretrained()
    does. Parameters are still on the meta device, so theirs cost nothing."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type == "meta":
                module._buffers[name] = torch.zeros_like(buffer, device="cpu")
        module.__dict__.pop("_is_hf_initialized", None)
    with torch.no_grad():
        model.initialize_weights()


def computed_buffers(model):
    """name -> buffer, of those that no checkpoint holds."""
    kept = set(model.state_dict(keep_vars=True))
    return {name: buffer for name, buffer in model.named_buffers() if name not in kept}

"""Every format as its own reader reads it: transformers with auto-round, compressed-tensors or gguf, on the CPU in fp32.

The reference is `roundtable eval` of the same run's first format. auto-round offers AWQ on CPUs only through packages that
are not installed here: its own layer (WQLinear_GEMM's dequantize_gemm) reads the tensors instead, and its own rules say
which layers are quantized.
"""

import sys
import unittest

from logits_test import LogitsCase, load, logits_of  # first: it hides the devices and registers auto-round's layers

import numpy
import torch
import transformers
from auto_round.export.export_to_awq.utils import dequantize_gemm
from auto_round.inference.convert_model import get_layer_config
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import program
import tiny_model
from llama_cpp import LlamaCpp

PACKED = ["auto_round", "auto_round:auto_awq", "auto_gptq", "auto_awq", "llm_compressor", "qdq"]
RULES = {"model.layers.0.mlp.up_proj": {"bits": 8}, "[qk]_proj$": {"bits": 2, "group_size": 64},
         "layers.[12].*v_proj": {"bits": 3, "scheme": "asym"}, "mlp.gate": {"group_size": -1}}


def load_with(path, **options):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu",
                                                              attn_implementation="eager", **options)
    model = model.to(torch.float32)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model.eval()


def load_awq(path, case):
    """The float model with the weights that auto-round's AWQ layer computes with."""
    model, settings = float_model(path)
    tensors = tensors_of(path)
    stated = transformers.AutoRoundConfig.from_dict(dict(settings))
    model.config.quantization_config = stated
    schemes = get_layer_config(model, stated)
    del model.config.quantization_config
    state, quantized = {}, set()
    for name in [n for n in tensors if n.endswith(".qweight")]:
        layer = name.removesuffix(".qweight")
        quantized.add(layer)
        packed = [tensors.pop(f"{layer}.{part}") for part in ("qweight", "qzeros", "scales")]
        group_size = schemes[layer]["group_size"]
        case.assertEqual(schemes[layer]["bits"], 4)
        width = packed[0].shape[0] if group_size == -1 else group_size
        state[f"{layer}.weight"] = dequantize_gemm(packed[0], packed[1], packed[2].float(), 4, width).t()
    case.assertEqual(quantized, {name for name, scheme in schemes.items() if scheme["bits"] <= 8})
    return loaded(model, state | tensors, case)


def tensors_of(path):
    tensors = {}
    for file in path.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def float_model(path):
    """The model with random weights, and its quantization_config."""
    config = transformers.AutoConfig.from_pretrained(path)
    settings = config.quantization_config
    del config.quantization_config
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager"), settings


def load_compressed(path, case):
    """compressed-tensors says by itself which module has which scheme, and decompresses it."""
    skeleton, settings = float_model(path)
    apply_quantization_config(skeleton, QuantizationConfig.model_validate(settings))
    model, tensors, state = float_model(path)[0], tensors_of(path), {}
    for name, module in skeleton.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        case.assertEqual(scheme is not None, f"{name}.weight_packed" in tensors, name)
        if scheme is None:
            continue
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        parts = {part: tensors.pop(f"{name}.{part}") for part in compressor.compression_param_names(scheme)}
        if compressor is PackedQuantizationCompressor:
            parts["weight_scale"] = parts["weight_scale"].float()
        state[f"{name}.weight"] = compressor.decompress(parts, scheme)["weight"]
    return loaded(model, state | tensors, case)


def loaded(model, state, case):
    result = model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    case.assertEqual(result.unexpected_keys, [])
    case.assertEqual([k for k in result.missing_keys if "rotary" not in k], [])
    return model.eval()


def load_format(path, format, case):
    if format.endswith("auto_awq"):
        return load_awq(path, case)
    if format == "auto_gptq":
        return load_with(path, quantization_config=transformers.AutoRoundConfig())
    if format.startswith("auto_round"):
        return load(path)
    if format == "llm_compressor" and '"symmetric": false' in (path / "config.json").read_text():
        # transformers cannot: the empty model that compressed-tensors 0.20.0 makes for it has zero points that are not
        # packed, which is not what its own compress() writes and vLLM reads.
        return load_compressed(path, case)
    return load_with(path)


class FormatsCase(LogitsCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=8, seqlen=32)

    def quantize(self, name, changes):
        output = self.folder / name
        config = program.write_config(self.folder / f"{name}.yaml", {
            "calibration.tokens": str(self.folder / "tokens.safetensors"),
            "calibration.n_samples": 8,
            "calibration.seqlen": 32,
            "quantization.group_size": 32,
            "tuning.iters": 3,
            "tuning.batch_size": 4,
            "tuning.amp": False,
            "parallel.threads": 1,
            "output.path": str(output),
        } | changes)
        self.succeed(["quantize", config], 2)
        return output

    def reference(self, path):
        ids = tiny_model.make_tokens(self.folder / "ids.safetensors", rows=4, seqlen=40, seed=11)
        return ids, self.ours(path, ids)[1]

    def hold(self, what, model, ids, ours, bound=1e-4):
        theirs = logits_of(model, ids)
        error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        print(f"{what}: logits differ by {error:.1e} of their scale", file=sys.stderr)
        self.assertLess(error, bound, what)


class PackedTest(FormatsCase):
    def hold_all(self, name, family, changes, formats):
        tiny_model.make_model(self.folder / family, family, dtype=torch.bfloat16)
        output = self.quantize(name, {"model.path": str(self.folder / family),
                                      "output.formats": ["auto_round:auto_gptq"] + formats} | changes)
        ids, ours = self.reference(output)
        for format in formats:
            path = output / format.replace(":", "-")
            # qdq is rounded to bf16 once more, as the float model's weights are.
            self.hold(f"{name}, {format}", load_format(path, format, self), ids, ours, 3e-2 if format == "qdq" else 1e-4)

    def test_llama_sym(self):
        self.hold_all("llama-sym", "llama", {}, PACKED)

    def test_qwen2_asym_channel(self):
        self.hold_all("qwen2-asym", "qwen2", {"quantization.scheme": "asym", "quantization.group_size": -1}, PACKED)

    def test_layers_kept(self):
        self.hold_all("kept", "llama", {"quantization.ignore_layers": ["layers.1.mlp.down", "o_proj"]}, PACKED)

    def test_bits(self):
        formats = ["auto_round", "auto_gptq", "llm_compressor"]
        for bits in (2, 3, 8):
            self.hold_all(f"w{bits}", "llama", {"quantization.bits": bits, "quantization.scheme": "asym"}, formats)

    def test_mixed(self):
        self.hold_all("mixed", "llama", {"quantization.weight_config": RULES,
                                         "quantization.ignore_layers": ["layers.2.mlp"]},
                      ["auto_round", "auto_gptq", "llm_compressor", "qdq"])

    def test_floats_of_4_bits(self):
        """Their dequantized weights are bf16 numbers: qdq's too are exact. transformers unpacks them to bf16 in the first
        forward pass, and so computes in it here."""
        for data_type, group_size, format in (("mx_fp", 32, "mxfp4"), ("nv_fp", 16, "nvfp4")):
            tiny_model.make_model(self.folder / "llama", "llama", dtype=torch.bfloat16)
            output = self.quantize(format, {
                "model.path": str(self.folder / "llama"), "output.formats": [format, "qdq"],
                "quantization.data_type": data_type, "quantization.group_size": group_size,
                "quantization.ignore_layers": ["layers.1.mlp.down"]})
            ids, ours = self.reference(output)
            self.hold(format, load_compressed(output, self), ids, ours)
            half = transformers.AutoModelForCausalLM.from_pretrained(output, dtype=torch.bfloat16, device_map="cpu")
            self.hold(f"{format}, transformers in bf16", half.eval(), ids, ours, 8e-2)
            self.hold(f"{format}, qdq", load_with(output / "qdq"), ids, ours)
            unquantized = self.ours(self.folder / "llama", ids)[1]
            self.assertGreater(((ours - unquantized).abs().max() / ours.abs().max()).item(), 1e-2)
            self.succeed(["convert", output, "--format", "qdq", "--output", self.folder / f"{format}-converted"])
            self.assertEqual((self.folder / f"{format}-converted" / "model.safetensors").read_bytes(),
                             (output / "qdq" / "model.safetensors").read_bytes())

    def test_rounded_without_a_model(self):
        """`round` knows layers by their names alone: readers see the logits of `quantize` without steps."""
        tiny_model.make_model(self.folder / "llama", "llama", dtype=torch.bfloat16)
        formats = ["auto_round", "llm_compressor"]
        quantized = self.quantize("stepless", {"model.path": str(self.folder / "llama"), "output.formats": formats,
                                               "tuning.iters": 0, "tuning.init_scale": "one"})
        ids, ours = self.reference(quantized)
        rounded = self.folder / "rounded"
        self.succeed(["round", self.folder / "stepless.yaml", "--set", f"output.path={rounded}"], 2)
        for format, path in zip(formats, (rounded, rounded / "llm_compressor")):
            self.hold(f"rounded, {format}", load_format(path, format, self), ids, ours)

    def test_qdq_is_what_was_tuned_rounded_once(self):
        """Against the integers, tensor by tensor: dequantized here, by hand."""
        tiny_model.make_model(self.folder / "llama", "llama", dtype=torch.bfloat16)
        output = self.quantize("by-hand", {"model.path": str(self.folder / "llama"),
                                           "output.formats": ["llm_compressor", "qdq"]})
        packed, plain = {}, load_file(output / "qdq" / "model.safetensors")
        for file in output.glob("*.safetensors"):
            packed |= load_file(file)
        for name in [n for n in packed if n.endswith(".weight_packed")]:
            layer = name.removesuffix(".weight_packed")
            words = packed[name].numpy().view(numpy.uint32)
            q = torch.from_numpy(((words[:, :, None] >> (4 * numpy.arange(8, dtype=numpy.uint32))) & 15)
                                 .astype(numpy.float32).reshape(words.shape[0], -1)) - 8
            weight = (q * packed[f"{layer}.weight_scale"].float().repeat_interleave(32, 1)).to(torch.bfloat16)
            self.assertTrue(torch.equal(plain[f"{layer}.weight"], weight), layer)


class GgufTest(FormatsCase):
    """Through transformers' own reader of GGUF, which dequantizes with the gguf package, and through llama.cpp."""

    TEXT = "def main(): return 'The quick brown fox'  # 1234"
    SHAPE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    # family, bits, scheme, group_size, what llama.cpp calls it
    CASES = [("llama", 4, "sym", 32, "Q4_0"), ("llama", 4, "asym", 64, "Q4_1"), ("mistral", 8, "sym", 64, "Q8_0"),
             ("qwen2", 4, "asym", 256, "Q4_K"), ("llama", 3, "sym", -1, "Q3_K"), ("qwen3", 2, "sym", 256, "Q2_K"),
             ("llama", 2, "asym", -1, "Q2_K")]

    def make_model(self, family):
        path = self.folder / family
        if path.exists():
            return path
        own = {"head_dim": 128, "use_sliding_window": False} if family == "qwen3" else {}  # the reader knows no other
        if family == "mistral":
            own = {"sliding_window": None}
        if family == "llama":
            own = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
                                       "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                       "original_max_position_embeddings": 64}}
        tiny_model.make_model(path, family, dtype=torch.bfloat16, **self.SHAPE | own)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=tiny_model.VOCAB, special_tokens=["<s>", "</s>"], show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokenizer.train_from_iterator(open(transformers.__file__, encoding="utf-8"), trainer)
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                                             chat_template="{{ messages }}").save_pretrained(path)
        return path

    def test_gguf(self):
        import gguf
        for i, (family, bits, scheme, group_size, type) in enumerate(self.CASES):
            model_path = self.make_model(family)
            output = self.quantize(f"gguf-{i}", {
                "model.path": str(model_path), "output.formats": ["llm_compressor", "gguf"], "quantization.bits": bits,
                "quantization.scheme": scheme, "quantization.group_size": group_size})
            ids, ours = self.reference(output)
            reader = gguf.GGUFReader(output / "gguf" / "model.gguf")
            kinds = {tensor.tensor_type.name for tensor in reader.tensors if "blk." in tensor.name and "norm" not in tensor.name
                     and tensor.name.endswith(".weight")}
            self.assertEqual(kinds, {type})
            name = {"llama": "LlamaForCausalLM", "mistral": "LlamaForCausalLM"}.get(family)
            model = load_with(output / "gguf", gguf_file="model.gguf")
            if name:
                self.assertEqual(model.__class__.__name__, name)
            if family == "llama":  # the reader leaves the factors of Llama 3's RoPE out
                factors = next(t for t in reader.tensors if t.name == "rope_freqs.weight").data
                self.assertEqual(factors.shape, (32,))
                config = transformers.AutoConfig.from_pretrained(model_path)
                own = type_of_rope(model)(config)
                plain = 1 / 10000.0 ** (torch.arange(0, 64, 2) / 64)
                self.assertTrue(torch.allclose(own.inv_freq, plain / torch.from_numpy(factors.copy()), rtol=1e-5))
                model.model.rotary_emb = own
            # Q4_1 holds its minimum in fp16.
            self.hold(f"{family}, {type}", model, ids, ours, 1e-2 if type == "Q4_1" else 1e-4)
            self.hold_tokenizer(model_path, output / "gguf")
            self.hold_llama_cpp(f"{family}, {type}", model_path, output / "gguf" / "model.gguf", ids, ours)

    def hold_llama_cpp(self, what, model_path, path, ids, ours):
        """llama.cpp rounds activations to 8 bits before each product, which a random model hands on unabated."""
        with LlamaCpp(path) as model:
            theirs = torch.from_numpy(model.logits(ids))
            error = ((ours - theirs).norm() / ours.norm()).item()
            print(f"{what}: llama.cpp's logits differ by {error:.1e} of their norm", file=sys.stderr)
            self.assertLess(error, 6e-2, what)
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(model_path)
            self.assertEqual(model.tokenize(self.TEXT), tokenizer(self.TEXT, add_special_tokens=False).input_ids)

    def hold_tokenizer(self, model_path, path):
        ours = transformers.PreTrainedTokenizerFast.from_pretrained(model_path)
        theirs = transformers.AutoTokenizer.from_pretrained(path, gguf_file="model.gguf")
        self.assertEqual(theirs(self.TEXT, add_special_tokens=False).input_ids,
                         ours(self.TEXT, add_special_tokens=False).input_ids)
        self.assertEqual((theirs.bos_token, theirs.eos_token), ("<s>", "</s>"))
        self.assertEqual(theirs.chat_template, "{{ messages }}")

    def test_several_files(self):
        import gguf
        output = self.quantize("split", {"model.path": str(self.make_model("qwen2")), "output.formats": ["llm_compressor"]})
        for name, size in (("whole", "5GB"), ("parts", "300KB")):
            self.succeed(["convert", output, "--format", "gguf", "--output", self.folder / name, "--max-shard-size", size], 2)
        whole = {t.name: t.data.tobytes() for t in gguf.GGUFReader(self.folder / "whole" / "model.gguf").tensors}
        paths = sorted((self.folder / "parts").glob("*.gguf"))
        self.assertGreater(len(paths), 2)
        parts = {}
        for i, path in enumerate(paths):
            self.assertEqual(path.name, f"model-{i + 1:05d}-of-{len(paths):05d}.gguf")
            reader = gguf.GGUFReader(path)
            self.assertEqual(reader.fields["split.no"].contents(), i)
            self.assertEqual(reader.fields["split.count"].contents(), len(paths))
            self.assertEqual(reader.fields["split.tensors.count"].contents(), len(whole))
            parts |= {t.name: t.data.tobytes() for t in reader.tensors}
        self.assertEqual(parts, whole)
        ids = tiny_model.make_tokens(self.folder / "ids.safetensors", rows=1, seqlen=40, seed=11)
        logits = []
        for path in (self.folder / "whole" / "model.gguf", paths[0]):
            with LlamaCpp(path) as model:  # finds the other parts by their names
                logits.append(model.logits(ids))
        numpy.testing.assert_array_equal(*logits)

    def test_a_window_that_llama_cpp_does_not_keep_is_refused(self):
        tiny_model.make_model(self.folder / "window", "mistral", dtype=torch.bfloat16)
        config = program.write_config(self.folder / "window.yaml", {
            "model.path": str(self.folder / "window"), "calibration.tokens": str(self.folder / "tokens.safetensors"),
            "calibration.n_samples": 8, "calibration.seqlen": 32, "quantization.group_size": 32, "tuning.batch_size": 4,
            "output.path": str(self.folder / "no"), "output.formats": ["gguf"]})
        self.fail_with(["plan", config], 1, 2, "output.formats", "gguf cannot hold this", "window of 16 tokens")

    def test_a_tokenizer_without_a_place_is_refused(self):
        tiny_model.make_model(self.folder / "words", "llama", dtype=torch.bfloat16)
        config = program.write_config(self.folder / "words.yaml", {
            "model.path": str(self.folder / "words"), "calibration.tokens": str(self.folder / "tokens.safetensors"),
            "calibration.n_samples": 8, "calibration.seqlen": 32, "quantization.group_size": 32, "tuning.batch_size": 4,
            "output.path": str(self.folder / "no"), "output.formats": ["gguf"]})
        self.fail_with(["plan", config], 1, 2, "output.formats", "gguf cannot hold this", "byte-level BPE")


def type_of_rope(model):
    return type(model.model.rotary_emb)


if __name__ == "__main__":
    unittest.main()

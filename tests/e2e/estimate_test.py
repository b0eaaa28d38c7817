"""calibration.estimate: stages start from the hidden states of a quantized checkpoint, as transformers computes them."""

import unittest

import h5py
import numpy
import torch
import transformers
from safetensors.numpy import load_file

import program
import tiny_model

SECOND_STAGE = 2  # of two stages of two blocks


class EstimateTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.inputs = tiny_model.make_inputs(cls.folder) | {
            "quantization.bits": 3,
            "tuning.iters": 10,
            "tuning.amp": False,
            "parallel.shards": 1,
            "parallel.stages": 2,
            "run.keep_boundaries": True,
        }
        cls.config = program.write_config(cls.folder / "config.yaml", cls.inputs)
        program.run(cls.command("estimate", "tuning.iters=0", "output.formats=auto_round,qdq"))
        cls.ids = load_file(cls.folder / "tokens.safetensors")["input_ids"]

    @classmethod
    def command(cls, name, *settings):
        return program.quantize_command(cls.config, cls.folder / name, *settings)

    def boundary(self, name, block):
        with h5py.File(self.folder / f"{name}.run" / f"boundary-{block:05}.h5") as file:
            return file["hidden_states"][:].astype(numpy.float32)

    def states_of_estimate(self, block):
        model = transformers.AutoModelForCausalLM.from_pretrained(self.folder / "estimate" / "qdq", dtype=torch.float32)
        with torch.no_grad():
            out = model(torch.from_numpy(self.ids).long(), output_hidden_states=True, use_cache=False)
        return out.hidden_states[block].numpy()

    def test_stages_start_from_the_quantized_chain(self):
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                name = f"from-estimate-{ranks}"
                self.succeed(self.command(name, f"calibration.estimate={self.folder / 'estimate'}"), ranks)
                found, expected = self.boundary(name, SECOND_STAGE), self.states_of_estimate(SECOND_STAGE)
                error = numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected)
                self.assertLess(error, 1e-4)
        self.succeed(self.command("from-float"))
        float_states = self.boundary("from-float", SECOND_STAGE)
        self.assertGreater(numpy.linalg.norm(float_states - expected) / numpy.linalg.norm(expected), 0.01)
        self.assertTrue(numpy.array_equal(self.boundary("from-float", 0), self.boundary(name, 0)), "the embeddings")

    def test_another_estimate_is_another_run(self):
        self.succeed(self.command("changed"))
        self.fail_with(self.command("changed", f"calibration.estimate={self.folder / 'estimate'}"), 1, 2,
                       "calibration.estimate")

    def test_another_model_is_refused(self):
        other = tiny_model.make_model(self.folder / "other", num_hidden_layers=2)
        self.fail_with(self.command("refused", f"calibration.estimate={other}"), 2, 2, "calibration.estimate", other,
                       "is another model than")
        self.fail_with(self.command("absent", "calibration.estimate=/nowhere"), 2, 2, "/nowhere")

    def test_one_stage_is_warned_of(self):
        _, *rest = self.command("one", "parallel.stages=1", f"calibration.estimate={self.folder / 'estimate'}")
        result = self.succeed(["plan", *rest])
        self.assertIn("calibration.estimate changes nothing", result.out + result.err)


if __name__ == "__main__":
    unittest.main()

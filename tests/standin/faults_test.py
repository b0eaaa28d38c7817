"""What devices that fail make the program say. The stand-in's variables make them fail; README.md lists them."""

import tempfile
import unittest

import program
import standin
import tiny_model


class FaultsTest(standin.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, num_hidden_layers=2)
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {"tuning.iters": 4, "parallel.shards": 0})

    def fails(self, code, words, ranks=1, *settings, **environment):
        output = tempfile.mkdtemp(dir=self.folder) + "/out"  # each run begins from nothing
        command = program.quantize_command(self.config, output, *settings)
        result = self.run_standin(command, ranks, **environment)
        self.assertEqual(result.code, code, result)
        self.assertEqual(len(result.errors), 1, result)
        for word in words:
            self.assertIn(word, result.errors[0])

    def test_memory_of_a_device_that_is_full(self):
        self.fails(3, ["out of memory", "tuning.micro_batch"], STANDIN_OUT_OF_MEMORY="0:2000")

    def test_memory_that_is_full_while_sums_are_under_way(self):
        """The communicator is aborted: to destroy it would wait for sums in which the other rank never takes part."""
        for tensor in (2100, 2300, 2500):
            with self.subTest(tensor):
                self.fails(3, ["rank 1 on ", "out of memory"], 2, "run.time_limit=00:01:00", STANDIN_OUT_OF_MEMORY=f"1:{tensor}")

    def test_two_ranks_on_one_device(self):
        self.fails(3, ["ranks 0 and 1 on ", "both have the device Stand-in H100 (GPU-01000000-", "--ntasks-per-node"], 2,
                   STANDIN_DEVICES="1")
        command = program.quantize_command(self.config, self.folder / "shared", "parallel.share_devices=true",
                                           "parallel.shards=1", "tuning.iters=1")
        self.standin(command, 2, STANDIN_DEVICES="1")

    def test_nccl_that_reports_an_error_later(self):
        self.fails(3, ["NCCL", "remote process exited"], 2, STANDIN_NCCL_ERROR="1:4")

    def test_one_node_with_an_old_driver(self):
        self.fails(3, ["rank 1 on ", "driver on your system is too old (found version 12000)"], 2,
                   STANDIN_DRIVER="13000,12000")

    def test_a_machine_without_a_driver(self):
        self.fails(2, ["parallel.backend", "NVIDIA driver"], 1, "parallel.backend=nccl", STANDIN_DRIVER="0")


if __name__ == "__main__":
    unittest.main()

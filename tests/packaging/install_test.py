"""cmake --install gives a tree that runs after it was moved: binary, scripts, configs, man page, environment module."""

import os
import pathlib
import shutil
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "launch")]
import program
import run_directory

BUILD = os.environ["ROUNDTABLE_BUILD_DIR"]
MODULECMD = next((p for p in ("/usr/lib/x86_64-linux-gnu/modulecmd.tcl", "/usr/lib/aarch64-linux-gnu/modulecmd.tcl",
                              "/usr/share/modules/libexec/modulecmd.tcl") if os.path.exists(p)), None)


def call(*command, **options):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, **options)


class InstallTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        first = cls.folder / "first place"
        done = call("cmake", "--install", BUILD, "--prefix", first)
        if done.returncode:
            raise AssertionError(done.stdout + done.stderr)
        cls.tree = cls.folder / "moved"
        shutil.move(first, cls.tree)
        cls.share = cls.tree / "share" / "roundtable"
        cls.binary = cls.tree / "bin" / "roundtable"

    def expect(self, done, code=0):
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout

    def test_the_binary_runs_and_reads_an_installed_recipe(self):
        out = self.expect(call(self.binary, "plan", self.share / "configs" / "llama-3.1-8b-w4g128.yaml", "--cluster",
                               self.share / "configs" / "clusters" / "h100-1.yaml",
                               "--set", f"model.path={ROOT}/tests/data/models/llama-3.1-8b"))
        self.assertIn("memory", out)

    def test_nothing_leads_back_to_where_it_was_built(self):
        paths = call("readelf", "-d", self.binary).stdout
        self.assertIn("$ORIGIN/../lib", paths)
        self.assertNotIn(BUILD, paths)
        for path in self.tree.rglob("*"):
            if path.is_file() and path != self.binary:
                text = path.read_bytes()
                for place in (BUILD, str(ROOT), str(self.folder)):
                    self.assertNotIn(place.encode(), text, path)

    def test_the_man_page_has_no_fault_and_every_key(self):
        page = self.tree / "share" / "man" / "man1" / "roundtable.1"
        done = call("groff", "-man", "-Tutf8", "-P-cbou", "-ww", "-rLL=130n", page)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        text = " ".join(done.stdout.split())
        for words in ("roundtable quantize", "calibration.n_samples", "exit status", "events.jsonl"):
            self.assertIn(words.lower(), text.lower())

    def test_the_scripts_run(self):
        run_directory.make(self.folder / "out.run", blocks=2, groups=1)
        out = self.expect(call(self.share / "launch" / "report.py", self.folder / "out.run"))
        self.assertIn("report.html", out)
        done = call(sys.executable, self.share / "launch" / "prepare_calibration.py", "--model", self.folder / "none", "--text",
                    self.share / "launch" / "report.css", "--seqlen", 8, "--n-samples", 1, "--out", self.folder / "tokens")
        self.expect(done, 2)
        self.assertIn("its name must end in .jsonl", done.stderr)
        self.assertTrue((self.share / "launch" / "calibration" / "tokenizer.py").exists())
        done = call(self.share / "launch" / "lm_eval.sh", self.folder, env=os.environ | {"PYTHON": sys.executable})
        self.expect(done, 2)
        self.assertIn("holds no config.json", done.stderr)
        self.assertTrue((self.share / "launch" / "lm_eval" / "heldout_perplexity.yaml").exists())

    @unittest.skipUnless(MODULECMD, "no Environment Modules here")
    def test_the_module_finds_the_tree_it_lies_in(self):
        modules = self.share / "cluster" / "modules"
        environment = {"PATH": os.environ["PATH"], "MODULEPATH": str(modules), "HOME": str(self.folder)}
        done = call("tclsh", MODULECMD, "bash", "load", "roundtable", env=environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        script = done.stdout + "\nroundtable --version && echo $ROUNDTABLE_HOME && echo $MANPATH"
        out = self.expect(call("bash", "-c", script, env=environment | {"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}))
        self.assertIn("roundtable 0.", out)
        self.assertIn(str(self.share), out)
        self.assertIn(str(self.tree / "share" / "man"), out)

    @unittest.skipUnless(MODULECMD, "no Environment Modules here")
    def test_the_module_refuses_where_there_is_no_tree(self):
        environment = {"PATH": os.environ["PATH"], "MODULEPATH": str(ROOT / "cluster" / "modules"), "HOME": str(self.folder)}
        done = call("tclsh", MODULECMD, "bash", "load", "roundtable", env=environment)
        self.assertIn("set ROUNDTABLE_ROOT to the installed tree", done.stderr)


if __name__ == "__main__":
    unittest.main()

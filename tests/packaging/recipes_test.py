"""The container and package recipes, as far as they can be held here: their syntax, and that they name what the build
and the installation need. No image is built and nothing is concretized: that takes registries and Spack.

Apptainer definition, Dockerfile: parsed, held against launch/setup.sh and the source tree, and by spython and hadolint.
Spack recipe: run against stand-ins of Spack's directives. Shell scripts: shellcheck.
"""

import os
import pathlib
import re
import subprocess
import sys
import types
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINTERS = pathlib.Path(os.environ.get("ROUNDTABLE_LINTERS", ""))  # launch/setup.sh --slurm makes them
CLUSTER = ROOT / "cluster"

# Debian packages of the build, without what only tests, ccache and the graphical tools need.
NOT_FOR_A_BUILD = {"ccache", "pkg-config", "hdf5-tools", "libgtest-dev", "libgmock-dev"}


def packages_of_setup():
    text = (ROOT / "launch" / "setup.sh").read_text()
    install = re.search(r"^apt_install (g\+\+.*?)\n\n", text, re.DOTALL | re.MULTILINE)[1]
    return set(install.replace("\\\n", " ").split()) - NOT_FOR_A_BUILD


def instructions(dockerfile):
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split(None, 1) for line in text.splitlines() if line.strip()]


class ContainersTest(unittest.TestCase):
    def test_the_dockerfile_builds_and_runs_what_setup_installs(self):
        found = instructions(CLUSTER / "docker" / "Dockerfile")
        known = {"FROM", "ENV", "RUN", "COPY", "WORKDIR", "ENTRYPOINT", "CMD"}
        self.assertLessEqual({name for name, _ in found}, known)
        build = " ".join(words for name, words in found if name == "RUN")
        self.assertEqual([p for p in packages_of_setup() if p not in build.split()], [])
        stages = {words.split(" AS ")[1] for name, words in found if name == "FROM" and " AS " in words}
        for name, words in found:
            if name != "COPY":
                continue
            if source := re.match(r"--from=(\w+)", words):
                self.assertIn(source[1], stages)
            else:
                for path in words.split()[:-1]:
                    self.assertTrue((ROOT / path).exists(), path)

    def test_shell_of_the_dockerfile_is_sound(self):
        for name, words in instructions(CLUSTER / "docker" / "Dockerfile"):
            if name == "RUN":
                self.check_shell(words)

    def test_the_apptainer_definition(self):
        text = (CLUSTER / "apptainer" / "roundtable.def").read_text()
        header, *_ = text.split("%files")
        self.assertRegex(header, r"(?m)^Bootstrap: docker\nFrom: \S+$")
        sections = dict(re.findall(r"(?ms)^%(\w+)\n(.*?)(?=^%|\Z)", text))
        self.assertEqual(set(sections), {"files", "post", "environment", "runscript", "test"})
        for name in ("post", "environment", "runscript", "test"):
            self.check_shell(sections[name])
        for line in sections["files"].split("\n"):
            if line.strip():
                self.assertTrue((ROOT / line.split()[0]).exists(), line)
        self.assertEqual([p for p in packages_of_setup() if p not in sections["post"].split()], [])

    def check_shell(self, text):
        done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""), text)


@unittest.skipUnless((LINTERS / "hadolint").exists(), f"no linters in '{LINTERS}': launch/setup.sh --slurm")
class LintersTest(unittest.TestCase):
    def lint(self, name, *arguments):
        done = subprocess.run([LINTERS / name, *arguments], cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_the_dockerfile(self):
        self.lint("hadolint", "--ignore", "DL3008", "cluster/docker/Dockerfile")  # Debian 12 fixes the versions

    def test_the_apptainer_definition(self):
        dockerfile = self.lint("spython", "recipe", "--parser", "singularity", "cluster/apptainer/roundtable.def")
        self.assertRegex(dockerfile, r"(?m)^FROM debian:\S+ ")
        self.assertRegex(dockerfile, r"(?m)^RUN cmake --install ")

    def test_every_shell_script(self):
        found = [path.relative_to(ROOT) for folder in ("launch", "cluster") for path in (ROOT / folder).rglob("*.s*")
                 if path.suffix in (".sh", ".sbatch")]
        self.assertGreater(len(found), 15)
        self.lint("shellcheck", *found)


class SpackTest(unittest.TestCase):
    def test_the_recipe_runs_and_names_every_library(self):
        """With Spack's own build systems, up to 0.23, and with those of the packages' repository, from 1.0."""
        for since_1 in (False, True):
            with self.subTest(since_1=since_1):
                self.run_recipe(since_1)

    def run_recipe(self, since_1):
        asked = []
        stand_in = types.ModuleType("spack.package")
        systems = {"cmake": types.ModuleType("cmake"), "cuda": types.ModuleType("cuda")}
        (systems["cmake"] if since_1 else stand_in).CMakePackage = type("CMakePackage", (), {
            "define": lambda self, name, value: f"-D{name}={value}",
            "define_from_variant": lambda self, name, variant: f"-D{name}={variant}"})
        (systems["cuda"] if since_1 else stand_in).CudaPackage = type("CudaPackage", (), {})
        stand_in.depends_on = lambda spec, **_: asked.append(re.split(r"[@+]", spec)[0])
        for directive in ("version", "variant", "conflicts"):
            setattr(stand_in, directive, lambda *_, **__: None)
        stand_in.__all__ = [name for name in vars(stand_in) if not name.startswith("_")]
        recipe = CLUSTER / "spack" / "packages" / "roundtable" / "package.py"
        before = dict(sys.modules)
        sys.modules.update({"spack": types.ModuleType("spack"), "spack.package": stand_in})
        if since_1:
            folder = "spack_repo"
            sys.modules |= {folder: types.ModuleType(folder)}
            for name in ("builtin", "build_systems"):
                folder += f".{name}"
                sys.modules[folder] = types.ModuleType(folder)
            sys.modules |= {f"{folder}.{name}": module for name, module in systems.items()}
        self.addCleanup(lambda: (sys.modules.clear(), sys.modules.update(before)))
        space = {}
        exec(compile(recipe.read_text(), recipe, "exec"), space)
        found = re.findall(r"^find_package\((\S+)", (ROOT / "src" / "dependencies.cmake").read_text(), re.MULTILINE)
        names = {"nlohmann_json": "nlohmann-json", "CLI11": "cli11", "MPI": "mpi", "HDF5": "hdf5"}
        for package in set(found) - {"OpenMP", "Threads"}:
            self.assertIn(names.get(package, package), asked)
        package = space["Roundtable"]()
        package.spec = FakeSpec()
        options = (ROOT / "CMakeLists.txt").read_text() + (ROOT / "src" / "dependencies.cmake").read_text()
        for argument in package.cmake_args():
            name = argument[2:].split("=")[0]
            self.assertIn(name, options)


class FakeSpec:
    variants = {"cuda_arch": types.SimpleNamespace(value=("90",))}

    def __getitem__(self, name):
        return types.SimpleNamespace(command=types.SimpleNamespace(path=f"/{name}"))

    def satisfies(self, _):
        return True


class PresetsTest(unittest.TestCase):
    def test_every_preset_is_read(self):
        listed = subprocess.run(["cmake", "--list-presets"], cwd=ROOT, capture_output=True, text=True).stdout
        presets = re.findall(r'^ +"(\w+)"', listed, re.MULTILINE)
        self.assertEqual(presets, ["release", "debug", "asan", "coverage", "cuda"])
        for preset in presets:  # -N: read the preset, configure nothing
            done = subprocess.run(["cmake", "--preset", preset, "-N"], cwd=ROOT, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)


class ScriptsTest(unittest.TestCase):
    def test_every_shell_script_parses(self):
        scripts = [p for folder in (CLUSTER, ROOT / "launch") for p in folder.rglob("*") if p.suffix in (".sh", ".sbatch")]
        self.assertGreater(len(scripts), 8)
        for script in scripts:
            done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""), script)

    def test_every_site_is_whole(self):
        sites = sorted(p for p in (CLUSTER / "sites").iterdir() if p.is_dir())
        self.assertEqual([p.name for p in sites], ["cpu", "dgx-h100", "slingshot-a100"])
        for site in sites:
            self.assertTrue((site / "env.sh").exists() and (site / "bind.sh").exists())
            # Each setting has its reason: a comment above it, or above the settings that belong together.
            comment = False
            for line in (site / "env.sh").read_text().splitlines():
                self.assertTrue(comment or not line.startswith("export"), f"{site.name}: {line}")
                comment = line.startswith("#") or (comment and bool(line.strip()))

    def test_a_rank_is_bound_to_the_cores_of_its_device(self):
        for site, ranks, expected in (("dgx-h100", 8, 14), ("slingshot-a100", 4, 16)):
            bind = CLUSTER / "sites" / site / "bind.sh"
            seen = set()
            for rank in range(ranks):
                done = subprocess.run(["bash", bind, "--show"], capture_output=True, text=True,
                                      env={"PATH": "/usr/bin:/bin", "SLURM_LOCALID": str(rank)})
                self.assertEqual(done.returncode, 0, done.stderr)
                first, last = map(int, re.fullmatch(r"cores (\d+)-(\d+)", done.stdout.strip()).groups())
                self.assertEqual(last - first + 1, expected)
                self.assertFalse(seen & set(range(first, last + 1)))
                seen |= set(range(first, last + 1))


if __name__ == "__main__":
    unittest.main()

"""Roundtable as a Spack package:

    spack repo add cluster/spack
    spack dev-build --source-path . roundtable@main +cuda cuda_arch=90 ^openmpi schedulers=slurm
"""

from spack.package import *

try:  # Spack 1.0 moved the build systems to the packages' repository
    from spack_repo.builtin.build_systems.cmake import CMakePackage
    from spack_repo.builtin.build_systems.cuda import CudaPackage
except ImportError:
    pass


class Roundtable(CMakePackage, CudaPackage):
    """Quantizes the weights of large language models over MPI (SignRound, arXiv 2309.05516)."""

    homepage = "https://arxiv.org/abs/2309.05516"

    # The sources are the checkout that holds this file; nothing is fetched.
    version("main")

    variant("tests", default=False, description="Build the tests")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.22:", type="build")
    depends_on("mpi")
    depends_on("hdf5+mpi@1.10:")
    depends_on("yaml-cpp@0.7:")
    depends_on("cli11@2.1:")
    depends_on("fmt@9:")
    depends_on("nlohmann-json@3.10:")
    depends_on("xxhash@0.8:")
    depends_on("pcre2@10.30:")
    depends_on("python@3.10:", type=("build", "run"))
    depends_on("py-torch@2.4:", type=("build", "link", "run"))
    depends_on("py-torch+cuda+nccl", when="+cuda", type=("build", "link", "run"))
    depends_on("nccl", when="+cuda")
    depends_on("py-numpy", type="run")
    depends_on("py-safetensors", type="run")
    depends_on("py-tokenizers", type="run")
    depends_on("googletest+gmock", when="+tests", type="build")

    conflicts("%gcc@:10", msg="C++20 is needed")

    def cmake_args(self):
        args = [
            self.define("ROUNDTABLE_PYTHON", self.spec["python"].command.path),
            self.define_from_variant("ROUNDTABLE_TESTS", "tests"),
            self.define_from_variant("ROUNDTABLE_USE_CUDA", "cuda"),
        ]
        if self.spec.satisfies("+cuda"):
            archs = self.spec.variants["cuda_arch"].value
            if "none" not in archs:
                args.append(self.define("CMAKE_CUDA_ARCHITECTURES", ";".join(archs)))
        return args

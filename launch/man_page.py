"""Makes the man page from the program's own --help, so that the two never differ: man_page.py BINARY FILE"""

import os
import re
import subprocess
import sys

NOTICE = ("Quantizes the weights of large language models on HPC clusters: tunes the rounding of every weight by signed "
          "gradient descent, block by block, over MPI, and writes a checkpoint that transformers and vLLM load. "
          "Start it by mpirun or srun, one rank per device. If a run is interrupted, run the same command again: it "
          "resumes.")
FILES = [("OUTPUT.run/journal", "what is finished; a restart trusts only this file"),
         ("OUTPUT.run/config.yaml", "the resolved config"),
         ("OUTPUT.run/events.jsonl", "the loss of every iteration, the time of every phase; launch/report.py draws it")]


def escape(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def help_of(binary, *arguments):
    done = subprocess.run([binary, *arguments, "--help"], capture_output=True, text=True, check=True,
                          env=os.environ | {"COLUMNS": "100"})
    return done.stdout.replace(binary, "roundtable").rstrip("\n")


def page(binary):
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    text = help_of(binary)
    commands = re.findall(r"^  ([a-z]+) {2,}(\S.*)$", text.split("Subcommands:")[-1].split("Start one rank")[0], re.MULTILINE)
    keys = text[text.index("Keys of CONFIG"):]
    codes = re.search(r"Exit codes: (.*?)\n\n", text, re.DOTALL)[1]
    parts = [f'.TH ROUNDTABLE 1 "" "roundtable {version}" "User Commands"', ".SH NAME",
             "roundtable \\- quantize large language models over MPI", ".SH SYNOPSIS"]
    for name, _ in commands:
        positional = re.search(r"^Usage: .*\[OPTIONS\] *(.*)$", help_of(binary, name), re.MULTILINE)[1]
        parts.append(f".B roundtable {name}\n.I {positional}\n[options]\n.br")
    parts += [".SH DESCRIPTION", escape(NOTICE), ".SH COMMANDS"]
    for name, words in commands:
        parts += [".TP", f".B {name}", escape(words)]
    parts.append(".SH OPTIONS")
    for name, _ in commands:
        options = help_of(binary, name).split("Keys of CONFIG")[0].rstrip("\n")  # they have a section of their own
        parts += [f".SS {name}", ".nf", escape(options), ".fi"]
    parts += [".SH KEYS OF CONFIG", ".nf", escape(keys), ".fi", ".SH EXIT STATUS"]
    parts.append(escape(" ".join(codes.split())))
    parts.append(".SH FILES")
    for name, words in FILES:
        parts += [".TP", f".I {escape(name)}", escape(words)]
    parts += [".SH SEE ALSO", ".BR mpirun (1),", ".BR srun (1)"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    text = page(sys.argv[1])
    os.makedirs(os.path.dirname(sys.argv[2]), exist_ok=True)
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(text)

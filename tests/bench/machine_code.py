"""What a compiled kernel executes, counted in the text of its code: SASS as `nvdisasm -c` prints it, or PTX.

The kernels counted here go along the weights of a group, each lane of a warp to every 32nd, and store one number per
weight, and sometimes some numbers of the group after that. Weights that a lane loads and stores at once count as one. The compiler makes several loops of this, with one weight or
with four per iteration, and puts single iterations before a loop. Of all ways through the code on which a lane stores
as many weights as its group has for it, the one with the fewest iterations is taken, and of several such ways the
longest. So if a group takes one of two branches, such as symmetric or not, the more expensive one counts. A way that
calls a subroutine is left out if another one leads on: subroutines are IEEE division and 64-bit division for operands
that are subnormal, infinite or beyond 32 bits. BRA.DIV, for warps whose lanes have diverged, is left out too.
"""

import collections
import dataclasses
import re

WARP = 32


@dataclasses.dataclass(frozen=True)
class Instruction:
    labels: tuple  # of this place
    conditional: bool
    opcode: str
    operands: str

    @property
    def base(self):
        return self.opcode.split(".", 1)[0]

    @property
    def suffixes(self):
        return self.opcode.split(".")[1:]


# --- text to instructions ----------------------------------------------------------------------------------------

SASS_KERNEL = re.compile(r"^\s*\.section\s+\.text\.([\w$]+)\s*,")
PTX_KERNEL = re.compile(r"^\s*(?:\.visible\s+|\.weak\s+)?\.entry\s+([\w$]+)")
LABEL = re.compile(r"^\s*([.$\w]+):\s*(?://.*)?$")
SASS_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s*\{?\s*(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?)\s*;")
PTX_INSTRUCTION = re.compile(r"^\s*\{?\s*(@!?%p\d+\s+)?([a-z][\w.:]*)\s*(.*?)\s*;")


def kernels_in(text, language):
    """{mangled name: [Instruction]}; of SASS with the subroutines that lie behind a kernel."""
    kernel, instruction = (SASS_KERNEL, SASS_INSTRUCTION) if language == "sass" else (PTX_KERNEL, PTX_INSTRUCTION)
    found, code, labels = {}, None, []
    for line in text.splitlines():
        if begins := kernel.match(line):
            code, labels = found.setdefault(begins[1], []), []
        elif label := LABEL.match(line):
            labels.append(label[1])
        elif code is not None and (one := instruction.match(line)):
            predicate, opcode, operands = one.groups()
            code.append(Instruction(tuple(labels), predicate is not None, opcode, operands))
            labels = []
    return found


# --- ways through the code ---------------------------------------------------------------------------------------

ENDS = {"EXIT", "RET", "BRX", "KILL", "BPT", "ret", "exit", "trap"}
CALLS = {"CALL", "call"}


def ways_on(code):
    """[the places that may follow], for each instruction."""
    at = {label: i for i, one in enumerate(code) for label in one.labels}
    return [following(one, i, at, len(code)) for i, one in enumerate(code)]


def target_of(one):
    return one.operands.rsplit(",", 1)[-1].strip(" `()")


def is_call(one):
    """Of a subroutine. CALL.REL to a place of the kernel itself is how a large loop is left in code for sm_80."""
    return one.base in CALLS and not target_of(one).startswith(".L_")


def following(one, i, at, size):
    onward = [i + 1] if i + 1 < size else []
    if one.base in ENDS:
        return onward if one.conditional else []
    if one.base in ("BRA", "bra") and "DIV" not in one.suffixes or one.base in CALLS and not is_call(one):
        target = target_of(one)
        taken = [at[target]] if target in at else []
        # A uniform predicate is an operand: BRA.U !UP0, `(.L_x_1)
        return taken + (onward if one.conditional or "," in one.operands else [])
    return onward


def walk(nexts):
    """(the places that can be reached, each after all that follow it; the steps (from, to) that go back in a loop)"""
    done, order, back, open_ = set(), [], set(), {0}
    stack = [(0, iter(nexts[0]))]
    while stack:
        place, rest = stack[-1]
        for to in rest:
            if to in open_:
                back.add((place, to))
            elif to not in done:
                open_.add(to)
                stack.append((to, iter(nexts[to])))
                break
        else:
            stack.pop()
            open_.remove(place)
            done.add(place)
            order.append(place)
    return order, back


def loops_of(nexts, order, back):
    """{first place: all places} of the loops."""
    before = collections.defaultdict(list)
    for place in order:
        for to in nexts[place]:
            before[to].append(place)
    loops = collections.defaultdict(set)
    for last, first in back:
        body = loops[first]
        body.add(first)
        todo = [last]
        while todo:
            place = todo.pop()
            if place not in body:
                body.add(place)
                todo += before[place]
    return dict(loops)


def longest_iteration(first, body, order, nexts, back, closed):
    """The places of the longest way from a loop's first place back to it; None: all ways are closed."""
    best = {}  # place: (length, the next place)
    for place in order:  # each after all that follow it
        if place not in body or place in closed:
            continue
        ways = [(best[to][0], to) for to in nexts[place] if to in best and (place, to) not in back]
        if (place, first) in back:
            ways.append((0, None))
        if ways:
            length, to = max(ways, key=lambda way: way[0])
            best[place] = (length + 1, to)
    way, place = [], first if first in best else None
    while place is not None:
        way.append(place)
        place = best[place][1]
    return way or None


@dataclasses.dataclass(frozen=True)
class Loop:
    iteration: list  # places
    weights: int     # stored in one
    exits: list      # places after it


def loops_with_stores(code, nexts, order, back, closed):
    """{first place: Loop}; loops that store nothing are straight code here, gone through once."""
    found = {}
    for first, body in loops_of(nexts, order, back).items():
        iteration = longest_iteration(first, body, order, nexts, back, closed)
        weights = sum(is_store(code[place]) for place in iteration or ())
        if weights:
            exits = {to for place in body for to in nexts[place] if to not in body}
            found[first] = Loop(iteration, weights, sorted(exits))
    return found


def before_loops(order, nexts, back, loops):
    """The places from which a loop with stores is still to come: a store there is a weight's, of a single iteration."""
    found = set()
    for place in order:
        if any(to in loops or to in found for to in nexts[place] if (place, to) not in back):
            found.add(place)
    return found - {place for loop in loops.values() for place in loop.iteration}


def best_way(code, nexts, order, back, loops, weights, closed):
    """The places that a lane executes in turn, storing so many weights: fewest iterations, then longest; or None."""
    early = before_loops(order, nexts, back, loops)
    best = {}  # (place, weights left): (iterations, -length, iterations of this loop, the state after it)

    def on(turns, length, state):
        if state in best:
            iterations, shorter = best[state][:2]
            yield iterations + turns, shorter - length, turns, state

    def ways_from(place, left):
        if place in loops:
            loop = loops[place]
            for turns in range(1, left // loop.weights + 1):
                for to in loop.exits:
                    yield from on(turns, turns * len(loop.iteration), (to, left - turns * loop.weights))
            return
        if code[place].base in ENDS and left == 0:
            yield 0, -1, 0, None
        stored = int(place in early and is_store(code[place]))
        for to in nexts[place]:
            if (place, to) not in back:
                yield from on(stored, 1, (to, left - stored))

    for place in order:  # each after all that follow it
        for left in range(weights + 1) if place not in closed else ():
            if ways := list(ways_from(place, left)):
                best[place, left] = min(ways, key=lambda way: way[:2])
    return follow(best, loops, (0, weights))


def follow(best, loops, state):
    if state not in best:
        return None
    places = []
    while state is not None:
        place, (_, _, turns, after) = state[0], best[state]
        places += loops[place].iteration * turns if place in loops else [place]
        state = after
    return places


@dataclasses.dataclass(frozen=True)
class Executed:
    code: list        # instructions in the order in which a lane executes them, for one group
    weight_read: int  # bytes of a weight's loads and stores; all others are the group's, the same for all its lanes
    weight_written: int
    group_read: int
    group_written: int


def executed(code, weights):
    """What a lane executes of a kernel for a group that has so many weights for it."""
    nexts = ways_on(code)
    order, back = walk(nexts)
    calls = {i for i, one in enumerate(code) if is_call(one)}
    for closed in (calls, set()):
        loops = loops_with_stores(code, nexts, order, back, closed)
        way = loops and best_way(code, nexts, order, back, loops, weights, closed)
        if way:
            break
    else:
        raise ValueError(f"no way on which a lane stores {weights} weight(s)" if loops else
                         "no loop that stores to global memory")
    run = [code[place] for place in way]
    widest = max(loops.values(), key=lambda loop: loop.weights)
    read, written = (moved // widest.weights for moved in bytes_moved([code[i] for i in widest.iteration]))
    all_read, all_written = bytes_moved(run)
    return Executed(run, read, written, all_read - weights * read, all_written - weights * written)


# --- kinds -------------------------------------------------------------------------------------------------------

KINDS = ("global load", "global store", "shared memory", "shuffle", "local memory", "fp arithmetic", "fp compare",
         "conversion", "special", "integer", "move", "branch")

# By NVIDIA's "CUDA Binary Utilities", Instruction Set Reference, Ampere and Hopper.
SASS_KINDS = {
    "global load": "LDG LD", "global store": "STG ST RED ATOMG ATOM", "shared memory": "LDS STS LDSM ATOMS",
    "shuffle": "SHFL", "local memory": "LDL STL", "fp arithmetic": "FADD FMUL FFMA FADD32I FMUL32I FFMA32I HADD2 HMUL2",
    "fp compare": "FSETP FSET FSEL FMNMX FCHK", "conversion": "F2F F2FP F2I F2IP I2F I2FP I2I I2IP FRND",
    "special": "MUFU",
    "move": "MOV UMOV CS2R S2R S2UR R2UR LDC ULDC R2P P2R MOV32I HFMA2",  # HFMA2 of zeros sets a register
    "branch": "BRA BRX JMP EXIT RET CALL BSSY BSYNC BREAK BMOV BAR WARPSYNC YIELD MEMBAR DEPBAR NOP KILL BPT",
}
SASS_KIND = {base: kind for kind, bases in SASS_KINDS.items() for base in bases.split()}
PTX_BRANCHES = {"bra", "ret", "exit", "bar", "barrier", "call", "trap"}
PTX_FLOATS = {"f16", "f16x2", "bf16", "bf16x2", "f32", "f64"}
PTX_ARITHMETIC = {"add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt", "neg", "abs", "copysign"}


def sass_kind(one):
    if one.base == "IMAD" and one.suffixes[:1] == ["MOV"]:
        return "move"
    return SASS_KIND.get(one.base, "integer")


def ptx_kind(one):
    space = next((s for s in one.suffixes if s in ("global", "shared", "local", "param", "const")), "global")
    if one.base in ("ld", "ldu", "st", "atom", "red"):
        loads = one.base in ("ld", "ldu")
        return {"shared": "shared memory", "local": "local memory", "param": "move", "const": "move"}.get(
            space, "global load" if loads else "global store")
    if one.base in PTX_BRANCHES:
        return "branch"
    if one.base in ("mov", "cvta"):
        return "move"
    if one.base in ("cvt", "shfl"):
        return {"cvt": "conversion", "shfl": "shuffle"}[one.base]
    if one.suffixes and one.suffixes[-1] in PTX_FLOATS:
        return "fp arithmetic" if one.base in PTX_ARITHMETIC else "fp compare"
    return "integer"


def kind_of(one):
    return sass_kind(one) if one.opcode[0].isupper() else ptx_kind(one)


def is_store(one):
    return kind_of(one) == "global store"


def bytes_of(one):
    """What a lane moves with a load or store: LDG.E.U16, LDG.E.128; ld.global.v2.f32."""
    vector = next((int(s[1:]) for s in one.suffixes if re.fullmatch(r"v\d", s)), 1)
    if one.opcode[0].islower():
        return vector * int(re.sub(r"\D", "", one.suffixes[-1])) // 8
    bits = next((int(s.lstrip("US")) for s in one.suffixes if re.fullmatch(r"[US]?(8|16)|64|128", s)), 32)
    return bits // 8


def flops_of(one):
    """Additions and multiplications, as data sheets count them."""
    if kind_of(one) != "fp arithmetic":
        return 0
    return 2 if one.base in ("FFMA", "FFMA32I", "fma", "mad") else 1


# Conversions on the units of MUFU, 16 lanes per clock and multiprocessor. F2FP, which rounds to bf16, is none.
def is_slow(one):
    return kind_of(one) in ("conversion", "special") and one.base not in ("F2FP", "I2FP", "cvt")


def waits_of(code):
    """How often a lane waits for memory, one wait after the other. Loads count as one wait if no result is read between
    them. Only for SASS, whose order is the order of execution."""
    waits, pending = 0, set()
    for one in code:
        if pending & set(re.findall(r"\bR\d+\b", one.operands)):
            waits, pending = waits + 1, set()
        if kind_of(one) == "global load":
            pending.add(one.operands.split(",", 1)[0].strip())
    return waits + bool(pending)


def bytes_moved(code):
    """(read, written), of a lane"""
    return tuple(sum(bytes_of(one) for one in code if kind_of(one) == kind) for kind in ("global load", "global store"))


def counts_of(code):
    """{instructions {kind: n}, flops, slow}"""
    kinds = collections.Counter(kind_of(one) for one in code)
    return {"instructions": {kind: kinds[kind] for kind in KINDS if kinds[kind]}, "flops": sum(map(flops_of, code)),
            "slow": sum(map(is_slow, code))}

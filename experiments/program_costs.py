"""FLOPs and bytes of a program, for compilers that do not say."""

import math
import re

NEITHER_READS_NOR_WRITES = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional"}
BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "s8": 1, "u8": 1, "s64": 8, "u64": 8}


def product_flops(jaxpr) -> int:
    """FLOPs of all matrix products and convolutions of a traced program, two for each multiply-add.

    Loops count as often as they turn; of branches the first counts, which is as good as any for one platform's.
    """
    total = 0
    for equation in jaxpr.eqns:
        shapes = [variable.aval.shape for variable in equation.invars if hasattr(variable.aval, "shape")]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[0][axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            features = shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[1]) // features
        else:
            turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            total += turns * sum(map(product_flops, inner_programs(equation)))
    return total


def inner_programs(equation) -> list:
    """The programs that an equation holds; the first of several branches."""
    found = []
    for value in equation.params.values():
        candidates = value[:1] if isinstance(value, tuple | list) else (value,)
        programs = [getattr(candidate, "jaxpr", candidate) for candidate in candidates]
        found += [program for program in programs if hasattr(program, "eqns")]
    return found


def size_of(shape: str) -> int:
    """Bytes of all arrays in a shape as compiled programs write it, such as `(f32[2,3]{1,0}, u8[0])`."""
    arrays = re.findall(r"\b(\w+)\[([\d,]*)\]", shape)
    return sum(BYTES.get(kind, 0) * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes in arrays)


def bytes_moved(text: str) -> int:
    """What a compiled program reads and writes: operands and results of every fusion, kernel and copy.

    Counted in its entry and in the bodies of its loops, each once; what a fusion does inside stays in registers. Of the
    program's arguments, such as a scene that patches are taken from, no more is read than the result has.
    """
    bodies = set(re.findall(r"body=%?([\w.-]+)", text))
    total, inside, sizes, arguments = 0, False, {}, set()
    for line in text.splitlines():
        if opened := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            inside, sizes = bool(opened[1]) or opened[2] in bodies, {}
        match = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)", line)
        if not inside or match is None:
            continue
        name, shape, operation, operands = match.groups()
        written = sizes[name] = size_of(shape)
        if operation == "parameter":
            arguments.add(name)
        if operation not in NEITHER_READS_NOR_WRITES:
            read = [operand for operand in re.findall(r"%([\w.-]+)", operands) if operand in sizes]
            total += written + sum(min(sizes[x], written) if x in arguments else sizes[x] for x in read)
    return total

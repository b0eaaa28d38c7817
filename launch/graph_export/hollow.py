"""Parameters of any size that take no memory: views of pages of zeros that the kernel makes when they are read."""

import mmap

import torch

from .errors import BadInput

ALIGNMENT = 64
NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux: no promise of memory is asked for


def hollow_parameters(model):
    """Replaces every parameter on the meta device. Their strides are those of real ones, so that a trace is the same."""
    places, size = [], 0
    seen = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.device.type == "meta":
                if id(parameter) not in seen:
                    seen[id(parameter)] = (parameter, size)
                    size += -(-parameter.numel() * parameter.element_size() // ALIGNMENT) * ALIGNMENT
                places.append((module, name, id(parameter)))
    if not places:
        return
    try:
        pages = mmap.mmap(-1, max(size, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    except OSError as error:
        raise BadInput(f"cannot reserve {size / 2**30:.0f} GiB of addresses (not of memory): {error}; look at ulimit -v")
    whole = torch.frombuffer(pages, dtype=torch.uint8)
    made = {}
    for key, (parameter, offset) in seen.items():
        length = parameter.numel() * parameter.element_size()
        tensor = whole[offset:offset + length].view(parameter.dtype).view(parameter.shape)
        made[key] = torch.nn.Parameter(tensor, requires_grad=parameter.is_floating_point())
    for module, name, key in places:
        module._parameters[name] = made[key]

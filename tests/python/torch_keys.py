"""Random arguments of torch.ops.dsv4's operators on keys, on any device, and a step of a layer that calls all of them.
Needs torch."""
import torch

from dsv4 import torch_ops  # noqa: F401  (registers the operators)

OPS = torch.ops.dsv4


class Arguments:
    """Positional arguments of keys_finish, keys_compress and keys_read; all write to or read the same cache."""

    def __init__(self, device="cpu"):
        torch.manual_seed(3)
        q, kv, table, k, g, ape = (torch.randn(shape, device=device) for shape in (
            (5, 3, 512), (5, 512), (9, 64), (4, 1024), (4, 1024), (4, 1024)))

        def numbers(*values):
            return torch.tensor(values, dtype=torch.int32, device=device)

        cache = torch.zeros(2, 8, 584, dtype=torch.uint8, device=device)
        self.finish = (q, kv.bfloat16(), cache, numbers(3, -1, 15, 0, 7), table, numbers(0, 1, 2, 3, 4))
        # The fourth token ends a group, whose key goes to slot 5.
        self.compress = (k, g, 4, numbers(0, 0, 0, 0), numbers(0, 1, 2, 3), ape,
                         torch.zeros(1, 16, 2, 1024, device=device), numbers(0).view(1, 1), cache, numbers(5, 5, 5, 5),
                         table)
        self.read = (cache, numbers(3, -1, 15, 0, 7, 5))
        self.back = torch.full((6, 512), 7.0, device=device)

    def step(self):
        """Of step(): all of them."""
        return (*self.finish, *self.compress[:2], *self.compress[3:8], *self.compress[9:10], *self.read[1:], self.back)

    def written(self):
        """What a step writes: q, cache, state, back."""
        return self.finish[0], self.finish[2], self.compress[6], self.back


def step(q, kv, cache, slots, table, rows, k, g, requests, positions, ape, state, tables, key_slots, read_slots, back):
    """Queries in place and window keys, a group's key, and what the cache holds then."""
    OPS.keys_finish(q, kv, cache, slots, table, rows, out=q)
    OPS.keys_compress(k, g, 4, requests, positions, ape, state, tables, cache, key_slots, table)
    OPS.keys_read(cache, read_slots, out=back)
    return q * 2, back + 1


def failure(run, device="cpu"):
    """What run(*arguments) of a step's arguments returns or writes otherwise than step(), in words, or None."""
    plain, other = Arguments(device), Arguments(device)
    want = (*step(*plain.step()), *plain.written())
    got = (*run(*other.step()), *other.written())
    for name, a, b in zip(("q * 2", "back + 1", "q", "cache", "state", "back"), got, want):
        if not torch.equal(a, b):
            return f"{name} differs"
    rows = want[-1]
    is_named = [bool(row.any()) for row in rows]
    return None if is_named == [True, False, True, True, True, True] else f"rows read back: {is_named}"

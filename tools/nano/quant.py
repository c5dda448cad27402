"""The formats of the checkpoint and the roundings of the official numerics, in torch."""
import torch

# Between neighbours of e2m1; a tie goes to the even code.
E2M1 = (0, .5, 1, 1.5, 2, 3, 4, 6)
E2M1_BOUNDS = (.25, .75, 1.25, 1.75, 2.5, 3.5, 5)


def scale_exponent(amax, largest):
    """Exponent of the least power of two that is at least amax / largest."""
    mantissa, exponent = torch.frexp(amax.float() / largest)
    return torch.where(mantissa == .5, exponent - 1, exponent).clamp_min(-126)


def power_of_two(exponent):
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)


def e2m1_code(magnitude):
    """Codes 0 .. 7 of magnitudes up to 6, ties to even."""
    bounds = torch.tensor(E2M1_BOUNDS, device=magnitude.device)
    below = torch.bucketize(magnitude, bounds)           # a tie stays below
    above = torch.bucketize(magnitude, bounds, right=True)
    return torch.where(below % 2 == 0, below, above)


def fp8_blocks(w):
    """[n, k] -> e4m3 codes [n, k], exponents [ceil(n / 128), ceil(k / 128)], values [n, k]"""
    n, k = w.shape
    rows, columns = -(-n // 128), -(-k // 128)
    padded = torch.nn.functional.pad(w.float(), (0, columns * 128 - k, 0, rows * 128 - n))
    blocks = padded.view(rows, 128, columns, 128)
    exponent = scale_exponent(blocks.abs().amax(dim=(1, 3)), 448)
    scale = power_of_two(exponent)[:, None, :, None]
    codes = (blocks / scale).to(torch.float8_e4m3fn)
    values = (codes.float() * scale).view(rows * 128, columns * 128)[:n, :k]
    return codes.view(rows * 128, columns * 128)[:n, :k].contiguous(), exponent, values


def fp4_rows(w):
    """[..., k] -> codes 0 .. 15 [..., k], exponents [..., k / 32], values [..., k]"""
    groups = w.float().unflatten(-1, (-1, 32))
    exponent = scale_exponent(groups.abs().amax(-1), 6)
    scale = power_of_two(exponent)[..., None]
    magnitude = e2m1_code((groups / scale).abs())
    values = torch.tensor(E2M1, device=w.device, dtype=torch.float32)[magnitude]
    values = torch.copysign(values, groups) * scale
    codes = magnitude + 8 * torch.signbit(groups)
    return codes.flatten(-2), exponent, values.flatten(-2)


def _fp8_groups(x, size):
    n = x.shape[-1]
    padded = torch.nn.functional.pad(x.float(), (0, -n % size)).unflatten(-1, (-1, size))
    exponent = scale_exponent(padded.abs().amax(-1, keepdim=True).clamp_min(1e-4), 448)
    scale = power_of_two(exponent)
    return ((padded / scale).to(torch.float8_e4m3fn).float() * scale).flatten(-2)[..., :n].to(x.dtype)


class RoundFp8(torch.autograd.Function):
    """Groups of the last axis through FP8; the gradient passes as if nothing had happened."""

    @staticmethod
    def forward(ctx, x, size):
        return _fp8_groups(x, size)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class RoundFp4(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return fp4_rows(x)[2].to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def round_keys(keys):
    """Keys [..., 512]: the part without rotation through FP8 in groups of 64."""
    return torch.cat([RoundFp8.apply(keys[..., :448], 64), keys[..., 448:]], -1)


def hadamard(n, device):
    h = torch.ones(1, 1, device=device)
    while h.shape[0] < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h * n ** -.5

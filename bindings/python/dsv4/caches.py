"""Paged caches as tensors: which shapes are taken, and what of them goes into the C structs."""
from typing import Any, Optional

from .errors import InvalidArgument
from .native import DIM, RECORD_BYTES, ROWS_F32, ROWS_FP8, integer
from .tensors import View, check_dtype

_MEANING = "[n_pages, page_rows, 584] or [n_pages, page_rows, 1, 584] bytes, [n_pages, page_rows, 512] f32, or " \
           "[n_pages, page_stride_bytes] bytes with page_rows given"


def set_cache(name: str, found: View, page_rows: Optional[int], struct: Any) -> None:
    """Fills n_pages, page_rows, page_stride_bytes and row_format of a dsv4_attn_scope or dsv4_keys_cache.

    A record is 584 bytes, but its two parts lie in two planes of the page (dsv4/cache.h), so that the tensor's
    strides inside a page only say that the page is whole.
    """
    check_dtype(name, found, "u8", "i8", "fp8", "f32")
    shape, strides = found.shape, found.strides
    if len(shape) == 4 and shape[2] == 1:
        shape, strides = shape[:2] + shape[3:], strides[:2] + strides[3:]
    is_f32 = found.dtype == "f32"
    row_bytes = DIM * 4 if is_f32 else RECORD_BYTES
    if len(shape) == 3 and shape[2] == (DIM if is_f32 else RECORD_BYTES):
        if page_rows not in (None, shape[1]):
            raise InvalidArgument(f"{name}: page_rows {page_rows}, expected {shape[1]} as in its shape {list(shape)}")
        if strides[2] != row_bytes // shape[2] or (shape[1] > 1 and strides[1] != row_bytes):
            raise InvalidArgument(f"{name}: strides {list(strides)} bytes, expected pages in one piece, that is "
                                  f"[any, {row_bytes}, {row_bytes // shape[2]}]")
        page_rows = shape[1]
    elif len(shape) == 2 and not is_f32:
        if page_rows is None:
            raise InvalidArgument(f"{name}: shape {list(shape)} without page_rows, expected {_MEANING}")
        if strides[1] != 1:
            raise InvalidArgument(f"{name}: last stride {strides[1]} bytes, expected 1: pages in one piece")
    else:
        raise InvalidArgument(f"{name}: shape {list(found.shape)} of {found.dtype}, expected {_MEANING}")
    struct.n_pages, struct.page_stride_bytes = shape[0], strides[0]
    struct.page_rows = integer(page_rows, f"{name}: page_rows", 64)
    struct.row_format = ROWS_F32 if is_f32 else ROWS_FP8

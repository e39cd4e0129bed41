# cython: language_level=3, boundscheck=False, wraparound=False
"""How do rows of tokens leave the shards without holding up Python?  Copied and widened with the GIL released."""

from libc.stdint cimport int64_t, uint16_t
from libc.stdlib cimport free, malloc


def gather(tuple shards, const int64_t[::1] shard, const int64_t[::1] start, int64_t[:, ::1] out):
    """out[i, :] = shards[shard[i]][start[i] : start[i] + width]; uint16 arrays in, int64 [rows, width] out.

    Raises IndexError before anything is copied when a row leaves its shard.
    """
    cdef Py_ssize_t rows = out.shape[0], width = out.shape[1], i, count = len(shards)
    cdef const uint16_t** base
    cdef const uint16_t[::1] view
    cdef int64_t* size
    if shard.shape[0] != rows or start.shape[0] != rows:
        raise IndexError("one shard and one start for each row")
    base = <const uint16_t**> malloc(max(1, count) * sizeof(uint16_t*))
    size = <int64_t*> malloc(max(1, count) * sizeof(int64_t))
    try:
        if base == NULL or size == NULL:
            raise MemoryError()
        for i in range(count):
            view = shards[i]
            base[i], size[i] = (&view[0] if view.shape[0] else NULL), view.shape[0]
        for i in range(rows):
            if not 0 <= shard[i] < count or start[i] < 0 or start[i] > size[shard[i]] - width:
                raise IndexError(f"row {i} of {width} tokens does not lie in its shard")
        with nogil:
            copy_rows(base, &shard[0] if rows else NULL, &start[0] if rows else NULL, rows, width,
                      &out[0, 0] if rows and width else NULL)
    finally:
        free(base)
        free(size)


cdef void copy_rows(const uint16_t** base, const int64_t* shard, const int64_t* start, Py_ssize_t rows,
                    Py_ssize_t width, int64_t* out) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef const uint16_t* source
    cdef int64_t* row
    for i in range(rows):
        source, row = base[shard[i]] + start[i], out + i * width
        for j in range(width):
            row[j] = source[j]

/*
 * replay_case.h - a decode call whose lists change again and again, and its answer.
 *
 * Place: tests; nothing here knows a device. Tensors are in host memory, dense, with a window of 128 entries and 512 extra
 * ones. Lengths and indices of both scopes lie in one block, so that one copy brings all of them to a device.
 */
#ifndef DSV4_TESTS_REPLAY_CASE_H
#define DSV4_TESTS_REPLAY_CASE_H

#include "attn_rng.h"

#include "dsv4/attn.h"

enum {
    REPLAY_WINDOW_INDICES = 128,
    REPLAY_EXTRA_INDICES = 512,
    REPLAY_PAGE_ROWS = 64,
    REPLAY_TEXT_BYTES = 512
};

typedef struct replay_shape {
    int32_t cuda_kernel; /* DSV4_CUDA_KERNEL_* */
    int32_t math;        /* DSV4_ATTN_MATH_* */
    int32_t fixed_split;
    int32_t join_queries; /* DSV4_JOIN_* */
    int64_t n_heads, n_requests, n_queries;
    int64_t n_pages[2]; /* window, extra */
} replay_shape;

/* The largest errors so far: relative to the norm of a query's output, and of lse. */
typedef struct replay_worst {
    double out, lse;
} replay_worst;

typedef struct replay_case {
    dsv4_attn_params params; /* of host tensors, with the backend; out and lse are NULL */
    attn_rng rng;
    int64_t n_query_rows;  /* n_requests * n_queries */
    int64_t n_lengths;     /* at the front of lists, of both scopes */
    int64_t n_lists;       /* all i32 of lists: then the window's indices, then the extra ones */
    int64_t indices_at[2]; /* of the scopes in lists */
    int64_t n_indices[2];  /* all of a scope */
    int64_t n_slots[2];    /* valid indices of a scope are below it */
    int64_t cache_bytes[2];
    int64_t q_bytes, sink_bytes, out_bytes, lse_bytes;
    int32_t *lists;
    uint16_t *q;
    float *sink;
    uint8_t *cache[2];
} replay_case;

/* Ends the program when memory is missing. Multiples of 64 bytes. */
void *replay_host_alloc(int64_t n_bytes);

/* Random queries, sinks and rows; lists with whole lengths. Free with replay_case_free. */
void replay_case_make(replay_case *c, const replay_shape *shape, int32_t backend, uint64_t seed);
void replay_case_free(replay_case *c);

/* Other lengths: 0, negative ones and ones past the list among them; at times all 0 or all whole. */
void replay_draw_lengths(replay_case *c);

/* Other indices: -1 and ones that name no slot among them; some lists end early, some name nothing. */
void replay_draw_indices(replay_case *c);

/* Every list counts in full. */
void replay_set_whole_lengths(replay_case *c);

/*
 * Compares with the CPU in exact math: each query's out (bf16) within 2^-8 of its norm, lse within 1e-4 + 1e-5 |lse|; a
 * query without keys is 0 and +inf. 2^-8 is what dsv4/attn.h promises of bf16 math, and holds the rounding of out too,
 * since that and those of probabilities are independent: 2^-9 / sqrt(3) of the norm each. FP8 math rounds queries too
 * (check_attn measures its accuracy): 2^-4, and 0.2.
 */
bool replay_compare(const replay_case *c, const uint16_t *out, const float *lse,
                    replay_worst *worst, char text[REPLAY_TEXT_BYTES]);

#endif

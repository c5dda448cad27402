/*
 * api_model.h - what stands behind the handles of dsv4/dsv4.h.
 *
 * Place: api. A model owns the mapped checkpoint, one forward context, the pool of cache pages and the
 * memory of a round; a session owns a sequence of that pool. Invariant: between calls no sequence holds
 * pages beyond its tokens.
 */
#ifndef DSV4_API_API_MODEL_H
#define DSV4_API_API_MODEL_H

#include "dsv4/dsv4.h"

#include "kv/sequence.h"
#include "model/forward.h"
#include "text/tokenizer.h"

/* Memory of one round: the step that all entries of a call take together. It only grows. */
typedef struct dsv4_round {
    int64_t max_tokens; /* room of the six arrays below */
    int32_t *tokens;
    int64_t *positions;
    int32_t *sequences;    /* index into views */
    int32_t *logit_tokens; /* index into tokens */
    float **logit_rows;    /* where each of them belongs: [n_vocab] f32 of an entry */
    int32_t *next_tokens;  /* for the MTP block */

    dsv4_cache_view *views; /* [n_sessions] */
    int64_t *n_done;        /* [n_sessions] tokens of each entry that are in its session */

    int64_t max_logits; /* room of logits, in rows */
    float *logits;      /* [max_logits, n_vocab], for rounds in which several entries want some */
    int64_t n_growths;
} dsv4_round;

struct dsv4_model {
    dsv4_model_options options; /* n_threads and cpu_level resolved */
    dsv4_model_dir *dir;
    dsv4_weights weights;
    dsv4_tokenizer *tokenizer; /* NULL when the directory has none */
    dsv4_forward *forward;
    dsv4_pool *pool;
    int64_t n_sessions; /* open now */
    int64_t n_drafted, n_accepted;
    dsv4_round round;
    float *sample_logits; /* [3, n_vocab] a step's rows, and those of the MTP block */
    void *sample_scratch; /* [n_vocab * DSV4_SAMPLE_SCRATCH_BYTES] */
};

struct dsv4_session {
    dsv4_model *model;
    dsv4_sequence *sequence;
};

/* INVALID_ARGUMENT "name[i]: id ..." unless n >= 1 and every token is one of the vocabulary. */
dsv4_status dsv4_model_check_tokens(const dsv4_model *model, const char *name,
                                    const int32_t *tokens, int64_t n_tokens, dsv4_error *error);

/*
 * One step of one session with the MTP block behind it; entry->n_tokens is at most step_tokens.
 *   next_tokens  [entry->n_tokens] each token's successor, -1: unknown; NULL: the entry's own, the last
 *                one's unknown
 *   mtp_logits   [entry->n_logits, n_vocab] f32, written; zero where the successor is unknown. Or NULL
 * Errors: those of dsv4_model_forward; UNSUPPORTED when the model has no MTP block.
 */
dsv4_status dsv4_model_forward_mtp(dsv4_model *model, const dsv4_forward_entry *entry,
                                   const int32_t *next_tokens, float *mtp_logits,
                                   dsv4_error *error);

/*
 * The MTP block on the last tokens of a session, after the forward call that ran them in one step and
 * nothing else since but rewinding. Of the step's n_fed tokens the session still holds all, or all but one.
 *   n_rows  1: `last` follows the step's last token
 *           2: the step ended in a draft. It was kept (confirmed is that token) and `last` follows it; or
 *           it was not (confirmed is -1) and `last` follows the token before it
 *   logits  [n_vocab] f32, written: what may follow `last`
 * Errors: those of dsv4_forward_mtp.
 */
dsv4_status dsv4_model_draft(dsv4_model *model, const dsv4_session *session, int64_t n_fed,
                             int64_t n_rows, int32_t confirmed, int32_t last, float *logits,
                             dsv4_error *error);

/* How often the memory of steps has grown: stands still in steady state. */
int64_t dsv4_model_n_growths(const dsv4_model *model);

/* Accepts zeroed memory. */
void dsv4_round_free(dsv4_round *round);

/*
 * Opens DIR/tokenizer.json; *tokenizer is NULL when there is no such file.
 * Errors: IO, BAD_FILE, UNSUPPORTED, OUT_OF_MEMORY.
 */
dsv4_status dsv4_model_read_tokenizer(const char *dir, dsv4_tokenizer **tokenizer,
                                      dsv4_error *error);

#endif

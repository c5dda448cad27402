/*
 * dsv4/dsv4.h - DeepSeek-V4: open a checkpoint, run it, generate text.
 *
 * A model is a checkpoint directory as DeepSeek publishes it (config.json, safetensors, tokenizer.json),
 * mapped into memory and never written. A session is one sequence of tokens with its cached state; it can
 * be forked and rewound. A forward call runs any mix of sessions, each with one or many new tokens, and
 * gives logits for the rows asked for; a session's logits do not depend on what else is in the call.
 *
 *   dsv4_model_open -> dsv4_session_create -> dsv4_model_forward or dsv4_session_generate
 *
 * Threads: one model and its sessions belong to one thread at a time. Several models in one process are
 * independent. Calls block until they are done. Every function that can fail takes a dsv4_error
 * (dsv4/base.h), which may be NULL; other pointers may be NULL only where that is said.
 */
#ifndef DSV4_DSV4_H
#define DSV4_DSV4_H

#include "dsv4/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dsv4_model dsv4_model;
typedef struct dsv4_session dsv4_session;

/*
 * OFFICIAL computes as DeepSeek's own code does: activations through FP8, caches in FP8 and FP4, bf16
 * where it rounds. EXACT is f32 throughout on the dequantized weights, caches in f32.
 */
enum { DSV4_MODEL_OFFICIAL = 1, DSV4_MODEL_EXACT = 2 };

/* Called while a model opens, on the thread that opens it: n_done of n_total files. */
typedef void dsv4_open_progress(void *context, int64_t n_done, int64_t n_total);

typedef struct dsv4_model_options {
    uint64_t size;      /* sizeof(dsv4_model_options) of the caller */
    int32_t numerics;   /* DSV4_MODEL_* */
    int32_t cpu_level;  /* DSV4_CPU_LEVEL_*: AUTO, or a level to use instead of the best one */
    int32_t n_threads;  /* 1 .. 1024; 0: as many as OpenMP would use */
    int32_t n_sessions; /* sessions at one time, forks included */
    /* Tokens that all sessions together can hold: decides the cache memory. What is more than the longest
     * sessions of the checkpoint could hold does not count: INT32_MAX asks for all of it. */
    int64_t n_tokens;
    int64_t step_tokens;          /* most tokens of one session that one internal step runs */
    int64_t rewind_tokens;        /* how far back a rewind costs nothing */
    dsv4_open_progress *progress; /* or NULL */
    void *progress_context;
    int32_t
        n_draft; /* 0 or 1: tokens that dsv4_session_generate drafts per step with the MTP block */
} dsv4_model_options;

/* OFFICIAL, best level, all threads, 4 sessions, 8192 tokens, steps of 256, rewinds of 64, no drafts. */
DSV4_API void dsv4_model_options_default(dsv4_model_options *options);

/*
 * Opens a directory. *model is set on success only.
 * Errors: IO, BAD_FILE, UNSUPPORTED (another architecture, an unknown key, by name; drafts of a model
 * without an MTP block), OUT_OF_MEMORY, INVALID_ARGUMENT (an option, by name).
 */
DSV4_API dsv4_status dsv4_model_open(const char *dir, const dsv4_model_options *options,
                                     dsv4_model **model, dsv4_error *error);

/* Frees a model; its sessions must have been freed. Accepts NULL. */
DSV4_API void dsv4_model_close(dsv4_model *model);

DSV4_API int64_t dsv4_model_n_vocab(const dsv4_model *model);
DSV4_API int64_t dsv4_model_max_tokens(const dsv4_model *model); /* longest session */
DSV4_API int32_t dsv4_model_bos(const dsv4_model *model);        /* begin-of-sentence token */
DSV4_API int32_t dsv4_model_eos(const dsv4_model *model);        /* end-of-sentence token */

/* Bytes reserved for caches, and bytes that sessions hold now (what forks share counts once). */
DSV4_API int64_t dsv4_model_cache_bytes(const dsv4_model *model);
DSV4_API int64_t dsv4_model_cache_used_bytes(const dsv4_model *model);

/* Tokens that generation has drafted since the model was opened, and how many of them it kept. */
DSV4_API void dsv4_model_draft_counts(const dsv4_model *model, int64_t *n_drafted,
                                      int64_t *n_accepted);

/* ---- text ---- */

/*
 * Token ids of text; nothing is added at the ends. parse_special != 0: special tokens written in the text
 * become their ids. At most max_ids are written to ids (NULL with 0 to count); *n_ids says how many there
 * are. Errors: UNSUPPORTED when the directory has no tokenizer.json, OUT_OF_MEMORY.
 */
DSV4_API dsv4_status dsv4_model_tokenize(const dsv4_model *model, const char *text,
                                         size_t len_bytes, int32_t parse_special, int32_t *ids,
                                         size_t max_ids, size_t *n_ids, dsv4_error *error);

/* Bytes of one token, the model's memory; NULL and 0 for an id that is none. */
DSV4_API const char *dsv4_model_token_bytes(const dsv4_model *model, int32_t id, size_t *len_bytes);

/* 1 when the id is a special token such as the end of a turn. */
DSV4_API int32_t dsv4_model_token_is_special(const dsv4_model *model, int32_t id);

/*
 * The prompt text of a chat: messages as a JSON list in the shape of the OpenAI chat API, or an object
 * with "messages" and "tools". thinking != 0: the answer begins with the model's reasoning.
 * *text is malloc'ed and NUL-terminated; free it with dsv4_text_free. Its special tokens become ids when it
 * is tokenized with parse_special. Errors: BAD_FILE (broken JSON; a message or field, by name),
 * OUT_OF_MEMORY.
 */
DSV4_API dsv4_status dsv4_chat_prompt(const char *messages_json, size_t len_bytes, int32_t thinking,
                                      char **text, size_t *text_len_bytes, dsv4_error *error);

/* Accepts NULL. */
DSV4_API void dsv4_text_free(char *text);

/* ---- sessions ---- */

/*
 * An empty session, to be freed before its model is closed; *session is set on success only.
 * Errors: OUT_OF_MEMORY, INVALID_ARGUMENT when n_sessions are open.
 */
DSV4_API dsv4_status dsv4_session_create(dsv4_model *model, dsv4_session **session,
                                         dsv4_error *error);

/* Gives back what the session holds; forks of it are not touched. Accepts NULL. */
DSV4_API void dsv4_session_free(dsv4_session *session);

DSV4_API int64_t dsv4_session_n_tokens(const dsv4_session *session);

/* The session's tokens; valid until it changes. */
DSV4_API const int32_t *dsv4_session_tokens(const dsv4_session *session);

/*
 * A second session with the same past; cached state is shared until one of them writes. *fork is set on
 * success only. Errors: those of dsv4_session_create.
 */
DSV4_API dsv4_status dsv4_session_fork(const dsv4_session *session, dsv4_session **fork,
                                       dsv4_error *error);

/*
 * Forgets tokens from n_tokens on. What follows is as if they had never been. Within rewind_tokens of the
 * end this is immediate, further back the remaining tokens are computed again.
 * Errors: INVALID_ARGUMENT (n_tokens, with nothing changed), those of dsv4_model_forward; after these the
 * session holds fewer tokens than n_tokens.
 */
DSV4_API dsv4_status dsv4_session_rewind(dsv4_session *session, int64_t n_tokens,
                                         dsv4_error *error);

/* One session's share of a forward call. A session may appear once. */
typedef struct dsv4_forward_entry {
    dsv4_session *session;
    const int32_t *tokens; /* [n_tokens] new tokens, appended to the session */
    int64_t n_tokens;      /* >= 1 */
    int64_t n_logits;      /* logits of the last n_logits of them are wanted, 0 .. n_tokens */
    float *logits;         /* [n_logits, n_vocab] f32, written; NULL when n_logits is 0 */
} dsv4_forward_entry;

/*
 * Runs the new tokens of all entries.
 * Errors: INVALID_ARGUMENT (a token id, by entry and value), OUT_OF_MEMORY (the cache is full, or a session
 * too long). After an error each session holds the tokens of the steps that were complete: its own state is
 * consistent and no other session is touched.
 */
DSV4_API dsv4_status dsv4_model_forward(dsv4_model *model, const dsv4_forward_entry *entries,
                                        int64_t n_entries, dsv4_error *error);

/* ---- sampling and generation ---- */

typedef struct dsv4_sampling {
    uint64_t size;
    float temperature; /* 0: greedy */
    float top_p;       /* 0 .. 1; 1: off */
    float min_p;       /* 0 .. 1; 0: off */
    int32_t top_k;     /* 0: off */
    uint64_t seed;
} dsv4_sampling;

/* Temperature 1, everything else off, seed 0. */
DSV4_API void dsv4_sampling_default(dsv4_sampling *sampling);

/*
 * One token from logits [n_vocab] f32. The order is temperature, top_k, top_p, min_p; *state is the random
 * state, seeded by the caller from sampling->seed, advanced by one draw. Greedy takes the smallest id of
 * equals; -1 when every logit is NaN. logits are not changed; scratch is n_vocab times 8 bytes, 8-byte
 * aligned. The settings are not checked. Thread-safe: it knows no model.
 */
DSV4_API int32_t dsv4_sample(const dsv4_sampling *sampling, const float *logits, int64_t n_vocab,
                             uint64_t *state, void *scratch);

/*
 * Called for every new token; returns 0 to go on, anything else to stop. bytes [len_bytes] may end inside a
 * character; NULL and 0 for an id without text. The session must not be used meanwhile.
 */
typedef int32_t dsv4_on_token(void *context, int32_t id, const char *bytes, size_t len_bytes);

/*
 * Appends prompt tokens to the session, then samples until max_new tokens, the end-of-sentence token (which
 * is neither reported nor kept), or the callback stops. *n_new says how many were reported and are in
 * the session, after an error too: all, unless memory ran out in the step of the last one. on_token may be
 * NULL. With drafts (n_draft) several tokens may come of one step; the text and the session are the same
 * without them.
 * Errors: INVALID_ARGUMENT (a setting, max_new or a token id, by name, with nothing changed), BAD_FILE (all
 * logits are NaN), OUT_OF_MEMORY (the cache is full, or the session as long as it can be).
 */
DSV4_API dsv4_status dsv4_session_generate(dsv4_session *session, const int32_t *prompt,
                                           int64_t n_prompt, const dsv4_sampling *sampling,
                                           int64_t max_new, dsv4_on_token *on_token, void *context,
                                           int64_t *n_new, dsv4_error *error);

#ifdef __cplusplus
}
#endif

#endif

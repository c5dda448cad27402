/*
 * task_prompt.h - prompts whose answers are right or wrong: codes to recall, and sums.
 *
 * Place: program. The texts are those that tools/nano/tasks.py trains on: "The code of the red door is
 * 4821.", some tokens of other text, "Question: What is the code of the red door? Answer:", to which " 4821"
 * is the answer.
 */
#ifndef DSV4_TOOLS_TASK_PROMPT_H
#define DSV4_TOOLS_TASK_PROMPT_H

#include <stdbool.h>

#include "dsv4/dsv4.h"

enum { DSV4_TASK_NAME_BYTES = 48, DSV4_TASK_TEXT_BYTES = 128 };

/* Text in lines, as tokens: what stands between a fact and the question about it. */
typedef struct dsv4_task_filler {
    int32_t *ids;    /* [n_ids] */
    int64_t *starts; /* [n_starts] where the lines begin */
    int64_t n_ids, n_starts;
} dsv4_task_filler;

/* Reads a file of at least 8 lines and 1000 tokens. Errors: IO, BAD_FILE, OUT_OF_MEMORY, UNSUPPORTED (no
 * tokenizer). */
dsv4_status dsv4_task_filler_open(const dsv4_model *model, const char *path,
                                  dsv4_task_filler *filler, dsv4_error *error);

/* Accepts zeroed memory. */
void dsv4_task_filler_close(dsv4_task_filler *filler);

/* Tokens that grow; starts zeroed. */
typedef struct dsv4_task_tokens {
    int32_t *ids;
    int64_t n, max;
} dsv4_task_tokens;

/* Appends what text gives, special tokens in it included. Errors: OUT_OF_MEMORY, UNSUPPORTED. */
dsv4_status dsv4_task_tokens_add(const dsv4_model *model, const char *text,
                                 dsv4_task_tokens *tokens, dsv4_error *error);
void dsv4_task_tokens_free(dsv4_task_tokens *tokens);

/* One case of recall. */
typedef struct dsv4_task_recall {
    char thing[DSV4_TASK_NAME_BYTES]; /* "red door" */
    char code[8];                     /* "4821" */
    dsv4_task_tokens before;  /* the begin of sentence, other text or a chat's turn, the fact */
    dsv4_task_tokens between; /* other text, other facts in it */
} dsv4_task_recall;

/* The case of a seed with n_between tokens between; free what it holds with dsv4_task_recall_free. */
dsv4_status dsv4_task_recall_make(const dsv4_model *model, const dsv4_task_filler *filler,
                                  bool is_chat, uint64_t seed, int64_t n_between,
                                  dsv4_task_recall *recall, dsv4_error *error);
void dsv4_task_recall_free(dsv4_task_recall *recall);

/* lowest <= result <= highest, from a seed. */
int64_t dsv4_task_draw(uint64_t *random, int64_t lowest, int64_t highest);

#endif

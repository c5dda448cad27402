/*
 * task_prompt.c - prompts of the tasks, from a seed.
 *
 * Place: program. What a seed gives is the same everywhere.
 */
#include "task_prompt.h"

#include "base/error.h"
#include "random_bits.h"
#include "text_stream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MIN_LINES = 8,
    MIN_TOKENS = 1000,
    MOST_BEFORE = 60,
    SHORTEST_PIECE = 30,
    LONGEST_PIECE = 200
};

static const char *const colours[] = {
    "red",  "green", "blue",   "white",  "black",  "gold",   "silver",  "brown",
    "pink", "grey",  "purple", "orange", "yellow", "violet", "crimson", "amber",
};

static const char *const nouns[] = {
    "door",   "box",   "ship",   "lamp",  "chair", "house",  "stone",  "river",  "tower",  "garden",
    "bridge", "horse", "book",   "clock", "bell",  "coat",   "ring",   "knife",  "table",  "window",
    "gate",   "boat",  "castle", "barn",  "piano", "mirror", "basket", "bottle", "hammer", "wagon",
    "cabin",  "drum",  "flag",   "mill",  "tent",  "vault",  "wheel",  "candle", "ladder", "kettle",
};

int64_t dsv4_task_draw(uint64_t *random, int64_t lowest, int64_t highest)
{
    return lowest + (int64_t)(dsv4_random_bits(random) % (uint64_t)(highest - lowest + 1));
}

/* ---- tokens ---- */

void dsv4_task_tokens_free(dsv4_task_tokens *tokens)
{
    free(tokens->ids);
    *tokens = (dsv4_task_tokens){0};
}

static dsv4_status make_room(dsv4_task_tokens *tokens, int64_t n_new, dsv4_error *error)
{
    if (n_new <= tokens->max - tokens->n) return DSV4_OK;
    int64_t max = 2 * (tokens->n + n_new);
    int32_t *ids = realloc(tokens->ids, (size_t)max * sizeof *ids);
    if (ids == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for %" PRId64 " tokens",
                              max);
    }
    tokens->ids = ids;
    tokens->max = max;
    return DSV4_OK;
}

static dsv4_status add_ids(dsv4_task_tokens *tokens, const int32_t *ids, int64_t n,
                           dsv4_error *error)
{
    DSV4_TRY(make_room(tokens, n, error));
    memcpy(tokens->ids + tokens->n, ids, (size_t)n * sizeof *ids);
    tokens->n += n;
    return DSV4_OK;
}

dsv4_status dsv4_task_tokens_add(const dsv4_model *model, const char *text,
                                 dsv4_task_tokens *tokens, dsv4_error *error)
{
    size_t n, len_bytes = strlen(text);
    DSV4_TRY(dsv4_model_tokenize(model, text, len_bytes, 1, NULL, 0, &n, error));
    DSV4_TRY(make_room(tokens, (int64_t)n, error));
    DSV4_TRY(dsv4_model_tokenize(model, text, len_bytes, 1, tokens->ids + tokens->n, n, &n, error));
    tokens->n += (int64_t)n;
    return DSV4_OK;
}

/* ---- filler ---- */

void dsv4_task_filler_close(dsv4_task_filler *filler)
{
    free(filler->ids);
    free(filler->starts);
    *filler = (dsv4_task_filler){0};
}

/* A file's text behind one space. */
static dsv4_status read_file(const char *path, char **text, dsv4_error *error)
{
    size_t len_bytes;
    char *read = NULL;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_IO, "%.300s: %s", path, strerror(errno));
    }
    dsv4_status status = dsv4_text_read(file, &read, &len_bytes, error);
    (void)fclose(file);
    if (status != DSV4_OK) return status;
    *text = malloc(len_bytes + 2);
    if (*text != NULL) {
        (*text)[0] = ' ';
        memcpy(*text + 1, read, len_bytes + 1);
    }
    free(read);
    return *text != NULL
               ? DSV4_OK
               : dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "%.300s: no memory", path);
}

/* The lines of text, each behind a space, as tokens. */
static dsv4_status add_lines(const dsv4_model *model, char *text, dsv4_task_tokens *tokens,
                             dsv4_task_filler *filler, dsv4_error *error)
{
    for (char *line = text; *line != '\0';) {
        char *end = line + 1 + strcspn(line + 1, "\n"), last = *end;
        *end = '\0';
        if (end > line + 1) {
            filler->starts[filler->n_starts++] = tokens->n;
            DSV4_TRY(dsv4_task_tokens_add(model, line, tokens, error));
        }
        line = end;
        if (last != '\0') *line = ' ';
    }
    return DSV4_OK;
}

dsv4_status dsv4_task_filler_open(const dsv4_model *model, const char *path,
                                  dsv4_task_filler *filler, dsv4_error *error)
{
    char *text = NULL;
    dsv4_task_tokens tokens = {0};
    *filler = (dsv4_task_filler){0};
    DSV4_TRY(read_file(path, &text, error));
    filler->starts = malloc((strlen(text) / 2 + 1) * sizeof *filler->starts);
    dsv4_status status = DSV4_OK;
    if (filler->starts == NULL) {
        status = dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "%.300s: no memory", path);
    }
    if (status == DSV4_OK) status = add_lines(model, text, &tokens, filler, error);
    free(text);
    filler->ids = tokens.ids;
    filler->n_ids = tokens.n;
    if (status == DSV4_OK && (filler->n_starts < MIN_LINES || filler->n_ids < MIN_TOKENS)) {
        status = dsv4_error_set(error, DSV4_ERROR_BAD_FILE,
                                "%.300s: %" PRId64 " lines of %" PRId64
                                " tokens, expected at least %d of %d together",
                                path, filler->n_starts, filler->n_ids, MIN_LINES, MIN_TOKENS);
    }
    if (status != DSV4_OK) dsv4_task_filler_close(filler);
    return status;
}

/* ---- recall ---- */

static void draw_thing(uint64_t *random, char thing[DSV4_TASK_NAME_BYTES])
{
    int64_t colour = dsv4_task_draw(random, 0, sizeof colours / sizeof *colours - 1);
    int64_t noun = dsv4_task_draw(random, 0, sizeof nouns / sizeof *nouns - 1);
    (void)snprintf(thing, DSV4_TASK_NAME_BYTES, "%s %s", colours[colour], nouns[noun]);
}

static dsv4_status add_fact(const dsv4_model *model, const char *thing, const char *code,
                            bool is_first, dsv4_task_tokens *tokens, dsv4_error *error)
{
    char text[DSV4_TASK_TEXT_BYTES];
    (void)snprintf(text, sizeof text, "%sThe code of the %s is %s.", is_first ? "" : " ", thing,
                   code);
    return dsv4_task_tokens_add(model, text, tokens, error);
}

/* n tokens of pieces of text; now and then the code of another thing. */
static dsv4_status add_filler(const dsv4_model *model, const dsv4_task_filler *filler,
                              const char *thing, int64_t n, uint64_t *random,
                              dsv4_task_tokens *tokens, dsv4_error *error)
{
    int64_t first = tokens->n;
    while (tokens->n - first < n) {
        if (dsv4_task_draw(random, 0, 9) < 3) {
            char other[DSV4_TASK_NAME_BYTES], code[8];
            draw_thing(random, other);
            (void)snprintf(code, sizeof code, "%04d", (int)dsv4_task_draw(random, 0, 9999));
            if (strcmp(other, thing) != 0) {
                DSV4_TRY(add_fact(model, other, code, false, tokens, error));
            }
        }
        int64_t begin = filler->starts[dsv4_task_draw(random, 0, filler->n_starts - 1)];
        int64_t n_piece = dsv4_task_draw(random, SHORTEST_PIECE, LONGEST_PIECE);
        if (n_piece > filler->n_ids - begin) n_piece = filler->n_ids - begin;
        DSV4_TRY(add_ids(tokens, filler->ids + begin, n_piece, error));
    }
    tokens->n = first + n;
    return DSV4_OK;
}

static dsv4_status fill_recall(const dsv4_model *model, const dsv4_task_filler *filler,
                               bool is_chat, uint64_t seed, int64_t n_between,
                               dsv4_task_recall *recall, dsv4_error *error)
{
    uint64_t random = seed;
    int32_t bos = dsv4_model_bos(model);
    draw_thing(&random, recall->thing);
    (void)snprintf(recall->code, sizeof recall->code, "%04d",
                   (int)dsv4_task_draw(&random, 0, 9999));
    int64_t n_before = is_chat ? 0 : dsv4_task_draw(&random, 0, MOST_BEFORE);
    DSV4_TRY(add_ids(&recall->before, &bos, 1, error));
    if (is_chat) DSV4_TRY(dsv4_task_tokens_add(model, "<｜User｜>", &recall->before, error));
    DSV4_TRY(add_filler(model, filler, recall->thing, n_before, &random, &recall->before, error));
    DSV4_TRY(add_fact(model, recall->thing, recall->code, n_before == 0, &recall->before, error));
    return add_filler(model, filler, recall->thing, n_between, &random, &recall->between, error);
}

dsv4_status dsv4_task_recall_make(const dsv4_model *model, const dsv4_task_filler *filler,
                                  bool is_chat, uint64_t seed, int64_t n_between,
                                  dsv4_task_recall *recall, dsv4_error *error)
{
    *recall = (dsv4_task_recall){0};
    dsv4_status status = fill_recall(model, filler, is_chat, seed, n_between, recall, error);
    if (status != DSV4_OK) dsv4_task_recall_free(recall);
    return status;
}

void dsv4_task_recall_free(dsv4_task_recall *recall)
{
    dsv4_task_tokens_free(&recall->before);
    dsv4_task_tokens_free(&recall->between);
}

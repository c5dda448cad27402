/*
 * model_text.c - a model's tokenizer, and the prompt text of a chat.
 *
 * Place: api. A directory without tokenizer.json is a model without text: ids only.
 */
#include "api_model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "io/file_read.h"
#include "text/chat.h"

enum { MAX_FILE_BYTES = 1 << 28 }; /* published files have 8 MB */

dsv4_status dsv4_model_read_tokenizer(const char *dir, dsv4_tokenizer **tokenizer,
                                      dsv4_error *error)
{
    static const char name[] = "/tokenizer.json";
    *tokenizer = NULL;
    size_t dir_bytes = strlen(dir), len_bytes = 0;
    void *bytes = NULL;
    char *path = malloc(dir_bytes + sizeof name);
    if (path == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "tokenizer.json: no memory");
    }
    memcpy(path, dir, dir_bytes);
    memcpy(path + dir_bytes, name, sizeof name);
    dsv4_status status = DSV4_OK;
    if (access(path, F_OK) == 0 || errno != ENOENT) {
        status = dsv4_file_read(path, MAX_FILE_BYTES, &bytes, &len_bytes, error);
        if (status == DSV4_OK) {
            status = dsv4_tokenizer_open(path, bytes, len_bytes, tokenizer, error);
        }
    }
    free(bytes);
    free(path);
    return status;
}

dsv4_status dsv4_model_tokenize(const dsv4_model *model, const char *text, size_t len_bytes,
                                int32_t parse_special, int32_t *ids, size_t max_ids, size_t *n_ids,
                                dsv4_error *error)
{
    if (model->tokenizer == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED,
                              "tokenize: the model's directory has no tokenizer.json");
    }
    return dsv4_tokenizer_encode(model->tokenizer, text, len_bytes, parse_special != 0, ids,
                                 max_ids, n_ids, error);
}

const char *dsv4_model_token_bytes(const dsv4_model *model, int32_t id, size_t *len_bytes)
{
    if (model->tokenizer == NULL) {
        *len_bytes = 0;
        return NULL;
    }
    return dsv4_tokenizer_token(model->tokenizer, id, len_bytes);
}

int32_t dsv4_model_token_is_special(const dsv4_model *model, int32_t id)
{
    return model->tokenizer != NULL && dsv4_tokenizer_is_special(model->tokenizer, id);
}

dsv4_status dsv4_chat_prompt(const char *messages_json, size_t len_bytes, int32_t thinking,
                             char **text, size_t *text_len_bytes, dsv4_error *error)
{
    dsv4_chat_options options;
    dsv4_chat_options_default(&options);
    options.thinking = thinking != 0;
    return dsv4_chat_encode(messages_json, len_bytes, &options, text, text_len_bytes, error);
}

void dsv4_text_free(char *text)
{
    free(text);
}

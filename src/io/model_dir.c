/*
 * model_dir.c - a model directory as DeepSeek or Hugging Face publish it.
 *
 * Place: io. Opening collects every tensor of every shard under its official name, sorted, and then
 * asks that table for each tensor of the configuration. Memory follows the files' headers, not what
 * config.json claims. Other files of the directory are not looked at.
 */
#include "io/model_dir.h"

#include "base/error.h"
#include "io/file_error.h"
#include "io/file_read.h"
#include "io/json_text.h"
#include "io/tensor_names.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_CONFIG_BYTES ((size_t)1 << 20)
#define MAX_INDEX_BYTES  ((size_t)100 << 20) /* as a safetensors header */

#define CONFIG_NAME "config.json"
#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME  "model.safetensors.index.json"

/* A tensor of a shard. */
typedef struct found_tensor {
    char name[DSV4_TENSOR_NAME_BYTES]; /* official */
    const dsv4_tensor_view *view;      /* the shard's, with the name that it has there */
    bool is_expected;                  /* by the configuration */
} found_tensor;

struct dsv4_model_dir {
    dsv4_config config;
    dsv4_safetensors **shards; /* [n_shards] */
    int64_t n_shards;
    found_tensor *found; /* [n_found] by official name; holds the names of tensors */
    int64_t n_found;
    dsv4_tensor_view *tensors; /* [n_tensors] by official name */
    int64_t n_tensors;
};

/* What the functions that open one directory share. */
typedef struct opener {
    const char *path;
    dsv4_error *error;
    dsv4_model_dir *dir;
    json_t *index;            /* the whole index file; NULL when there is none */
    json_t *weight_map;       /* inside it */
    const char **shard_names; /* [n_shards] */
    int64_t n_missing;
    char first_missing[DSV4_TENSOR_NAME_BYTES];
} opener;

/* Error texts. */

/* `status` with "<path>: <text>". */
static dsv4_status refuse(const opener *o, dsv4_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static dsv4_status refuse(const opener *o, dsv4_status status, const char *format, ...)
{
    char text[DSV4_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return dsv4_error_set(o->error, status, "%s: %s", dsv4_shorten(o->path).text, text);
}

/* A shape in words: "[2, 3]". */
typedef struct shape_text {
    char text[DSV4_SAFETENSORS_MAX_RANK * 22 + 3];
} shape_text;

static shape_text describe_shape(int32_t rank, const int64_t *shape)
{
    shape_text result = {"["};
    size_t n = 1;
    for (int32_t i = 0; i < rank; i++) {
        int n_written = snprintf(result.text + n, sizeof result.text - n, "%s%" PRId64,
                                 i == 0 ? "" : ", ", shape[i]);
        assert(n_written > 0);
        n += (size_t)n_written;
    }
    (void)snprintf(result.text + n, sizeof result.text - n, "]");
    return result;
}

/* Files. */

/* "<directory>/<name>", to be freed; NULL without memory. */
static char *join_path(const char *directory, const char *name)
{
    size_t len_bytes = strlen(directory) + strlen(name) + 2;
    char *path = malloc(len_bytes);
    if (path != NULL) (void)snprintf(path, len_bytes, "%s/%s", directory, name);
    return path;
}

static dsv4_status read_config(const opener *o)
{
    void *bytes = NULL;
    size_t len_bytes = 0;
    char *path = join_path(o->path, CONFIG_NAME);
    if (path == NULL) return dsv4_error_set_memory(o->path, o->error);
    dsv4_status status = dsv4_file_read(path, MAX_CONFIG_BYTES, &bytes, &len_bytes, o->error);
    if (status == DSV4_OK) {
        status = dsv4_config_parse(path, bytes, len_bytes, &o->dir->config, o->error);
    }
    free(bytes);
    free(path);
    return status;
}

static dsv4_status file_exists(const opener *o, const char *name, bool *exists)
{
    char *path = join_path(o->path, name);
    if (path == NULL) return dsv4_error_set_memory(o->path, o->error);
    struct stat info;
    int error_number = stat(path, &info) == 0 ? 0 : errno;
    *exists = error_number == 0;
    dsv4_status status = DSV4_OK;
    if (error_number != 0 && error_number != ENOENT) {
        status = dsv4_error_set_io(path, "stat", error_number, o->error);
    }
    free(path);
    return status;
}

/* The index file. */

/* Nothing that a path could climb with; the directory's own files only. */
static bool is_shard_name(const json_t *value)
{
    static const char ending[] = ".safetensors";
    if (!json_is_string(value)) return false;
    const char *name = json_string_value(value);
    size_t len_bytes = json_string_length(value), ending_bytes = sizeof ending - 1;
    return len_bytes > ending_bytes && strchr(name, '/') == NULL &&
           strcmp(name + len_bytes - ending_bytes, ending) == 0;
}

static dsv4_status check_index(opener *o)
{
    const char *key;
    json_t *value;
    json_object_foreach(o->index, key, value)
    {
        if (strcmp(key, "metadata") != 0 && strcmp(key, "weight_map") != 0) {
            return refuse(o, DSV4_ERROR_BAD_FILE,
                          INDEX_NAME " has a key '%s', expected only metadata and weight_map",
                          dsv4_shorten(key).text);
        }
    }
    o->weight_map = json_object_get(o->index, "weight_map");
    if (!json_is_object(o->weight_map) || json_object_size(o->weight_map) == 0) {
        return refuse(o, DSV4_ERROR_BAD_FILE,
                      INDEX_NAME ": weight_map is %s, expected an object with a tensor",
                      o->weight_map == NULL           ? "missing"
                      : json_is_object(o->weight_map) ? "empty"
                                                      : dsv4_json_describe(o->weight_map).text);
    }
    json_object_foreach(o->weight_map, key, value)
    {
        if (!is_shard_name(value)) {
            return refuse(o, DSV4_ERROR_BAD_FILE,
                          INDEX_NAME ": the file of tensor '%s' is %s, expected the name of a "
                                     ".safetensors file in the same directory",
                          dsv4_shorten(key).text, dsv4_json_describe(value).text);
        }
    }
    return DSV4_OK;
}

static dsv4_status read_index(opener *o)
{
    void *bytes = NULL;
    size_t len_bytes = 0;
    char *path = join_path(o->path, INDEX_NAME);
    if (path == NULL) return dsv4_error_set_memory(o->path, o->error);
    dsv4_status status = dsv4_file_read(path, MAX_INDEX_BYTES, &bytes, &len_bytes, o->error);
    if (status == DSV4_OK) {
        status = dsv4_json_parse(path, bytes, len_bytes, &o->index, o->error);
    }
    free(bytes);
    free(path);
    return status == DSV4_OK ? check_index(o) : status;
}

static int compare_strings(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* The shards' names, each once, and room for the shards. */
static dsv4_status list_shards(opener *o)
{
    size_t n_names = o->weight_map == NULL ? 1 : json_object_size(o->weight_map);
    o->shard_names = calloc(n_names, sizeof *o->shard_names);
    if (o->shard_names == NULL) return dsv4_error_set_memory(o->path, o->error);
    o->shard_names[0] = SINGLE_NAME;
    size_t n = 0;
    const char *key;
    json_t *value;
    json_object_foreach(o->weight_map, key, value)
    {
        o->shard_names[n++] = json_string_value(value);
    }
    qsort(o->shard_names, n, sizeof *o->shard_names, compare_strings);
    size_t n_shards = 1;
    for (size_t i = 1; i < n; i++) {
        if (strcmp(o->shard_names[i], o->shard_names[n_shards - 1]) != 0) {
            o->shard_names[n_shards++] = o->shard_names[i];
        }
    }
    o->dir->shards = calloc(n_shards, sizeof *o->dir->shards);
    if (o->dir->shards == NULL) return dsv4_error_set_memory(o->path, o->error);
    o->dir->n_shards = (int64_t)n_shards;
    return DSV4_OK;
}

static dsv4_status open_shards(opener *o, dsv4_progress *progress, void *context)
{
    for (int64_t i = 0; i < o->dir->n_shards; i++) {
        char *path = join_path(o->path, o->shard_names[i]);
        if (path == NULL) return dsv4_error_set_memory(o->path, o->error);
        dsv4_status status = dsv4_safetensors_open(path, &o->dir->shards[i], o->error);
        free(path);
        if (status != DSV4_OK) return status;
        if (progress != NULL) progress(context, i + 1, o->dir->n_shards);
    }
    return DSV4_OK;
}

/* A shard's tensors must be those that the index gives it. */
static dsv4_status check_shard_against_index(const opener *o, int64_t i_shard)
{
    const dsv4_safetensors *shard = o->dir->shards[i_shard];
    const char *shard_name = o->shard_names[i_shard];
    for (int64_t i = 0; i < dsv4_safetensors_n_tensors(shard); i++) {
        const char *name = dsv4_safetensors_tensor(shard, i)->name;
        const json_t *place = json_object_get(o->weight_map, name);
        if (place == NULL || strcmp(json_string_value(place), shard_name) != 0) {
            return refuse(o, DSV4_ERROR_BAD_FILE,
                          "tensor '%s' is in '%s', expected %s%s as " INDEX_NAME " says",
                          dsv4_shorten(name).text, dsv4_shorten(shard_name).text,
                          place == NULL ? "no such tensor" : "it in ",
                          place == NULL ? "" : dsv4_json_describe(place).text);
        }
    }
    return DSV4_OK;
}

static dsv4_status check_shards_against_index(const opener *o)
{
    int64_t n_tensors = 0;
    for (int64_t i = 0; i < o->dir->n_shards; i++) {
        DSV4_TRY(check_shard_against_index(o, i));
        n_tensors += dsv4_safetensors_n_tensors(o->dir->shards[i]);
    }
    if (n_tensors == (int64_t)json_object_size(o->weight_map)) return DSV4_OK;
    /* Every tensor of a shard is in the index, so some of the index are in no shard. */
    const char *key;
    json_t *value;
    json_object_foreach(o->weight_map, key, value)
    {
        const char *shard_name = json_string_value(value);
        const char **place = bsearch(&shard_name, o->shard_names, (size_t)o->dir->n_shards,
                                     sizeof *o->shard_names, compare_strings);
        assert(place != NULL);
        if (dsv4_safetensors_find(o->dir->shards[place - o->shard_names], key) == NULL) {
            return refuse(o, DSV4_ERROR_BAD_FILE,
                          "tensor '%s' is not in '%s', expected it there as " INDEX_NAME " says",
                          dsv4_shorten(key).text, dsv4_shorten(shard_name).text);
        }
    }
    return DSV4_OK;
}

/* Tensors. */

static int compare_found(const void *a, const void *b)
{
    const found_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int compare_name_to_found(const void *key, const void *element)
{
    const found_tensor *found = element;
    return strcmp(key, found->name);
}

static int compare_name_to_view(const void *key, const void *element)
{
    const dsv4_tensor_view *view = element;
    return strcmp(key, view->name);
}

static dsv4_status keep_tensor(const opener *o, const dsv4_tensor_view *view)
{
    found_tensor *found = &o->dir->found[o->dir->n_found++];
    found->view = view;
    if (!dsv4_tensor_official_name(view->name, found->name)) {
        return refuse(o, DSV4_ERROR_BAD_FILE,
                      "tensor '%s' is surplus, expected only tensors that " CONFIG_NAME " asks for",
                      dsv4_shorten(view->name).text);
    }
    const char *owner = dsv4_tensor_foreign_owner(found->name);
    if (owner != NULL) {
        return refuse(o, DSV4_ERROR_UNSUPPORTED,
                      "tensor '%s' is one of %s, expected the tensors of DeepSeek-V4 with one per "
                      "expert",
                      dsv4_shorten(view->name).text, owner);
    }
    return DSV4_OK;
}

/* Fills dir->found from all shards, sorted, each official name once. */
static dsv4_status collect_tensors(opener *o)
{
    dsv4_model_dir *dir = o->dir;
    int64_t n_tensors = 0;
    for (int64_t i = 0; i < dir->n_shards; i++) {
        n_tensors += dsv4_safetensors_n_tensors(dir->shards[i]);
    }
    /* one more: an allocation of nothing may return NULL */
    dir->found = calloc((size_t)n_tensors + 1, sizeof *dir->found);
    if (dir->found == NULL) return dsv4_error_set_memory(o->path, o->error);
    for (int64_t i = 0; i < dir->n_shards; i++) {
        for (int64_t k = 0; k < dsv4_safetensors_n_tensors(dir->shards[i]); k++) {
            DSV4_TRY(keep_tensor(o, dsv4_safetensors_tensor(dir->shards[i], k)));
        }
    }
    qsort(dir->found, (size_t)n_tensors, sizeof *dir->found, compare_found);
    for (int64_t i = 1; i < n_tensors; i++) {
        if (compare_found(&dir->found[i - 1], &dir->found[i]) == 0) {
            return refuse(o, DSV4_ERROR_BAD_FILE,
                          "tensors '%s' and '%s' are both %s, expected it once",
                          dsv4_shorten(dir->found[i - 1].view->name).text,
                          dsv4_shorten(dir->found[i].view->name).text, dir->found[i].name);
        }
    }
    return DSV4_OK;
}

/* A dsv4_tensor_visit on an opener. */
static dsv4_status check_tensor(void *context, const dsv4_tensor_rule *rule)
{
    opener *o = context;
    found_tensor *found = bsearch(rule->name, o->dir->found, (size_t)o->dir->n_found,
                                  sizeof *o->dir->found, compare_name_to_found);
    if (found == NULL) {
        if (o->n_missing++ == 0) {
            (void)snprintf(o->first_missing, sizeof o->first_missing, "%s", rule->name);
        }
        return DSV4_OK;
    }
    const dsv4_tensor_view *view = found->view;
    if (view->dtype != rule->dtypes[0] && view->dtype != rule->dtypes[1]) {
        bool has_two = rule->dtypes[0] != rule->dtypes[1];
        return refuse(o, DSV4_ERROR_BAD_FILE, "tensor '%s': dtype is %s, expected %s%s%s",
                      dsv4_shorten(view->name).text, dsv4_safetensors_dtype_name(view->dtype),
                      dsv4_safetensors_dtype_name(rule->dtypes[0]), has_two ? " or " : "",
                      has_two ? dsv4_safetensors_dtype_name(rule->dtypes[1]) : "");
    }
    if (view->rank != rule->rank ||
        memcmp(view->shape, rule->shape, (size_t)rule->rank * sizeof view->shape[0]) != 0) {
        return refuse(o, DSV4_ERROR_BAD_FILE, "tensor '%s': shape is %s, expected %s",
                      dsv4_shorten(view->name).text, describe_shape(view->rank, view->shape).text,
                      describe_shape(rule->rank, rule->shape).text);
    }
    found->is_expected = true;
    o->dir->n_tensors++;
    return DSV4_OK;
}

static dsv4_status refuse_surplus(const opener *o)
{
    int64_t n_surplus = 0;
    const found_tensor *first = NULL;
    for (int64_t i = 0; i < o->dir->n_found; i++) {
        const found_tensor *found = &o->dir->found[i];
        if (found->is_expected || dsv4_tensor_is_mtp_copy(found->name)) continue;
        if (n_surplus++ == 0) first = found;
    }
    if (first == NULL) return DSV4_OK;
    return refuse(o, DSV4_ERROR_BAD_FILE,
                  "%" PRId64 " surplus tensors, first '%s', expected only those that " CONFIG_NAME
                  " asks for",
                  n_surplus, dsv4_shorten(first->view->name).text);
}

/* Checks the found tensors and fills dir->tensors. */
static dsv4_status check_tensors(opener *o)
{
    dsv4_model_dir *dir = o->dir;
    DSV4_TRY(dsv4_tensor_rules_visit(&dir->config, check_tensor, o));
    if (o->n_missing > 0) {
        return refuse(o, DSV4_ERROR_BAD_FILE,
                      "%" PRId64 " missing tensors, first '%s', expected all that " CONFIG_NAME
                      " asks for",
                      o->n_missing, o->first_missing);
    }
    DSV4_TRY(refuse_surplus(o));
    dir->tensors = calloc((size_t)dir->n_tensors, sizeof *dir->tensors);
    if (dir->tensors == NULL) return dsv4_error_set_memory(o->path, o->error);
    int64_t n = 0;
    for (int64_t i = 0; i < dir->n_found; i++) {
        if (!dir->found[i].is_expected) continue;
        dir->tensors[n] = *dir->found[i].view;
        dir->tensors[n++].name = dir->found[i].name;
    }
    assert(n == dir->n_tensors);
    return DSV4_OK;
}

static dsv4_status open_directory(opener *o, dsv4_progress *progress, void *context)
{
    bool has_single = false, has_index = false;
    DSV4_TRY(read_config(o));
    DSV4_TRY(file_exists(o, SINGLE_NAME, &has_single));
    DSV4_TRY(file_exists(o, INDEX_NAME, &has_index));
    if (has_single == has_index) {
        return refuse(o, has_single ? DSV4_ERROR_BAD_FILE : DSV4_ERROR_IO,
                      "has %s, expected either " SINGLE_NAME " or " INDEX_NAME,
                      has_single ? "both" : "no weights");
    }
    if (has_index) DSV4_TRY(read_index(o));
    DSV4_TRY(list_shards(o));
    DSV4_TRY(open_shards(o, progress, context));
    if (has_index) DSV4_TRY(check_shards_against_index(o));
    DSV4_TRY(collect_tensors(o));
    return check_tensors(o);
}

dsv4_status dsv4_model_dir_open(const char *path, dsv4_progress *progress, void *context,
                                dsv4_model_dir **dir, dsv4_error *error)
{
    opener o = {.path = path, .error = error, .dir = calloc(1, sizeof *o.dir)};
    if (o.dir == NULL) return dsv4_error_set_memory(path, error);
    dsv4_status status = open_directory(&o, progress, context);
    free(o.shard_names);
    json_decref(o.index);
    if (status != DSV4_OK) {
        dsv4_model_dir_close(o.dir);
        return status;
    }
    *dir = o.dir;
    return DSV4_OK;
}

void dsv4_model_dir_close(dsv4_model_dir *dir)
{
    if (dir == NULL) return;
    for (int64_t i = 0; i < dir->n_shards; i++) dsv4_safetensors_close(dir->shards[i]);
    free(dir->shards);
    free(dir->found);
    free(dir->tensors);
    free(dir);
}

const dsv4_config *dsv4_model_dir_config(const dsv4_model_dir *dir)
{
    return &dir->config;
}

const dsv4_tensor_view *dsv4_model_dir_tensor(const dsv4_model_dir *dir, const char *official_name)
{
    return bsearch(official_name, dir->tensors, (size_t)dir->n_tensors, sizeof *dir->tensors,
                   compare_name_to_view);
}

int64_t dsv4_model_dir_n_tensors(const dsv4_model_dir *dir)
{
    return dir->n_tensors;
}

const dsv4_tensor_view *dsv4_model_dir_tensor_at(const dsv4_model_dir *dir, int64_t i)
{
    assert(i >= 0 && i < dir->n_tensors);
    return &dir->tensors[i];
}

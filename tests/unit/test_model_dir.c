/*
 * test_model_dir.c - opening model directories.
 *
 * Each test writes a small directory of its own, made from the rules that test_tensor_names.c
 * checks, with different bytes in every tensor.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/model_dir.h"
#include "io/tensor_names.h"
#include "test_files.h"
#include "test_models.h"

#include <jansson.h>
#include <sys/stat.h>

/* A checkpoint that a test builds and changes before it writes it. */
typedef struct model {
    int64_t n_tensors;
    dsv4_tensor_view tensors[MAX_TENSORS];
    char names[MAX_TENSORS][160];
} model;

static unsigned char pattern[(size_t)1 << 20]; /* what tensors' data point into */

static int fill_pattern(void **state)
{
    (void)state;
    uint32_t random = 1;
    for (size_t i = 0; i < sizeof pattern; i++) {
        random = random * 1664525u + 1013904223u;
        pattern[i] = (unsigned char)(random >> 24);
    }
    return 0;
}

static void write_config(int n_mtp_blocks, const char *expert_dtype)
{
    char text[2048];
    int len_bytes = snprintf(text, sizeof text, config_text, n_mtp_blocks, expert_dtype);
    write_bytes("config.json", text, (size_t)len_bytes);
}

static void set_name(model *m, int64_t i, const char *name)
{
    size_t len_bytes = strlen(name) + 1;
    assert_true(len_bytes <= sizeof m->names[0]);
    memcpy(m->names[i], name, len_bytes);
}

/* Adds a tensor with data of its own. */
static dsv4_tensor_view *add_tensor(model *m, const char *name, int32_t dtype, int32_t rank,
                                    const int64_t *shape)
{
    assert_true(m->n_tensors < MAX_TENSORS);
    dsv4_tensor_view *view = &m->tensors[m->n_tensors];
    set_name(m, m->n_tensors, name);
    *view = (dsv4_tensor_view){.name = m->names[m->n_tensors], .dtype = dtype, .rank = rank};
    for (int32_t i = 0; i < rank; i++) view->shape[i] = shape[i];
    assert_true(dsv4_tensor_view_bytes(view, &view->len_bytes));
    assert_true(view->len_bytes + 64 * m->n_tensors < (int64_t)sizeof pattern);
    view->data = pattern + 64 * m->n_tensors++;
    return view;
}

static dsv4_status add_rule(void *context, const dsv4_tensor_rule *rule)
{
    (void)add_tensor(context, rule->name, rule->dtypes[0], rule->rank, rule->shape);
    return DSV4_OK;
}

static dsv4_status add_rule_with_other_dtype(void *context, const dsv4_tensor_rule *rule)
{
    (void)add_tensor(context, rule->name, rule->dtypes[1], rule->rank, rule->shape);
    return DSV4_OK;
}

/* The checkpoint of make_config(n_mtp_blocks, expert_dtype); to be freed. */
static model *make_model(int n_mtp_blocks, const char *expert_dtype, dsv4_tensor_visit *visit)
{
    model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    dsv4_config config = make_config(n_mtp_blocks, expert_dtype);
    assert_int_equal(dsv4_tensor_rules_visit(&config, visit, m), DSV4_OK);
    return m;
}

static dsv4_tensor_view *find_tensor(model *m, const char *name)
{
    for (int64_t i = 0; i < m->n_tensors; i++) {
        if (strcmp(m->names[i], name) == 0) return &m->tensors[i];
    }
    fail_msg("no tensor '%s'", name);
    return NULL;
}

static void rename_tensor(model *m, const char *name, const char *new_name)
{
    set_name(m, find_tensor(m, name) - m->tensors, new_name);
}

/* Fills the hole with the last tensor. */
static void remove_tensor(model *m, const char *name)
{
    dsv4_tensor_view *view = find_tensor(m, name), *last = &m->tensors[--m->n_tensors];
    if (view != last) set_name(m, view - m->tensors, last->name);
    const char *kept = view->name;
    *view = *last;
    view->name = kept;
}

static void write_tensors(const char *path, const dsv4_tensor_view *tensors, int64_t n_tensors)
{
    dsv4_error error = {0};
    if (dsv4_safetensors_write(path, tensors, n_tensors, NULL, 0, &error) != DSV4_OK) {
        fail_msg("%s", error.text);
    }
}

static void write_single(const model *m)
{
    write_tensors("model.safetensors", m->tensors, m->n_tensors);
}

static dsv4_model_dir *open_here(void)
{
    dsv4_model_dir *dir = NULL;
    dsv4_error error = {0};
    if (dsv4_model_dir_open(".", NULL, NULL, &dir, &error) != DSV4_OK) {
        fail_msg("refused: %s", error.text);
    }
    assert_non_null(dir);
    return dir;
}

static void assert_refused_here(dsv4_status expected_status, const char *const parts[3])
{
    dsv4_model_dir *dir = NULL;
    dsv4_error error = {0};
    dsv4_status status = dsv4_model_dir_open(".", NULL, NULL, &dir, &error);
    if (status == DSV4_OK) fail_msg("accepted, expected a text with '%s'", parts[0]);
    for (int i = 0; i < 3; i++) assert_contains(error.text, parts[i]);
    assert_int_equal(status, expected_status);
    assert_int_equal(error.status, expected_status);
    assert_null(dir);
    assert_int_equal(dsv4_model_dir_open(".", NULL, NULL, &dir, NULL), expected_status);
}

/* The open directory holds exactly the tensors of `m`, under the official names of `official`. */
static void assert_same_tensors(const dsv4_model_dir *dir, const model *m, const model *official)
{
    assert_int_equal(dsv4_model_dir_n_tensors(dir), m->n_tensors);
    for (int64_t i = 0; i < m->n_tensors; i++) {
        const dsv4_tensor_view *view = dsv4_model_dir_tensor(dir, official->tensors[i].name);
        assert_non_null(view);
        assert_string_equal(view->name, official->tensors[i].name);
        assert_int_equal(view->dtype, m->tensors[i].dtype);
        assert_int_equal(view->rank, m->tensors[i].rank);
        assert_memory_equal(view->shape, m->tensors[i].shape, sizeof view->shape);
        assert_int_equal(view->len_bytes, m->tensors[i].len_bytes);
        assert_memory_equal(view->data, m->tensors[i].data, (size_t)view->len_bytes);
        const dsv4_tensor_view *at = dsv4_model_dir_tensor_at(dir, i);
        assert_ptr_equal(dsv4_model_dir_tensor(dir, at->name), at);
        if (i > 0) assert_true(dsv4_model_dir_tensor_at(dir, i - 1) != at);
    }
}

/* The transformers name of an official one, where block_names has it. */
static void make_other_name(const char *official, char name[512])
{
    const char *rest = official;
    if (strncmp(rest, "layers.", 7) == 0) rest += strlen("layers.0.");
    if (strncmp(rest, "mtp.", 4) == 0) rest += strlen("mtp.0.");
    const char *other = rest;
    for (size_t i = 0; i < LENGTH_OF(block_names); i++) {
        if (strcmp(rest, block_names[i].official) == 0) other = block_names[i].other;
    }
    if (strcmp(official, "embed.weight") == 0) other = "embed_tokens.weight";
    if (strcmp(official, "head.weight") == 0) {
        (void)snprintf(name, 512, "lm_head.weight");
        return;
    }
    (void)snprintf(name, 512, "model.%.*s%s", (int)(rest - official), official, other);
}

/* Directories that open */

static void check_progress(void *context, int64_t n_done, int64_t n_total)
{
    int64_t *expected = context; /* n_done, n_total of the next call */
    assert_int_equal(n_done, expected[0]++);
    assert_int_equal(n_total, expected[1]);
}

static void test_open_single_file(void **state)
{
    (void)state;
    model *m = make_model(1, "fp4", add_rule);
    write_config(1, "fp4");
    write_single(m);
    write_bytes("golden.safetensors", "not looked at", 13);
    int64_t expected[] = {1, 1};
    dsv4_model_dir *dir = NULL;
    dsv4_error error = {0};
    assert_int_equal(dsv4_model_dir_open(".", check_progress, expected, &dir, &error), DSV4_OK);
    assert_int_equal(expected[0], 2);
    assert_same_tensors(dir, m, m);
    dsv4_config config = make_config(1, "fp4");
    assert_memory_equal(dsv4_model_dir_config(dir), &config, sizeof config);
    static const char *const others[] = {
        "", "norm", "norm.weight2", "model.norm.weight", "layers.3.attn_norm.weight", "a", "z"};
    for (size_t i = 0; i < LENGTH_OF(others); i++) {
        assert_null(dsv4_model_dir_tensor(dir, others[i]));
    }
    dsv4_model_dir_close(dir);
    free(m);
}

static void test_open_other_names(void **state)
{
    (void)state;
    model *official = make_model(1, "fp4", add_rule), *m = make_model(1, "fp4", add_rule);
    int64_t n_changed = 0;
    for (int64_t i = 0; i < m->n_tensors; i++) {
        char name[512];
        make_other_name(official->names[i], name);
        set_name(m, i, name);
        n_changed += strcmp(m->names[i], official->names[i]) != 0;
    }
    assert_int_equal(n_changed, m->n_tensors);
    write_config(1, "fp4");
    write_single(m);
    dsv4_model_dir *dir = open_here();
    assert_same_tensors(dir, m, official);
    assert_null(dsv4_model_dir_tensor(dir, "model.norm.weight"));
    dsv4_model_dir_close(dir);
    free(m);
    free(official);
}

static void test_open_other_dtypes(void **state)
{
    (void)state;
    model *m = make_model(1, "fp4", add_rule_with_other_dtype);
    assert_int_equal(find_tensor(m, "layers.0.ffn.gate.tid2eid")->dtype, DSV4_SAFETENSORS_I32);
    assert_int_equal(find_tensor(m, "layers.0.attn.wkv.scale")->dtype, DSV4_SAFETENSORS_U8);
    assert_int_equal(find_tensor(m, "mtp.0.ffn.experts.2.w1.weight")->dtype, DSV4_SAFETENSORS_U8);
    write_config(1, "fp4");
    write_single(m);
    dsv4_model_dir *dir = open_here();
    assert_same_tensors(dir, m, m);
    dsv4_model_dir_close(dir);
    free(m);
}

static void test_open_fp8_experts(void **state)
{
    (void)state;
    model *m = make_model(0, "fp8", add_rule);
    write_config(0, "fp8");
    write_single(m);
    dsv4_model_dir *dir = open_here();
    assert_same_tensors(dir, m, m);
    dsv4_model_dir_close(dir);
    write_config(0, "fp4");
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"layers.0.ffn.experts.0.w1.weight",
                                               "dtype is F8_E4M3, expected I8 or U8"});
    free(m);
}

static void test_open_mtp_copies(void **state)
{
    (void)state;
    static const char *const copies[] = {"mtp.0.emb.tok_emb.weight", "mtp.0.head.weight",
                                         "model.mtp.0.embed_tokens.weight"};
    const int64_t shape[] = {24, 160};
    model *m = make_model(1, "fp4", add_rule);
    int64_t n_tensors = m->n_tensors;
    for (size_t i = 0; i < LENGTH_OF(copies); i++) {
        (void)add_tensor(m, copies[i], DSV4_SAFETENSORS_BF16, 2, shape);
    }
    write_config(1, "fp4");
    write_single(m);
    dsv4_model_dir *dir = open_here();
    m->n_tensors = n_tensors;
    assert_same_tensors(dir, m, m);
    for (size_t i = 0; i < LENGTH_OF(copies); i++) {
        assert_null(dsv4_model_dir_tensor(dir, copies[i]));
    }
    dsv4_model_dir_close(dir);
    free(m);
}

/* Refused tensors */

static void test_missing_tensors(void **state)
{
    (void)state;
    write_config(1, "fp4");
    model *m = make_model(1, "fp4", add_rule);
    remove_tensor(m, "layers.2.attn.compressor.ape");
    write_single(m);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){".: 1 missing tensors",
                                               "first 'layers.2.attn.compressor.ape', expected "});
    remove_tensor(m, "mtp.0.norm.weight");
    remove_tensor(m, "layers.1.ffn.experts.2.w3.scale");
    write_single(m);
    assert_refused_here(
        DSV4_ERROR_BAD_FILE,
        (const char *const[3]){"3 missing tensors", "first 'layers.1.ffn.experts.2.w3.scale'"});
    free(m);

    m = make_model(0, "fp4", add_rule);
    write_single(m);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"missing tensors", "first 'mtp.0.e_proj.weight'"});
    m->n_tensors = 0;
    write_single(m);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"missing tensors", "first 'embed.weight'"});
    free(m);
}

static void test_surplus_tensors(void **state)
{
    (void)state;
    write_config(1, "fp4");
    const int64_t shape[] = {8};
    model *m = make_model(1, "fp4", add_rule);
    (void)add_tensor(m, "model.layers.1.attn.wq_a.bias", DSV4_SAFETENSORS_F32, 1, shape);
    write_single(m);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){".: 1 surplus tensors",
                                               "first 'model.layers.1.attn.wq_a.bias', expected "});
    (void)add_tensor(m, "layers.3.attn_norm.weight", DSV4_SAFETENSORS_F32, 1, shape);
    (void)add_tensor(m, "aaa", DSV4_SAFETENSORS_F32, 1, shape);
    write_single(m);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"3 surplus tensors", "first 'aaa'"});
    free(m);

    m = make_model(1, "fp4", add_rule);
    write_config(0, "fp4");
    write_single(m);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"surplus tensors", "first 'mtp.0.attn.attn_sink'"});
    write_config(1, "fp4");
    char name[150];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    (void)add_tensor(m, name, DSV4_SAFETENSORS_F32, 1, shape);
    write_single(m);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"nnn' is surplus, expected only"});
    free(m);
}

static void test_wrong_dtypes_and_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t dtype, rank;
        int64_t shape[3];
        const char *text;
    } wrong[] = {
        {"layers.0.hc_attn_fn",
         DSV4_SAFETENSORS_BF16,
         2,
         {24, 640},
         "'layers.0.hc_attn_fn': dtype is BF16, expected F32"},
        {"layers.1.attn.attn_sink", DSV4_SAFETENSORS_BF16, 1, {4}, "is BF16, expected F32"},
        {"layers.1.attn.compressor.ape", DSV4_SAFETENSORS_BF16, 2, {4, 1024}, "BF16, expected F32"},
        {"layers.1.ffn.gate.bias", DSV4_SAFETENSORS_BF16, 1, {3}, "dtype is BF16, expected F32"},
        {"mtp.0.norm.weight", DSV4_SAFETENSORS_F32, 1, {160}, "dtype is F32, expected BF16"},
        {"layers.0.ffn.gate.tid2eid",
         DSV4_SAFETENSORS_I16,
         2,
         {24, 2},
         "dtype is I16, expected I64 or I32"},
        {"layers.2.attn.wq_a.weight", DSV4_SAFETENSORS_U8, 2, {64, 160}, "U8, expected F8_E4M3"},
        {"layers.2.attn.wq_a.scale",
         DSV4_SAFETENSORS_F32,
         2,
         {1, 2},
         "dtype is F32, expected F8_E8M0 or U8"},
        {"embed.weight",
         DSV4_SAFETENSORS_BF16,
         2,
         {24, 161},
         "'embed.weight': shape is [24, 161], expected [24, 160]"},
        {"embed.weight", DSV4_SAFETENSORS_BF16, 2, {160, 24}, "[160, 24], expected [24, 160]"},
        {"norm.weight", DSV4_SAFETENSORS_BF16, 2, {160, 1}, "shape is [160, 1], expected [160]"},
        {"norm.weight", DSV4_SAFETENSORS_BF16, 0, {0}, "shape is [], expected [160]"},
        {"hc_head_fn", DSV4_SAFETENSORS_F32, 1, {2560}, "shape is [2560], expected [4, 640]"},
        {"hc_head_fn", DSV4_SAFETENSORS_F32, 3, {4, 640, 1}, "[4, 640, 1], expected [4, 640]"},
    };
    write_config(1, "fp4");
    model *m = make_model(1, "fp4", add_rule);
    for (size_t i = 0; i < LENGTH_OF(wrong); i++) {
        dsv4_tensor_view *view = find_tensor(m, wrong[i].name), kept = *view;
        view->dtype = wrong[i].dtype;
        view->rank = wrong[i].rank;
        memcpy(view->shape, wrong[i].shape, sizeof wrong[i].shape);
        assert_true(dsv4_tensor_view_bytes(view, &view->len_bytes));
        write_single(m);
        assert_refused_here(DSV4_ERROR_BAD_FILE,
                            (const char *const[3]){".: tensor", wrong[i].text});
        *view = kept;
    }
    write_single(m);
    dsv4_model_dir_close(open_here());
    free(m);
}

static void test_two_names_of_one_tensor(void **state)
{
    (void)state;
    const int64_t shape[] = {160};
    write_config(1, "fp4");
    model *m = make_model(1, "fp4", add_rule);
    (void)add_tensor(m, "model.norm.weight", DSV4_SAFETENSORS_BF16, 1, shape);
    write_single(m);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"'model.norm.weight'", "'norm.weight'",
                                               " are both norm.weight, expected it once"});
    free(m);
}

static void test_tensors_of_other_models(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
    } others[] = {
        {"model.layers.0.mlp.experts.gate_up_proj", "one of the stacked experts of Hugging Face"},
        {"layers.0.ffn.experts.gate_up_proj_scale_inv", "the stacked experts of Hugging Face"},
        {"model.layers.0.mlp.experts.down_proj", "the stacked experts of Hugging Face"},
        {"mtp.1.attn_norm.weight", "one of DSpark drafts"},
        {"mtp.2.markov_head.markov_w1.weight", "one of DSpark drafts"},
        {"mtp.0.main_proj.weight", "one of DSpark drafts"},
        {"layers.1.engram.wkv.weight", "one of DeepSeek-V4.1"},
    };
    const int64_t shape[] = {8};
    write_config(1, "fp4");
    for (size_t i = 0; i < LENGTH_OF(others); i++) {
        model *m = make_model(1, "fp4", add_rule);
        (void)add_tensor(m, others[i].name, DSV4_SAFETENSORS_F32, 1, shape);
        write_single(m);
        assert_refused_here(DSV4_ERROR_UNSUPPORTED,
                            (const char *const[3]){others[i].name, others[i].text, "expected"});
        free(m);
    }
}

/* Refused directories */

static void test_files_of_the_directory(void **state)
{
    (void)state;
    assert_refused_here(DSV4_ERROR_IO,
                        (const char *const[3]){"./config.json: cannot open: No such file"});
    write_bytes("config.json", "{\"model_type\":\"gpt2\"}", 21);
    assert_refused_here(DSV4_ERROR_UNSUPPORTED,
                        (const char *const[3]){"./config.json: model_type is 'gpt2'"});
    char *blanks = calloc(1, ((size_t)1 << 20) + 1);
    assert_non_null(blanks);
    write_bytes("config.json", blanks, ((size_t)1 << 20) + 1);
    free(blanks);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"./config.json: the file has 1048577 bytes",
                                               "expected at most 1048576"});
    write_bytes("config.json", "", 0);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"./config.json", "expected a JSON object"});
    assert_int_equal(remove("config.json"), 0);
    assert_int_equal(mkdir("config.json", 0700), 0);
    assert_refused_here(DSV4_ERROR_IO,
                        (const char *const[3]){"./config.json", "expected a regular file"});
    assert_int_equal(remove("config.json"), 0);

    write_config(1, "fp4");
    assert_refused_here(DSV4_ERROR_IO,
                        (const char *const[3]){".: has no weights", "model.safetensors or"});
    write_bytes("model.safetensors", "short", 5);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"./model.safetensors: the file has 5 bytes"});
    write_bytes("model.safetensors.index.json", "{}", 2);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){".: has both, expected either"});
    dsv4_model_dir *dir = NULL;
    dsv4_error error = {0};
    assert_int_equal(dsv4_model_dir_open("absent", NULL, NULL, &dir, &error), DSV4_ERROR_IO);
    assert_contains(error.text, "absent/config.json: cannot open");
    dsv4_model_dir_close(NULL);
}

/* Index files */

#define N_SHARDS 3

static void shard_name(int i, char name[64])
{
    (void)snprintf(name, 64, "model-%05d-of-%05d.safetensors", i + 1, N_SHARDS);
}

/* Writes the tensors in N_SHARDS files; the index in memory is the caller's. */
static json_t *write_shards(const model *m)
{
    json_t *map = json_object();
    int64_t n_per_shard = m->n_tensors / N_SHARDS + 1;
    for (int i = 0; i < N_SHARDS; i++) {
        char name[64];
        shard_name(i, name);
        int64_t first = i * n_per_shard, end = first + n_per_shard;
        if (end > m->n_tensors) end = m->n_tensors;
        write_tensors(name, m->tensors + first, end - first);
        for (int64_t k = first; k < end; k++) {
            assert_int_equal(json_object_set_new(map, m->names[k], json_string(name)), 0);
        }
    }
    return json_pack("{s:{s:i}, s:o}", "metadata", "total_size", 5, "weight_map", map);
}

static void write_index(const json_t *index)
{
    char *text = json_dumps(index, 0);
    assert_non_null(text);
    write_bytes("model.safetensors.index.json", text, strlen(text));
    free(text);
}

static void test_open_shards(void **state)
{
    (void)state;
    model *m = make_model(1, "fp4", add_rule);
    write_config(1, "fp4");
    json_t *index = write_shards(m);
    write_index(index);
    int64_t expected[] = {1, N_SHARDS};
    dsv4_model_dir *dir = NULL;
    dsv4_error error = {0};
    if (dsv4_model_dir_open(".", check_progress, expected, &dir, &error) != DSV4_OK) {
        fail_msg("refused: %s", error.text);
    }
    assert_int_equal(expected[0], N_SHARDS + 1);
    assert_same_tensors(dir, m, m);
    dsv4_model_dir_close(dir);

    /* without metadata, and a missing shard */
    assert_int_equal(json_object_del(index, "metadata"), 0);
    write_index(index);
    dsv4_model_dir_close(open_here());
    char name[64];
    shard_name(1, name);
    assert_int_equal(remove(name), 0);
    assert_refused_here(DSV4_ERROR_IO, (const char *const[3]){name, "cannot open: No such file"});
    json_decref(index);
    free(m);
}

static void test_missing_tensor_in_all_shards(void **state)
{
    (void)state;
    model *m = make_model(1, "fp4", add_rule);
    write_config(1, "fp4");
    remove_tensor(m, "layers.1.hc_ffn_base");
    json_t *index = write_shards(m);
    write_index(index);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"1 missing tensors, first 'layers.1.hc_ffn_base'"});
    json_decref(index);
    free(m);
}

static void test_hostile_index(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } hostile[] = {
        {"", "./model.safetensors.index.json: "},
        {"[]", "is an array, expected a JSON object"},
        {"{}", "weight_map is missing, expected an object with a tensor"},
        {"{\"weight_map\":[]}", "weight_map is an array, expected an object"},
        {"{\"weight_map\":null}", "weight_map is null, expected an object"},
        {"{\"weight_map\":{}}", "weight_map is empty, expected an object with a tensor"},
        {"{\"weight_map\":{},\"files\":[]}", "has a key 'files', expected only metadata and"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"y.safetensors\"}}", "duplicate"},
        {"{\"weight_map\":{\"a\":1}}", "the file of tensor 'a' is 1, expected the name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "the file of tensor 'a' is '', expected the name"},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", "is '.safetensors', expected the name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "is '..', expected the name"},
        {"{\"weight_map\":{\"a\":\"config.json\"}}", "is 'config.json', expected the name"},
        {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", "is '../x.safetensors', expected the"},
        {"{\"weight_map\":{\"a\":\"/x.safetensors\"}}", "is '/x.safetensors', expected the name"},
        {"{\"weight_map\":{\"a\":\"b/x.safetensors\"}}", "is 'b/x.safetensors', expected the"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\\u0000\"}}", "./model.safetensors.index.json: "},
    };
    write_config(1, "fp4");
    for (size_t i = 0; i < LENGTH_OF(hostile); i++) {
        write_bytes("model.safetensors.index.json", hostile[i].text, strlen(hostile[i].text));
        assert_refused_here(DSV4_ERROR_BAD_FILE,
                            (const char *const[3]){hostile[i].part, "expected"});
    }
}

static void test_index_against_shards(void **state)
{
    (void)state;
    char names[N_SHARDS][64], text[256];
    for (int i = 0; i < N_SHARDS; i++) shard_name(i, names[i]);
    model *m = make_model(1, "fp4", add_rule);
    write_config(1, "fp4");
    json_t *index = write_shards(m), *map = json_object_get(index, "weight_map");

    /* embed.weight is in the first shard, mtp.0.norm.weight in the last */
    assert_int_equal(json_object_set_new(map, "embed.weight", json_string(names[2])), 0);
    write_index(index);
    (void)snprintf(text, sizeof text, "tensor 'embed.weight' is in '%s', expected it in '%s'",
                   names[0], names[2]);
    assert_refused_here(DSV4_ERROR_BAD_FILE, (const char *const[3]){text, "index.json says"});

    assert_int_equal(json_object_del(map, "embed.weight"), 0);
    write_index(index);
    (void)snprintf(text, sizeof text, "tensor 'embed.weight' is in '%s', expected no such tensor",
                   names[0]);
    assert_refused_here(DSV4_ERROR_BAD_FILE, (const char *const[3]){text});

    assert_int_equal(json_object_set_new(map, "embed.weight", json_string(names[0])), 0);
    assert_int_equal(json_object_set_new(map, "extra.weight", json_string(names[1])), 0);
    write_index(index);
    (void)snprintf(text, sizeof text, "tensor 'extra.weight' is not in '%s', expected it there",
                   names[1]);
    assert_refused_here(DSV4_ERROR_BAD_FILE, (const char *const[3]){text});

    /* a second copy in another shard */
    assert_int_equal(json_object_del(map, "extra.weight"), 0);
    write_index(index);
    dsv4_model_dir_close(open_here());
    (void)add_tensor(m, "embed.weight", DSV4_SAFETENSORS_BF16, 2, (const int64_t[]){24, 160});
    int64_t first = 2 * ((m->n_tensors - 1) / N_SHARDS + 1);
    write_tensors(names[2], m->tensors + first, m->n_tensors - first);
    (void)snprintf(text, sizeof text, "tensor 'embed.weight' is in '%s', expected it in '%s'",
                   names[2], names[0]);
    assert_refused_here(DSV4_ERROR_BAD_FILE, (const char *const[3]){text});

    /* a second copy under another name, known to the index */
    rename_tensor(m, "embed.weight", "unused");
    m->tensors[m->n_tensors - 1].name = "model.embed_tokens.weight";
    write_tensors(names[2], m->tensors + first, m->n_tensors - first);
    assert_int_equal(json_object_set_new(map, "model.embed_tokens.weight", json_string(names[2])),
                     0);
    write_index(index);
    assert_refused_here(DSV4_ERROR_BAD_FILE,
                        (const char *const[3]){"'embed.weight'", "'model.embed_tokens.weight'",
                                               "are both embed.weight, expected it once"});
    json_decref(index);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(test_open_single_file),
        IN_DIRECTORY(test_open_other_names),
        IN_DIRECTORY(test_open_other_dtypes),
        IN_DIRECTORY(test_open_fp8_experts),
        IN_DIRECTORY(test_open_mtp_copies),
        IN_DIRECTORY(test_missing_tensors),
        IN_DIRECTORY(test_surplus_tensors),
        IN_DIRECTORY(test_wrong_dtypes_and_shapes),
        IN_DIRECTORY(test_two_names_of_one_tensor),
        IN_DIRECTORY(test_tensors_of_other_models),
        IN_DIRECTORY(test_files_of_the_directory),
        IN_DIRECTORY(test_open_shards),
        IN_DIRECTORY(test_missing_tensor_in_all_shards),
        IN_DIRECTORY(test_hostile_index),
        IN_DIRECTORY(test_index_against_shards),
    };
    return cmocka_run_group_tests(tests, fill_pattern, NULL);
}

/*
 * test_tensor_names.c - the tensors that a configuration asks for, and the names they go by.
 *
 * The rules are checked against a table written by hand from specification 7.1.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/safetensors.h"
#include "io/tensor_names.h"
#include "test_files.h"
#include "test_models.h"

/* Rules */

typedef struct expected_rule {
    const char *name;
    int32_t dtypes[2];
    int64_t shape[2]; /* the second is 0 in rank 1 */
} expected_rule;

/* Short names for the table. */
enum {
    BF16 = DSV4_SAFETENSORS_BF16,
    F32 = DSV4_SAFETENSORS_F32,
    FP8 = DSV4_SAFETENSORS_F8_E4M3,
    SCALE = DSV4_SAFETENSORS_F8_E8M0,
    I8 = DSV4_SAFETENSORS_I8,
    U8 = DSV4_SAFETENSORS_U8,
    I64 = DSV4_SAFETENSORS_I64,
    I32 = DSV4_SAFETENSORS_I32
};

static const expected_rule model_rules[] = {
    {"embed.weight", {BF16, BF16}, {24, 160}},
    {"norm.weight", {BF16, BF16}, {160}},
    {"head.weight", {BF16, BF16}, {24, 160}},
    {"hc_head_fn", {F32, F32}, {4, 640}},
    {"hc_head_base", {F32, F32}, {4}},
    {"hc_head_scale", {F32, F32}, {1}},
    {"mtp.0.e_proj.weight", {FP8, FP8}, {160, 160}},
    {"mtp.0.e_proj.scale", {SCALE, U8}, {2, 2}},
    {"mtp.0.h_proj.weight", {FP8, FP8}, {160, 160}},
    {"mtp.0.h_proj.scale", {SCALE, U8}, {2, 2}},
    {"mtp.0.enorm.weight", {BF16, BF16}, {160}},
    {"mtp.0.hnorm.weight", {BF16, BF16}, {160}},
    {"mtp.0.norm.weight", {BF16, BF16}, {160}},
    {"mtp.0.hc_head_fn", {F32, F32}, {4, 640}},
    {"mtp.0.hc_head_base", {F32, F32}, {4}},
    {"mtp.0.hc_head_scale", {F32, F32}, {1}},
};

/* In every block, without the routed experts. */
static const expected_rule block_rules[] = {
    {"attn_norm.weight", {BF16, BF16}, {160}},
    {"ffn_norm.weight", {BF16, BF16}, {160}},
    {"hc_attn_fn", {F32, F32}, {24, 640}},
    {"hc_attn_base", {F32, F32}, {24}},
    {"hc_attn_scale", {F32, F32}, {3}},
    {"hc_ffn_fn", {F32, F32}, {24, 640}},
    {"hc_ffn_base", {F32, F32}, {24}},
    {"hc_ffn_scale", {F32, F32}, {3}},
    {"attn.wq_a.weight", {FP8, FP8}, {64, 160}},
    {"attn.wq_a.scale", {SCALE, U8}, {1, 2}},
    {"attn.q_norm.weight", {BF16, BF16}, {64}},
    {"attn.wq_b.weight", {FP8, FP8}, {2048, 64}},
    {"attn.wq_b.scale", {SCALE, U8}, {16, 1}},
    {"attn.wkv.weight", {FP8, FP8}, {512, 160}},
    {"attn.wkv.scale", {SCALE, U8}, {4, 2}},
    {"attn.kv_norm.weight", {BF16, BF16}, {512}},
    {"attn.attn_sink", {F32, F32}, {4}},
    {"attn.wo_a.weight", {FP8, FP8}, {192, 1024}},
    {"attn.wo_a.scale", {SCALE, U8}, {2, 8}},
    {"attn.wo_b.weight", {FP8, FP8}, {160, 192}},
    {"attn.wo_b.scale", {SCALE, U8}, {2, 2}},
    {"ffn.gate.weight", {BF16, BF16}, {3, 160}},
    {"ffn.shared_experts.w1.weight", {FP8, FP8}, {32, 160}},
    {"ffn.shared_experts.w1.scale", {SCALE, U8}, {1, 2}},
    {"ffn.shared_experts.w2.weight", {FP8, FP8}, {160, 32}},
    {"ffn.shared_experts.w2.scale", {SCALE, U8}, {2, 1}},
    {"ffn.shared_experts.w3.weight", {FP8, FP8}, {32, 160}},
    {"ffn.shared_experts.w3.scale", {SCALE, U8}, {1, 2}},
};

static const expected_rule hash_rules[] = {
    {"ffn.gate.tid2eid", {I64, I32}, {24, 2}},
};

static const expected_rule score_rules[] = {
    {"ffn.gate.bias", {F32, F32}, {3}},
};

static const expected_rule ratio_4_rules[] = {
    {"attn.compressor.wkv.weight", {BF16, BF16}, {1024, 160}},
    {"attn.compressor.wgate.weight", {BF16, BF16}, {1024, 160}},
    {"attn.compressor.ape", {F32, F32}, {4, 1024}},
    {"attn.compressor.norm.weight", {BF16, BF16}, {512}},
    {"attn.indexer.wq_b.weight", {FP8, FP8}, {384, 64}},
    {"attn.indexer.wq_b.scale", {SCALE, U8}, {3, 1}},
    {"attn.indexer.weights_proj.weight", {BF16, BF16}, {3, 160}},
    {"attn.indexer.compressor.wkv.weight", {BF16, BF16}, {256, 160}},
    {"attn.indexer.compressor.wgate.weight", {BF16, BF16}, {256, 160}},
    {"attn.indexer.compressor.ape", {F32, F32}, {4, 256}},
    {"attn.indexer.compressor.norm.weight", {BF16, BF16}, {128}},
};

static const expected_rule ratio_128_rules[] = {
    {"attn.compressor.wkv.weight", {BF16, BF16}, {512, 160}},
    {"attn.compressor.wgate.weight", {BF16, BF16}, {512, 160}},
    {"attn.compressor.ape", {F32, F32}, {128, 512}},
    {"attn.compressor.norm.weight", {BF16, BF16}, {512}},
};

static const expected_rule fp4_expert_rules[] = {
    {"w1.weight", {I8, U8}, {32, 80}},  {"w1.scale", {SCALE, U8}, {32, 5}},
    {"w2.weight", {I8, U8}, {160, 16}}, {"w2.scale", {SCALE, U8}, {160, 1}},
    {"w3.weight", {I8, U8}, {32, 80}},  {"w3.scale", {SCALE, U8}, {32, 5}},
};

static const expected_rule fp8_expert_rules[] = {
    {"w1.weight", {FP8, FP8}, {32, 160}}, {"w1.scale", {SCALE, U8}, {1, 2}},
    {"w2.weight", {FP8, FP8}, {160, 32}}, {"w2.scale", {SCALE, U8}, {2, 1}},
    {"w3.weight", {FP8, FP8}, {32, 160}}, {"w3.scale", {SCALE, U8}, {1, 2}},
};

/* Rules as visited, with names of their own. */
typedef struct rule_list {
    int64_t n_rules;
    dsv4_tensor_rule rules[MAX_TENSORS];
    char names[MAX_TENSORS][DSV4_TENSOR_NAME_BYTES];
    bool is_seen[MAX_TENSORS];
} rule_list;

static dsv4_status list_rule(void *context, const dsv4_tensor_rule *rule)
{
    rule_list *list = context;
    assert_true(list->n_rules < MAX_TENSORS);
    list->rules[list->n_rules] = *rule;
    (void)snprintf(list->names[list->n_rules], sizeof list->names[0], "%s", rule->name);
    list->n_rules++;
    return DSV4_OK;
}

static void assert_rules(rule_list *list, const char *prefix, const expected_rule *expected,
                         size_t n_expected)
{
    for (size_t i = 0; i < n_expected; i++) {
        char name[DSV4_TENSOR_NAME_BYTES];
        (void)snprintf(name, sizeof name, "%s%s", prefix, expected[i].name);
        int64_t k = 0;
        while (k < list->n_rules && strcmp(list->names[k], name) != 0) k++;
        if (k == list->n_rules) fail_msg("no rule for '%s'", name);
        const dsv4_tensor_rule *rule = &list->rules[k];
        assert_false(list->is_seen[k]);
        list->is_seen[k] = true;
        assert_memory_equal(rule->dtypes, expected[i].dtypes, sizeof rule->dtypes);
        if (rule->rank != (expected[i].shape[1] == 0 ? 1 : 2) ||
            memcmp(rule->shape, expected[i].shape, sizeof rule->shape) != 0) {
            fail_msg("'%s' has rank %d, shape [%d, %d]", name, (int)rule->rank, (int)rule->shape[0],
                     (int)rule->shape[1]);
        }
    }
}

static void check_rules(const char *expert_dtype, const expected_rule *expert_rules)
{
    rule_list *list = calloc(1, sizeof *list);
    assert_non_null(list);
    dsv4_config config = make_config(1, expert_dtype);
    assert_int_equal(dsv4_tensor_rules_visit(&config, list_rule, list), DSV4_OK);
    assert_rules(list, "", model_rules, LENGTH_OF(model_rules));
    static const char *const blocks[] = {"layers.0.", "layers.1.", "layers.2.", "mtp.0."};
    for (size_t i = 0; i < LENGTH_OF(blocks); i++) {
        assert_rules(list, blocks[i], block_rules, LENGTH_OF(block_rules));
        if (i > 0) assert_rules(list, blocks[i], score_rules, LENGTH_OF(score_rules));
        for (int expert = 0; expert < 3; expert++) {
            char prefix[64];
            (void)snprintf(prefix, sizeof prefix, "%sffn.experts.%d.", blocks[i], expert);
            assert_rules(list, prefix, expert_rules, 6);
        }
    }
    assert_rules(list, "layers.0.", hash_rules, LENGTH_OF(hash_rules));
    assert_rules(list, "layers.1.", ratio_4_rules, LENGTH_OF(ratio_4_rules));
    assert_rules(list, "layers.2.", ratio_128_rules, LENGTH_OF(ratio_128_rules));
    for (int64_t i = 0; i < list->n_rules; i++) {
        if (!list->is_seen[i]) fail_msg("surplus rule '%s'", list->names[i]);
    }
    free(list);
}

static void test_rules(void **state)
{
    (void)state;
    check_rules("fp4", fp4_expert_rules);
    check_rules("fp8", fp8_expert_rules);
}

/* Hash routing of every layer does not reach the MTP block. */
static void test_rules_of_mtp_after_hash_layers(void **state)
{
    (void)state;
    rule_list *list = calloc(1, sizeof *list);
    assert_non_null(list);
    dsv4_config config = make_config(1, "fp4");
    config.n_hash_layers = config.n_layers;
    assert_int_equal(dsv4_tensor_rules_visit(&config, list_rule, list), DSV4_OK);
    assert_rules(list, "mtp.0.", score_rules, LENGTH_OF(score_rules));
    for (int64_t i = 0; i < list->n_rules; i++) {
        assert_int_not_equal(strcmp(list->names[i], "mtp.0.ffn.gate.tid2eid"), 0);
    }
    free(list);
}

static dsv4_status stop_at_expert(void *context, const dsv4_tensor_rule *rule)
{
    int *n_visits = context;
    (*n_visits)++;
    return strcmp(rule->name, "layers.1.ffn.experts.0.w2.weight") == 0 ? DSV4_ERROR_IO : DSV4_OK;
}

static void test_visit_ends_at_an_error(void **state)
{
    (void)state;
    rule_list *list = calloc(1, sizeof *list);
    assert_non_null(list);
    dsv4_config config = make_config(1, "fp4");
    assert_int_equal(dsv4_tensor_rules_visit(&config, list_rule, list), DSV4_OK);
    int n_visits = 0;
    assert_int_equal(dsv4_tensor_rules_visit(&config, stop_at_expert, &n_visits), DSV4_ERROR_IO);
    assert_string_equal(list->names[n_visits - 1], "layers.1.ffn.experts.0.w2.weight");
    free(list);
}

/* Names */

static void test_official_names(void **state)
{
    (void)state;
    static const struct {
        const char *name, *official;
    } names[] = {
        {"", ""},
        {"model.", ""},
        {"norm.weight", "norm.weight"},
        {"model.norm.weight", "norm.weight"},
        {"model.model.norm.weight", "model.norm.weight"},
        {"layers.3.attn.wq_a.weight_scale_inv", "layers.3.attn.wq_a.scale"},
        {"layers.3.attn.wq_a.weight_scale", "layers.3.attn.wq_a.weight_scale"},
        {".weight_scale_inv", ".weight_scale_inv"},
        {"model.layers.12.self_attn.wq_a.weight", "layers.12.attn.wq_a.weight"},
        {"layers.2.self_attn.indexer.compressor.wkv.weight",
         "layers.2.attn.indexer.compressor.wkv.weight"},
        {"layers.2.self_attn.compressor.indexer.weights_proj.weight",
         "layers.2.attn.indexer.weights_proj.weight"},
        {"model.layers.2.mlp.experts.383.w2.weight", "layers.2.ffn.experts.383.w2.weight"},
        {"layers.2.ffn.experts.7.up_proj.weight", "layers.2.ffn.experts.7.w3.weight"},
        {"layers.2.ffn.experts.up_proj.weight", "layers.2.ffn.experts.up_proj.weight"},
        {"layers.02.mlp.gate.bias", "layers.02.ffn.gate.bias"},
        {"layers.x.mlp.gate.bias", "layers.x.mlp.gate.bias"},
        {"layers..mlp.gate.bias", "layers..mlp.gate.bias"},
        {"layers.2", "layers.2"},
        {"mtp.0.hc_head.hc_fn", "mtp.0.hc_head_fn"},
        {"mtp.0.lm_head.weight", "mtp.0.head.weight"},
    };
    char official[DSV4_TENSOR_NAME_BYTES];
    for (size_t i = 0; i < LENGTH_OF(names); i++) {
        assert_true(dsv4_tensor_official_name(names[i].name, official));
        assert_string_equal(official, names[i].official);
    }
    for (size_t i = 0; i < LENGTH_OF(block_names); i++) {
        char name[DSV4_TENSOR_NAME_BYTES], expected[DSV4_TENSOR_NAME_BYTES];
        (void)snprintf(name, sizeof name, "model.layers.255.%s", block_names[i].other);
        (void)snprintf(expected, sizeof expected, "layers.255.%s", block_names[i].official);
        assert_true(dsv4_tensor_official_name(name, official));
        assert_string_equal(official, expected);
    }
}

static void test_official_names_without_room(void **state)
{
    (void)state;
    char name[DSV4_TENSOR_NAME_BYTES + 8], official[DSV4_TENSOR_NAME_BYTES];
    memset(name, 'x', sizeof name);
    name[DSV4_TENSOR_NAME_BYTES - 1] = '\0';
    assert_true(dsv4_tensor_official_name(name, official));
    assert_string_equal(official, name);
    name[DSV4_TENSOR_NAME_BYTES - 1] = 'x';
    name[DSV4_TENSOR_NAME_BYTES] = '\0';
    assert_false(dsv4_tensor_official_name(name, official));
    /* "attn.attn_sink" is 4 bytes longer than "attn.sinks" */
    memcpy(name, "attn.sinks", 10);
    for (size_t n = DSV4_TENSOR_NAME_BYTES - 8; n < DSV4_TENSOR_NAME_BYTES; n++) {
        name[n] = '\0';
        assert_true(dsv4_tensor_official_name(name, official) == (n + 4 < DSV4_TENSOR_NAME_BYTES));
        name[n] = 'x';
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_rules_of_mtp_after_hash_layers),
        cmocka_unit_test(test_visit_ends_at_an_error),
        cmocka_unit_test(test_official_names),
        cmocka_unit_test(test_official_names_without_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

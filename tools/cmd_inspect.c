/*
 * cmd_inspect.c - `dsv4 inspect`: what a checkpoint is made of and what its caches take.
 *
 * Place: program. Nothing is read but headers: a directory of any size is inspected at once.
 */
#include "commands.h"

#include "io/model_dir.h"
#include "io/tensor_names.h"
#include "model/layer_cache.h"
#include "model_size.h"
#include "open_bar.h"

#include <inttypes.h>
#include <string.h>

/* Kinds of tensors by the first pattern that the official name holds; the last one holds for all. */
static const struct kind {
    const char *label, *pattern;
} kinds[] = {
    {"MTP block", "mtp."},
    {"routed experts", ".experts."},
    {"shared experts", ".shared_experts."},
    {"routers", ".gate."},
    {"indexers", ".indexer."},
    {"compressors", ".compressor."},
    {"attention", ".attn."},
    {"hyper-connections", "hc_"},
    {"embedding", "embed."},
    {"head", "head."},
    {"norms", ""},
};

enum { N_TENSOR_KINDS = sizeof kinds / sizeof *kinds };

typedef struct totals {
    int64_t n_tensors, n_parameters, n_bytes;
} totals;

static int find_kind(const char *name)
{
    char official[DSV4_TENSOR_NAME_BYTES];
    if (!dsv4_tensor_official_name(name, official)) return N_TENSOR_KINDS - 1;
    int kind = 0;
    while (strstr(official, kinds[kind].pattern) == NULL) kind++;
    return kind;
}

static void add_tensor(totals *total, const dsv4_tensor_view *view)
{
    total->n_tensors++;
    total->n_parameters += dsv4_tensor_parameters(view);
    total->n_bytes += view->len_bytes;
}

static void print_tensors(const dsv4_model_dir *dir)
{
    totals sums[N_TENSOR_KINDS + 1] = {0}, *all = &sums[N_TENSOR_KINDS];
    for (int64_t i = 0; i < dsv4_model_dir_n_tensors(dir); i++) {
        const dsv4_tensor_view *view = dsv4_model_dir_tensor_at(dir, i);
        add_tensor(&sums[find_kind(view->name)], view);
        add_tensor(all, view);
    }
    printf("\n%-18s %8s %16s %18s\n", "tensors", "number", "parameters", "bytes");
    for (int i = 0; i <= N_TENSOR_KINDS; i++) {
        if (sums[i].n_tensors == 0) continue;
        printf("%-18s %8" PRId64 " %16" PRId64 " %18" PRId64 "\n",
               i < N_TENSOR_KINDS ? kinds[i].label : "all", sums[i].n_tensors, sums[i].n_parameters,
               sums[i].n_bytes);
    }
}

static void print_layers(const dsv4_config *config)
{
    int64_t n_of[3] = {0};
    for (int64_t i = 0; i < config->n_layers; i++) {
        n_of[config->ratios[i] == 0 ? 0 : config->ratios[i] == 4 ? 1 : 2]++;
    }
    printf("layers       %" PRId64 ": %" PRId64 " window, %" PRId64 " compressed 4, %" PRId64
           " compressed 128; %" PRId64 " MTP block%s\n",
           config->n_layers, n_of[0], n_of[1], n_of[2], config->n_mtp_blocks,
           config->n_mtp_blocks == 1 ? "" : "s");
}

static void print_architecture(const dsv4_config *config)
{
    printf("architecture DeepSeek-V4\n");
    print_layers(config);
    printf("hidden size  %" PRId64 ", %d streams\n", config->hidden_size, DSV4_N_STREAMS);
    printf("vocabulary   %" PRId64 ", begin %" PRId32 ", end %" PRId32 "\n", config->vocab_size,
           config->bos_id, config->eos_id);
    printf("attention    %" PRId64 " heads of %d, query rank %" PRId64 ", output rank %" PRId64
           " in %" PRId64 " groups, window %d\n",
           config->n_heads, DSV4_HEAD_DIM, config->q_lora_rank, config->o_lora_rank,
           config->n_o_groups, DSV4_WINDOW);
    printf("indexer      %" PRId64 " heads of %d, top %" PRId64 "\n", config->n_index_heads,
           DSV4_INDEX_DIM, config->index_topk);
    printf("experts      %" PRId64 " of %" PRId64 " in %s, %" PRId64
           " active and 1 shared, %" PRId64 " hash layers\n",
           config->n_experts, config->expert_dim,
           config->expert_dtype == DSV4_EXPERT_FP4 ? "FP4" : "FP8", config->n_active_experts,
           config->n_hash_layers);
    printf("positions    %" PRId64 "\n", config->max_positions);
}

/* Bytes that a sequence holds however long it is, once it is longer than a window and a group. */
static int64_t fixed_bytes(const dsv4_config *config, int32_t numerics)
{
    int64_t n_bytes = 0;
    for (int64_t i = 0; i < config->n_layers + config->n_mtp_blocks; i++) {
        int32_t ratio = config->ratios[i];
        int64_t n_raw = ratio == 4 ? 8 : ratio; /* groups of 4 overlap */
        n_bytes += DSV4_WINDOW * dsv4_cache_key_bytes(numerics);
        n_bytes += n_raw * (dsv4_cache_state_bytes(ratio) + dsv4_cache_index_state_bytes(ratio));
    }
    return n_bytes;
}

/* Compressed rows: one key per group, and in ratio-4 layers one indexer key. */
static double bytes_per_token(const dsv4_config *config, int32_t numerics)
{
    double n_bytes = 0;
    for (int64_t i = 0; i < config->n_layers; i++) {
        int32_t ratio = config->ratios[i];
        if (ratio == 0) continue;
        int64_t row_bytes = dsv4_cache_key_bytes(numerics);
        if (ratio == 4) row_bytes += dsv4_cache_index_key_bytes(numerics);
        n_bytes += (double)row_bytes / ratio;
    }
    return n_bytes;
}

static void print_caches(const dsv4_config *config)
{
    printf("\n%-18s %25s %18s\n", "cache bytes", "per sequence", "per token");
    static const struct {
        const char *label;
        int32_t numerics;
    } rows[] = {{"official", DSV4_NUMERICS_OFFICIAL}, {"exact", DSV4_NUMERICS_EXACT}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        printf("%-18s %25" PRId64 " %18.2f\n", rows[i].label, fixed_bytes(config, rows[i].numerics),
               bytes_per_token(config, rows[i].numerics));
    }
}

int dsv4_cmd_inspect(const dsv4_options *options)
{
    dsv4_error error;
    dsv4_model_dir *dir = NULL;
    dsv4_open_bar bar = dsv4_open_bar_start();
    dsv4_status status =
        dsv4_model_dir_open(options->arguments[0], dsv4_open_bar_step, &bar, &dir, &error);
    dsv4_open_bar_end(&bar);
    if (status != DSV4_OK) {
        if (status == DSV4_ERROR_UNSUPPORTED) error.status = DSV4_ERROR_BAD_FILE;
        return dsv4_command_fail(options, &error);
    }
    print_architecture(dsv4_model_dir_config(dir));
    print_tensors(dir);
    print_caches(dsv4_model_dir_config(dir));
    dsv4_model_dir_close(dir);
    return DSV4_EXIT_OK;
}

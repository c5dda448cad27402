/*
 * tensor_names.c - the tensors that a configuration asks for, and the names they go by.
 *
 * Place: io. Two tables: the tensors of a checkpoint (specification 7.1) and the renamings of
 * Hugging Face transformers and of mirrors. A name is mapped by its beginnings, one module after
 * the other, so that mixed names work too.
 */
#include "io/tensor_names.h"

#include "base/error.h"
#include "io/safetensors.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LENGTH_OF(array) (sizeof(array) / sizeof(array)[0])

/* Quantization groups; specification 5.3. */
#define FP8_BLOCK 128
#define FP4_GROUP 32
#define FP4_PACK  2 /* values per byte */

/* Sizes, as the table names them. NONE is that of a tensor of rank 1. */
enum {
    NONE,
    ONE,
    VOCAB,
    HIDDEN,
    HEADS,
    HEAD_DIM,
    Q_RANK,
    QUERIES,     /* heads times 512 */
    GROUP_DIM,   /* values of one group of heads */
    O_RANKS,     /* groups times o_lora_rank */
    RATIO,       /* tokens per compressed row */
    KEYS,        /* compressor outputs: 512, twice with overlap */
    INDEX_DIM,   /* 128 */
    INDEX_KEYS,  /* twice 128: the indexer's compressor has overlap */
    INDEX_HEADS, /* index_n_heads */
    INDEX_QUERIES,
    EXPERTS,
    ACTIVE_EXPERTS,
    EXPERT_DIM,
    STREAMS,   /* 4 */
    MIX_PARTS, /* pre, post, comb */
    MIX,       /* 4 pre, 4 post, 16 comb */
    ALL_STREAMS
};

/* Kinds of tensors. The last two are pairs of ".weight" and ".scale". */
enum { BF16, F32, TOKEN_TABLE, FP8, EXPERT };

/* Blocks that have a tensor. */
enum { ALWAYS, COMPRESSED, INDEXED, HASHED, SCORED };

typedef struct tensor_row {
    const char *name; /* after the block's prefix; a pair's without its ending */
    int32_t kind, rows, columns, blocks;
} tensor_row;

static const tensor_row model_rows[] = {
    {"embed.weight", BF16, VOCAB, HIDDEN, ALWAYS},
    {"norm.weight", BF16, HIDDEN, NONE, ALWAYS},
    {"head.weight", BF16, VOCAB, HIDDEN, ALWAYS},
};

/* Of the model and of the MTP block. */
static const tensor_row head_rows[] = {
    {"hc_head_fn", F32, STREAMS, ALL_STREAMS, ALWAYS},
    {"hc_head_base", F32, STREAMS, NONE, ALWAYS},
    {"hc_head_scale", F32, ONE, NONE, ALWAYS},
};

static const tensor_row mtp_rows[] = {
    {"e_proj", FP8, HIDDEN, HIDDEN, ALWAYS},      {"h_proj", FP8, HIDDEN, HIDDEN, ALWAYS},
    {"enorm.weight", BF16, HIDDEN, NONE, ALWAYS}, {"hnorm.weight", BF16, HIDDEN, NONE, ALWAYS},
    {"norm.weight", BF16, HIDDEN, NONE, ALWAYS},
};

static const tensor_row block_rows[] = {
    {"hc_attn_fn", F32, MIX, ALL_STREAMS, ALWAYS},
    {"hc_attn_base", F32, MIX, NONE, ALWAYS},
    {"hc_attn_scale", F32, MIX_PARTS, NONE, ALWAYS},
    {"attn_norm.weight", BF16, HIDDEN, NONE, ALWAYS},
    {"attn.wq_a", FP8, Q_RANK, HIDDEN, ALWAYS},
    {"attn.q_norm.weight", BF16, Q_RANK, NONE, ALWAYS},
    {"attn.wq_b", FP8, QUERIES, Q_RANK, ALWAYS},
    {"attn.wkv", FP8, HEAD_DIM, HIDDEN, ALWAYS},
    {"attn.kv_norm.weight", BF16, HEAD_DIM, NONE, ALWAYS},
    {"attn.attn_sink", F32, HEADS, NONE, ALWAYS},
    {"attn.wo_a", FP8, O_RANKS, GROUP_DIM, ALWAYS},
    {"attn.wo_b", FP8, HIDDEN, O_RANKS, ALWAYS},
    {"attn.compressor.wkv.weight", BF16, KEYS, HIDDEN, COMPRESSED},
    {"attn.compressor.wgate.weight", BF16, KEYS, HIDDEN, COMPRESSED},
    {"attn.compressor.ape", F32, RATIO, KEYS, COMPRESSED},
    {"attn.compressor.norm.weight", BF16, HEAD_DIM, NONE, COMPRESSED},
    {"attn.indexer.wq_b", FP8, INDEX_QUERIES, Q_RANK, INDEXED},
    {"attn.indexer.weights_proj.weight", BF16, INDEX_HEADS, HIDDEN, INDEXED},
    {"attn.indexer.compressor.wkv.weight", BF16, INDEX_KEYS, HIDDEN, INDEXED},
    {"attn.indexer.compressor.wgate.weight", BF16, INDEX_KEYS, HIDDEN, INDEXED},
    {"attn.indexer.compressor.ape", F32, RATIO, INDEX_KEYS, INDEXED},
    {"attn.indexer.compressor.norm.weight", BF16, INDEX_DIM, NONE, INDEXED},
    {"hc_ffn_fn", F32, MIX, ALL_STREAMS, ALWAYS},
    {"hc_ffn_base", F32, MIX, NONE, ALWAYS},
    {"hc_ffn_scale", F32, MIX_PARTS, NONE, ALWAYS},
    {"ffn_norm.weight", BF16, HIDDEN, NONE, ALWAYS},
    {"ffn.gate.weight", BF16, EXPERTS, HIDDEN, ALWAYS},
    {"ffn.gate.bias", F32, EXPERTS, NONE, SCORED},
    {"ffn.gate.tid2eid", TOKEN_TABLE, VOCAB, ACTIVE_EXPERTS, HASHED},
    {"ffn.shared_experts.w1", FP8, EXPERT_DIM, HIDDEN, ALWAYS},
    {"ffn.shared_experts.w2", FP8, HIDDEN, EXPERT_DIM, ALWAYS},
    {"ffn.shared_experts.w3", FP8, EXPERT_DIM, HIDDEN, ALWAYS},
};

static const tensor_row expert_rows[] = {
    {"w1", EXPERT, EXPERT_DIM, HIDDEN, ALWAYS},
    {"w2", EXPERT, HIDDEN, EXPERT_DIM, ALWAYS},
    {"w3", EXPERT, EXPERT_DIM, HIDDEN, ALWAYS},
};

/* What a walk over the rows knows. */
typedef struct walk {
    const dsv4_config *config;
    int32_t ratio;
    bool is_hashed;
    dsv4_tensor_visit *visit;
    void *context;
} walk;

/* ratio: that of the block; KEYS and RATIO are asked only where it is not 0 */
static int64_t size_of(const dsv4_config *config, int32_t ratio, int32_t size)
{
    switch (size) {
    case ONE: return 1;
    case VOCAB: return config->vocab_size;
    case HIDDEN: return config->hidden_size;
    case HEADS: return config->n_heads;
    case HEAD_DIM: return DSV4_HEAD_DIM;
    case Q_RANK: return config->q_lora_rank;
    case QUERIES: return config->n_heads * DSV4_HEAD_DIM;
    case GROUP_DIM: return config->n_heads / config->n_o_groups * DSV4_HEAD_DIM;
    case O_RANKS: return config->n_o_groups * config->o_lora_rank;
    case RATIO: return ratio;
    case KEYS: return ratio == 4 ? 2 * DSV4_HEAD_DIM : DSV4_HEAD_DIM;
    case INDEX_DIM: return DSV4_INDEX_DIM;
    case INDEX_KEYS: return 2 * DSV4_INDEX_DIM;
    case INDEX_HEADS: return config->n_index_heads;
    case INDEX_QUERIES: return config->n_index_heads * DSV4_INDEX_DIM;
    case EXPERTS: return config->n_experts;
    case ACTIVE_EXPERTS: return config->n_active_experts;
    case EXPERT_DIM: return config->expert_dim;
    case STREAMS: return DSV4_N_STREAMS;
    case MIX_PARTS: return 3;
    case MIX: return DSV4_N_STREAMS * (2 + DSV4_N_STREAMS);
    default: assert(size == ALL_STREAMS); return DSV4_N_STREAMS * config->hidden_size;
    }
}

static int64_t divide_up(int64_t value, int64_t by)
{
    return (value + by - 1) / by;
}

static bool has_row(const walk *w, const tensor_row *row)
{
    switch (row->blocks) {
    case COMPRESSED: return w->ratio != 0;
    case INDEXED: return w->ratio == 4;
    case HASHED: return w->is_hashed;
    case SCORED: return !w->is_hashed;
    default: return true;
    }
}

/* `is_packed`: two values per byte and a scale per 32 of a row; else one per 128 x 128 block. */
static dsv4_status visit_pair(const walk *w, const char *name, int64_t n_rows, int64_t n_columns,
                              bool is_packed)
{
    char full[DSV4_TENSOR_NAME_BYTES];
    dsv4_tensor_rule rule = {.name = full, .rank = 2, .shape = {n_rows, n_columns}};
    rule.dtypes[0] = rule.dtypes[1] = DSV4_SAFETENSORS_F8_E4M3;
    if (is_packed) {
        rule.dtypes[0] = DSV4_SAFETENSORS_I8;
        rule.dtypes[1] = DSV4_SAFETENSORS_U8;
        rule.shape[1] = n_columns / FP4_PACK;
    }
    (void)snprintf(full, sizeof full, "%s.weight", name);
    DSV4_TRY(w->visit(w->context, &rule));

    rule.dtypes[0] = DSV4_SAFETENSORS_F8_E8M0;
    rule.dtypes[1] = DSV4_SAFETENSORS_U8;
    rule.shape[0] = is_packed ? n_rows : divide_up(n_rows, FP8_BLOCK);
    rule.shape[1] = is_packed ? n_columns / FP4_GROUP : divide_up(n_columns, FP8_BLOCK);
    (void)snprintf(full, sizeof full, "%s.scale", name);
    return w->visit(w->context, &rule);
}

static dsv4_status visit_row(const walk *w, const char *prefix, const tensor_row *row)
{
    char name[DSV4_TENSOR_NAME_BYTES - sizeof ".weight"];
    (void)snprintf(name, sizeof name, "%s%s", prefix, row->name);
    dsv4_tensor_rule rule = {.name = name, .rank = row->columns == NONE ? 1 : 2};
    rule.shape[0] = size_of(w->config, w->ratio, row->rows);
    if (rule.rank == 2) rule.shape[1] = size_of(w->config, w->ratio, row->columns);
    switch (row->kind) {
    case BF16: rule.dtypes[0] = rule.dtypes[1] = DSV4_SAFETENSORS_BF16; break;
    case F32: rule.dtypes[0] = rule.dtypes[1] = DSV4_SAFETENSORS_F32; break;
    case TOKEN_TABLE:
        rule.dtypes[0] = DSV4_SAFETENSORS_I64;
        rule.dtypes[1] = DSV4_SAFETENSORS_I32;
        break;
    default:
        return visit_pair(w, name, rule.shape[0], rule.shape[1],
                          row->kind == EXPERT && w->config->expert_dtype == DSV4_EXPERT_FP4);
    }
    return w->visit(w->context, &rule);
}

static dsv4_status visit_rows(const walk *w, const char *prefix, const tensor_row *rows,
                              size_t n_rows)
{
    for (size_t i = 0; i < n_rows; i++) {
        if (has_row(w, &rows[i])) DSV4_TRY(visit_row(w, prefix, &rows[i]));
    }
    return DSV4_OK;
}

static dsv4_status visit_block(const walk *w, const char *prefix)
{
    DSV4_TRY(visit_rows(w, prefix, block_rows, LENGTH_OF(block_rows)));
    for (int64_t i = 0; i < w->config->n_experts; i++) {
        char expert_prefix[64];
        (void)snprintf(expert_prefix, sizeof expert_prefix, "%sffn.experts.%" PRId64 ".", prefix,
                       i);
        DSV4_TRY(visit_rows(w, expert_prefix, expert_rows, LENGTH_OF(expert_rows)));
    }
    return DSV4_OK;
}

dsv4_status dsv4_tensor_rules_visit(const dsv4_config *config, dsv4_tensor_visit *visit,
                                    void *context)
{
    walk w = {.config = config, .visit = visit, .context = context};
    char prefix[32];
    DSV4_TRY(visit_rows(&w, "", model_rows, LENGTH_OF(model_rows)));
    DSV4_TRY(visit_rows(&w, "", head_rows, LENGTH_OF(head_rows)));
    for (int64_t i = 0; i < config->n_layers; i++) {
        (void)snprintf(prefix, sizeof prefix, "layers.%" PRId64 ".", i);
        w.ratio = config->ratios[i];
        w.is_hashed = i < config->n_hash_layers;
        DSV4_TRY(visit_block(&w, prefix));
    }
    w.ratio = config->ratios[config->n_layers];
    w.is_hashed = false; /* hash routing ends with the model's layers; specification, section 6 */
    for (int64_t i = 0; i < config->n_mtp_blocks; i++) {
        (void)snprintf(prefix, sizeof prefix, "mtp.%" PRId64 ".", i);
        DSV4_TRY(visit_rows(&w, prefix, mtp_rows, LENGTH_OF(mtp_rows)));
        DSV4_TRY(visit_rows(&w, prefix, head_rows, LENGTH_OF(head_rows)));
        DSV4_TRY(visit_block(&w, prefix));
    }
    return DSV4_OK;
}

/* Names. */

typedef struct renaming {
    const char *from, *to;
} renaming;

/* Beginnings of a name after "layers.<n>." or the like; each is tried once, in this order. */
static const renaming module_names[] = {
    {"embed_tokens.", "embed."},
    {"lm_head.", "head."},
    {"hc_head.hc_", "hc_head_"},
    {"input_layernorm.", "attn_norm."},
    {"post_attention_layernorm.", "ffn_norm."},
    {"attn_hc.", "hc_attn_"},
    {"ffn_hc.", "hc_ffn_"},
    {"self_attn.", "attn."},
    {"mlp.", "ffn."},
    {"attn.q_a_proj.", "attn.wq_a."},
    {"attn.q_a_norm.", "attn.q_norm."},
    {"attn.q_b_proj.", "attn.wq_b."},
    {"attn.kv_proj.", "attn.wkv."},
    {"attn.o_a_proj.", "attn.wo_a."},
    {"attn.o_b_proj.", "attn.wo_b."},
    {"attn.sinks", "attn.attn_sink"},
    /* transformers has the indexer inside the compressor */
    {"attn.compressor.indexer.scorer.", "attn.indexer."},
    {"attn.compressor.indexer.weights_proj.", "attn.indexer.weights_proj."},
    {"attn.compressor.indexer.q_b_proj.", "attn.indexer.wq_b."},
    {"attn.compressor.indexer.", "attn.indexer.compressor."},
    {"attn.indexer.compressor.kv_proj.", "attn.indexer.compressor.wkv."},
    {"attn.indexer.compressor.gate_proj.", "attn.indexer.compressor.wgate."},
    {"attn.indexer.compressor.position_bias", "attn.indexer.compressor.ape"},
    {"attn.indexer.compressor.kv_norm.", "attn.indexer.compressor.norm."},
    {"attn.compressor.kv_proj.", "attn.compressor.wkv."},
    {"attn.compressor.gate_proj.", "attn.compressor.wgate."},
    {"attn.compressor.position_bias", "attn.compressor.ape"},
    {"attn.compressor.kv_norm.", "attn.compressor.norm."},
    {"ffn.gate.e_score_correction_bias", "ffn.gate.bias"},
    {"ffn.shared_experts.gate_proj.", "ffn.shared_experts.w1."},
    {"ffn.shared_experts.down_proj.", "ffn.shared_experts.w2."},
    {"ffn.shared_experts.up_proj.", "ffn.shared_experts.w3."},
};

/* After "ffn.experts.<n>.". */
static const renaming expert_names[] = {
    {"gate_proj.", "w1."},
    {"down_proj.", "w2."},
    {"up_proj.", "w3."},
};

static bool begins_with(const char *text, const char *beginning)
{
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

/* After `beginning`, a number and a dot; NULL when `text` does not begin so. */
static char *skip_numbered(char *text, const char *beginning)
{
    if (!begins_with(text, beginning)) return NULL;
    char *number = text + strlen(beginning);
    size_t n_digits = strspn(number, "0123456789");
    return n_digits > 0 && number[n_digits] == '.' ? number + n_digits + 1 : NULL;
}

/* Applies the table to `part`, which ends with its NUL inside `name`; false: no room. */
static bool rename_part(char name[DSV4_TENSOR_NAME_BYTES], char *part, const renaming *names,
                        size_t n_names)
{
    for (size_t i = 0; i < n_names; i++) {
        if (!begins_with(part, names[i].from)) continue;
        size_t from_bytes = strlen(names[i].from), to_bytes = strlen(names[i].to);
        size_t rest_bytes = strlen(part + from_bytes) + 1;
        if ((size_t)(part - name) + to_bytes + rest_bytes > DSV4_TENSOR_NAME_BYTES) return false;
        memmove(part + to_bytes, part + from_bytes, rest_bytes);
        memcpy(part, names[i].to, to_bytes);
    }
    return true;
}

bool dsv4_tensor_official_name(const char *name, char official[DSV4_TENSOR_NAME_BYTES])
{
    static const char scale_ending[] = ".weight_scale_inv";
    if (begins_with(name, "model.")) name += sizeof "model." - 1;
    size_t len_bytes = strlen(name);
    if (len_bytes >= DSV4_TENSOR_NAME_BYTES) return false;
    memcpy(official, name, len_bytes + 1);
    size_t ending_bytes = sizeof scale_ending - 1;
    if (len_bytes > ending_bytes &&
        strcmp(official + len_bytes - ending_bytes, scale_ending) == 0) {
        memcpy(official + len_bytes - ending_bytes, ".scale", sizeof ".scale");
    }
    char *part = skip_numbered(official, "layers.");
    if (part == NULL) part = skip_numbered(official, "mtp.");
    if (part == NULL) part = official;
    if (!rename_part(official, part, module_names, LENGTH_OF(module_names))) return false;
    char *expert = skip_numbered(part, "ffn.experts.");
    return expert == NULL || rename_part(official, expert, expert_names, LENGTH_OF(expert_names));
}

bool dsv4_tensor_is_mtp_copy(const char *official)
{
    static const char *const copies[] = {
        "mtp.0.emb.tok_emb.weight",
        "mtp.0.embed.weight",
        "mtp.0.head.weight",
    };
    for (size_t i = 0; i < LENGTH_OF(copies); i++) {
        if (strcmp(official, copies[i]) == 0) return true;
    }
    return false;
}

const char *dsv4_tensor_foreign_owner(const char *official)
{
    if (strstr(official, ".ffn.experts.gate_up_proj") != NULL ||
        strstr(official, ".ffn.experts.down_proj") != NULL) {
        return "the stacked experts of Hugging Face transformers";
    }
    if (begins_with(official, "mtp.1.") || begins_with(official, "mtp.2.") ||
        begins_with(official, "mtp.0.main_")) {
        return "DSpark drafts";
    }
    if (strstr(official, ".engram.") != NULL) return "DeepSeek-V4.1";
    return NULL;
}

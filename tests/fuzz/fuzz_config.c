/*
 * fuzz_config.c - libFuzzer target of the parser of config.json.
 *
 * A refused text must leave an error that names a rule and an untouched result; an accepted one
 * must keep what the rest of the library relies on: sizes in range, whole groups.
 */
#include "io/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

static void require(int condition)
{
    if (!condition) abort();
}

static void check_size(int64_t value, int64_t max)
{
    require(value >= 1 && value <= max);
}

static void check_config(const dsv4_config *config)
{
    check_size(config->n_layers, DSV4_CONFIG_MAX_LAYERS);
    check_size(config->vocab_size, INT64_C(1) << 24);
    check_size(config->hidden_size, INT64_C(1) << 20);
    check_size(config->q_lora_rank, INT64_C(1) << 20);
    check_size(config->o_lora_rank, INT64_C(1) << 20);
    check_size(config->expert_dim, INT64_C(1) << 20);
    check_size(config->n_heads, 128);
    check_size(config->n_index_heads, 128);
    check_size(config->n_experts, 4096);
    check_size(config->n_active_experts, config->n_experts);
    check_size(config->n_o_groups, config->n_heads);
    require(config->n_heads % config->n_o_groups == 0);
    require(config->hidden_size % 32 == 0 && config->expert_dim % 32 == 0);
    require(config->n_hash_layers >= 0 && config->n_hash_layers <= config->n_layers);
    require(config->n_mtp_blocks == 0 || config->n_mtp_blocks == 1);
    for (int64_t i = 0; i < config->n_layers; i++) {
        require(config->ratios[i] == 0 || config->ratios[i] == 4 || config->ratios[i] == 128);
    }
    require(config->ratios[config->n_layers] == 0);
    require(config->hc_eps > 0 && config->norm_eps > 0 && config->swiglu_limit > 0);
    require(config->rope_theta > 1 && config->compress_rope_theta > 1);
    require(config->yarn_beta_fast > config->yarn_beta_slow && config->yarn_beta_slow > 0);
    require(config->bos_id >= 0 && config->bos_id < config->vocab_size);
    require(config->eos_id >= 0 && config->eos_id < config->vocab_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
    dsv4_config config, untouched;
    memset(&config, 0x5a, sizeof config);
    untouched = config;
    dsv4_error error = {0};
    dsv4_status status = dsv4_config_parse("fuzz", bytes, len_bytes, &config, &error);
    if (status == DSV4_OK) {
        check_config(&config);
    } else {
        require(error.status == status && strstr(error.text, "expected") != NULL);
        require(memcmp(&config, &untouched, sizeof config) == 0);
    }
    return 0;
}

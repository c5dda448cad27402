/*
 * model_dir.h - a model directory as DeepSeek or Hugging Face publish it.
 *
 * Place: io. config.json, then model.safetensors or the shards that model.safetensors.index.json names,
 * mapped, never copied. Tensors are found under their official names ("layers.3.attn.wq_a.weight",
 * specification 7.1) whatever the directory calls them: an optional "model." prefix, the names of
 * Hugging Face transformers for unstacked tensors (self_attn, q_a_proj, ...), weight_scale_inv. Everything
 * that the configuration asks for is checked on open: a missing, surplus or wrongly shaped or typed
 * tensor is refused by name before anything is computed. MTP copies of embedding and head are accepted
 * and ignored.
 *
 * An open directory is immutable and may be read by any number of threads.
 */
#ifndef DSV4_IO_MODEL_DIR_H
#define DSV4_IO_MODEL_DIR_H

#include "config.h"
#include "safetensors.h"

typedef struct dsv4_model_dir dsv4_model_dir;

/* Called while shards are opened: n_done of n_total; NULL for none. */
typedef void dsv4_progress(void *context, int64_t n_done, int64_t n_total);

/* Errors: IO, BAD_FILE, UNSUPPORTED, OUT_OF_MEMORY; *dir is set on success only. */
dsv4_status dsv4_model_dir_open(const char *path, dsv4_progress *progress, void *context,
                                dsv4_model_dir **dir, dsv4_error *error);

/* Accepts NULL. */
void dsv4_model_dir_close(dsv4_model_dir *dir);

const dsv4_config *dsv4_model_dir_config(const dsv4_model_dir *dir);

/* Tensor by official name; never NULL for a name that the configuration asks for, NULL for any other. */
const dsv4_tensor_view *dsv4_model_dir_tensor(const dsv4_model_dir *dir, const char *official_name);

/* All tensors that the configuration asks for, for reports; i is 0 .. n - 1. */
int64_t dsv4_model_dir_n_tensors(const dsv4_model_dir *dir);
const dsv4_tensor_view *dsv4_model_dir_tensor_at(const dsv4_model_dir *dir, int64_t i);

#endif

/*
 * model_size.c - counts parameters and bytes.
 *
 * Place: program. Nothing is read but headers.
 */
#include "model_size.h"

#include <string.h>

/* Packed weights hold two values per byte. */
int64_t dsv4_tensor_parameters(const dsv4_tensor_view *view)
{
    int64_t n = view->len_bytes / dsv4_safetensors_dtype_bytes(view->dtype);
    size_t name_bytes = strlen(view->name);
    bool is_scale = name_bytes >= 6 && strcmp(view->name + name_bytes - 6, ".scale") == 0;
    switch (view->dtype) {
    case DSV4_SAFETENSORS_F8_E8M0:
    case DSV4_SAFETENSORS_I32:
    case DSV4_SAFETENSORS_I64: return 0;
    case DSV4_SAFETENSORS_I8: return 2 * n;
    case DSV4_SAFETENSORS_U8: return is_scale || strstr(view->name, "scale_inv") ? 0 : 2 * n;
    default: return n;
    }
}

dsv4_status dsv4_model_size_read(const char *path, int64_t *n_bytes, int64_t *n_parameters,
                                 dsv4_error *error)
{
    dsv4_model_dir *dir;
    dsv4_status status = dsv4_model_dir_open(path, NULL, NULL, &dir, error);
    if (status != DSV4_OK) return status;
    *n_bytes = *n_parameters = 0;
    for (int64_t i = 0; i < dsv4_model_dir_n_tensors(dir); i++) {
        const dsv4_tensor_view *view = dsv4_model_dir_tensor_at(dir, i);
        *n_bytes += view->len_bytes;
        *n_parameters += dsv4_tensor_parameters(view);
    }
    dsv4_model_dir_close(dir);
    return DSV4_OK;
}

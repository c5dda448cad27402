/*
 * fuzz_safetensors.c - libFuzzer target of the safetensors reader.
 *
 * A refused file must leave a text; every byte of an accepted one must be readable, the tensors
 * must cover the data once, and each must be found by its name.
 */
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

static void require(int condition)
{
    if (!condition) abort();
}

/* volatile: the reads must happen */
static volatile unsigned byte_sum;

static void check_file(const dsv4_safetensors *file, const uint8_t *end)
{
    int64_t n_tensors = dsv4_safetensors_n_tensors(file), total_bytes = 0;
    const uint8_t *data = n_tensors == 0 ? end : dsv4_safetensors_tensor(file, 0)->data;
    for (int64_t i = 0; i < n_tensors; i++) {
        const dsv4_tensor_view *view = dsv4_safetensors_tensor(file, i);
        int64_t expected_bytes = 0;
        require(dsv4_tensor_view_bytes(view, &expected_bytes));
        require(view->len_bytes == expected_bytes);
        require((const uint8_t *)view->data == data + total_bytes);
        for (int64_t k = 0; k < view->len_bytes; k++) byte_sum += data[total_bytes + k];
        total_bytes += view->len_bytes;
        require(dsv4_safetensors_find(file, view->name) == view);
    }
    require(data + total_bytes == end);
    require(dsv4_safetensors_find(file, "") == NULL);
    require(dsv4_safetensors_find(file, "__metadata__") == NULL);
    const char *value = dsv4_safetensors_metadata(file, "format");
    if (value != NULL) byte_sum += (unsigned)strlen(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
    dsv4_safetensors *file = NULL;
    dsv4_error error = {0};
    dsv4_status status = dsv4_safetensors_open_memory("fuzz", bytes, len_bytes, &file, &error);
    if (status == DSV4_OK) {
        check_file(file, bytes + len_bytes);
    } else {
        require(file == NULL && error.status == status);
        require(strstr(error.text, "expected") != NULL);
    }
    dsv4_safetensors_close(file);
    return 0;
}

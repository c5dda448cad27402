#include "model_bench.h"
#include "base/error.h"
dsv4_status dsv4_model_bench_run(const dsv4_options *options, dsv4_error *error)
{
    (void)options;
    return dsv4_error_set(error, DSV4_ERROR_UNSUPPORTED, "todo");
}

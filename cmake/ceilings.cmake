# The loops that measure a machine's ceilings, as sources of a target in the calling folder, with the flags that src/cpu
# gives its kernels.

function(dsv4_add_ceilings target)
  set(tools ${PROJECT_SOURCE_DIR}/tools)
  set(avx2 -mavx2 -mfma -mf16c -mbmi2)
  set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
  target_sources(${target} PRIVATE ${tools}/bench_ceiling.c ${tools}/ceiling_v2.c ${tools}/ceiling_avx2.c
    ${tools}/ceiling_avx512.c ${tools}/ceiling_avx512bf16.c)
  set_source_files_properties(${tools}/ceiling_v2.c PROPERTIES COMPILE_OPTIONS "-march=x86-64-v2")
  set_source_files_properties(${tools}/ceiling_avx2.c PROPERTIES COMPILE_OPTIONS "${avx2}")
  set_source_files_properties(${tools}/ceiling_avx512.c PROPERTIES COMPILE_OPTIONS "${avx512}")
  set_source_files_properties(${tools}/ceiling_avx512bf16.c PROPERTIES COMPILE_OPTIONS
    "${avx512};-mavx512bf16;-mavx512vbmi")
endfunction()

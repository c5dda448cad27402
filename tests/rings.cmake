# Tests of the whole tree, registered in one build only: structure, libraries, installation,
# fixtures, broken variants, and the other builds. The other builds lie in rings/<preset> of this
# one; <preset>.build makes one and the tests that need it wait for that.

set(scripts ${CMAKE_CURRENT_SOURCE_DIR}/scripts)
set(include_dir ${PROJECT_SOURCE_DIR}/include)
find_program(DSV4_GCC gcc REQUIRED)
find_program(DSV4_GXX g++ REQUIRED)
find_program(DSV4_CLANG clang REQUIRED)
find_program(DSV4_CLANGXX clang++ REQUIRED)

# Structure.
dsv4_test(structure.layers ${DSV4_PYTHON} ${scripts}/check_layers.py ${PROJECT_SOURCE_DIR})
dsv4_test(structure.layers_selftest ${DSV4_PYTHON} ${scripts}/test_check_layers.py)
dsv4_test(structure.headers_gcc sh ${scripts}/check_headers.sh ${include_dir} ${DSV4_GCC} ${DSV4_GXX})
dsv4_test(structure.headers_clang sh ${scripts}/check_headers.sh ${include_dir} ${DSV4_CLANG}
  ${DSV4_CLANGXX})
if(DSV4_CUDA)
  dsv4_test(structure.clang_cuda ${DSV4_PYTHON} ${scripts}/check_clang.py
    ${CMAKE_BINARY_DIR}/compile_commands.json ${DSV4_CLANG})
endif()
dsv4_test(structure.symbols sh ${scripts}/check_symbols.sh $<TARGET_FILE:dsv4_shared>
  $<TARGET_FILE:dsv4_static> ${scripts}/symbols.txt ${include_dir})
set(newer_objects attn_avx2.c.o attn_avx512.c.o attn_avx512bf16.c.o
  linear_avx2.c.o linear_avx512.c.o linear_avx512bf16.c.o
  rows_avx2.c.o rows_avx512.c.o
  indexer_avx2.c.o indexer_avx512.c.o indexer_avx512bf16.c.o
  ceiling_avx2.c.o ceiling_avx512.c.o ceiling_avx512bf16.c.o)
list(JOIN newer_objects " " newer_objects)
add_test(NAME structure.instructions COMMAND sh ${scripts}/check_instructions.sh
  "${newer_objects}" $<TARGET_FILE:dsv4_static> $<TARGET_OBJECTS:dsv4_program> COMMAND_EXPAND_LISTS)

# Installation.
dsv4_test(install sh ${CMAKE_CURRENT_SOURCE_DIR}/install/test_install.sh ${PROJECT_BINARY_DIR}
  ${PROJECT_SOURCE_DIR})

# The Python package as pip builds and installs it; skipped where no package index can be reached.
dsv4_test(python.wheel sh ${scripts}/test_wheel.sh ${PROJECT_SOURCE_DIR}
  ${CMAKE_CURRENT_BINARY_DIR}/wheel ${DSV4_PYTHON})
set_tests_properties(python.wheel PROPERTIES SKIP_RETURN_CODE 77)

# Fixtures: a committed one can be made again, and the large ones are made now.
set(make_fixtures ${DSV4_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/gen/make_fixtures.py)
set(made ${CMAKE_CURRENT_BINARY_DIR}/made)
dsv4_test(fixtures.again.make ${make_fixtures} small ${made} wild-indices-extra)
dsv4_test(fixtures.again cmake -E compare_files ${made}/wild-indices-extra.safetensors
  ${CMAKE_CURRENT_SOURCE_DIR}/fixtures/attn/wild-indices-extra.safetensors)
dsv4_test(fixtures.large.make ${make_fixtures} large ${made}/large)
dsv4_test(fixtures.large sh -c "exec \"$<TARGET_FILE:dsv4_program>\" attn check ${made}/large/*")
foreach(name again large)
  set_tests_properties(fixtures.${name}.make PROPERTIES FIXTURES_SETUP fixtures_${name})
  set_tests_properties(fixtures.${name} PROPERTIES FIXTURES_REQUIRED fixtures_${name})
endforeach()

# A short benchmark runs; its numbers are not judged.
dsv4_test(bench dsv4_program attn bench --quick)

# The model in the box: what models/nano/README.md and docs/nano.md claim, in both numerics.
set(nano ${PROJECT_SOURCE_DIR}/models/nano)
set(nano_fixtures ${CMAKE_CURRENT_SOURCE_DIR}/fixtures/nano)
foreach(numerics exact official)
  set(eval dsv4_program eval -m ${nano} --numerics ${numerics})
  dsv4_test(nano.sums_${numerics} ${eval} --task sums --min-right 0.95)
  dsv4_test(nano.recall_${numerics} ${eval} --task recall --samples 10 --min-right 0.95)
  dsv4_test(nano.drafts_${numerics} ${eval} --task drafts --min-right 0.5
    -g ${nano_fixtures}/text.safetensors)
endforeach()
dsv4_test(nano.sums_in_chats dsv4_program eval -m ${nano} --task sums --chat --min-right 0.95)
dsv4_test(nano.recall_in_chats dsv4_program eval -m ${nano} --task recall --chat --samples 6
  --min-right 0.8)
dsv4_test(nano.text_exact dsv4_program eval -m ${nano} --numerics exact --task text
  --max-apart 0.0001 -g ${nano_fixtures}/text.safetensors)
dsv4_test(nano.text_official dsv4_program eval -m ${nano} --numerics official --task text
  --max-apart 0.01 -g ${nano_fixtures}/text.safetensors)
dsv4_test(nano.golden dsv4_program eval -m ${nano} --numerics exact
  -g ${nano_fixtures}/golden.safetensors --max-abs 1e-3 --min-cosine 0.99999 --min-agree 0.999)
dsv4_test(nano.golden_mtp dsv4_program eval -m ${nano} --numerics exact --mtp
  -g ${nano_fixtures}/mtp.safetensors --max-abs 1e-3 --min-cosine 0.99999 --min-agree 0.999)
dsv4_test(nano.demo sh ${scripts}/test_demo.sh ${PROJECT_SOURCE_DIR} $<TARGET_FILE:dsv4_program>)

# Broken variants: the tests notice each of them.
include(ProcessorCount)
ProcessorCount(n_processors)
set(programs "")
foreach(program check_attn check_keys check_replay test_keys test_base test_num test_cache test_safetensors test_safetensors_write
    test_attn_params test_attn_choice test_attn_fp8 test_attn test_kv test_generate check_model check_ops check_linear
    dsv4_program)
  list(APPEND programs "\"${program}\": [\"$<JOIN:$<TARGET_OBJECTS:${program}>,\", \">\"]")
endforeach()
set(fiber_objects "$<JOIN:$<TARGET_OBJECTS:check_fibers>;$<TARGET_OBJECTS:fiber_kernels>,\", \">")
if(TARGET fiber_cuda_run) # kernels of src/cuda, in C++
  string(APPEND fiber_objects "\", \"$<JOIN:$<TARGET_OBJECTS:fiber_cuda_run>;$<TARGET_OBJECTS:fiber_cuda_kernels>,\", \">\", \"-lstdc++")
endif()
list(APPEND programs "\"check_fibers\": [\"${fiber_objects}\"]")
# With the stand-ins for AMD's runtime.
list(APPEND programs "\"check_attn_hip\": [\"$<JOIN:$<TARGET_OBJECTS:check_attn>,\", \">\", \"$<TARGET_FILE:fake_hip_fibers>\", \"-Wl,-rpath,$<TARGET_FILE_DIR:fake_hip_fibers>\"]"
  "\"test_hip_library\": [\"$<JOIN:$<TARGET_OBJECTS:test_hip_library>,\", \">\"]"
  "\"test_hip_keys\": [\"$<JOIN:$<TARGET_OBJECTS:test_hip_keys>,\", \">\", \"$<TARGET_FILE:fake_hip>\", \"-Wl,-rpath,$<TARGET_FILE_DIR:fake_hip>\"]"
  "\"test_hip\": [\"$<JOIN:$<TARGET_OBJECTS:test_hip>,\", \">\", \"$<TARGET_FILE:fake_hip>\", \"-Wl,-rpath,$<TARGET_FILE_DIR:fake_hip>\"]")
list(JOIN programs ",\n    " programs)
set(link_options ${OpenMP_C_FLAGS} ${JANSSON_LINK_LIBRARIES} ${PCRE2_LINK_LIBRARIES}
  ${CMOCKA_LINK_LIBRARIES} ${LIBEDIT_LINK_LIBRARIES} ${DSV4_CUDA_LINK_OPTIONS} -lm)
list(JOIN link_options "\", \"" link_options)
file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/variants.json CONTENT "{
  \"source_dir\": \"${PROJECT_SOURCE_DIR}\",
  \"work_dir\": \"${CMAKE_CURRENT_BINARY_DIR}/variants\",
  \"compile_commands\": \"${CMAKE_BINARY_DIR}/compile_commands.json\",
  \"static_library\": \"$<TARGET_FILE:dsv4_static>\",
  \"shared_library\": \"$<TARGET_FILE:dsv4_shared>\",
  \"min_timeout_s\": 30,
  \"link_options\": [\"${link_options}\"],
  \"programs\": {
    ${programs}
  }
}
")
dsv4_test(variants ${DSV4_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/variants/run_variants.py
  ${CMAKE_CURRENT_SOURCE_DIR}/variants/variants.txt ${CMAKE_CURRENT_BINARY_DIR}/variants.json
  -j ${n_processors})
dsv4_test(variants.selftest ${DSV4_PYTHON}
  ${CMAKE_CURRENT_SOURCE_DIR}/variants/test_run_variants.py ${DSV4_GCC})
set_tests_properties(variants PROPERTIES PROCESSORS ${n_processors} TIMEOUT 1200)

# Other builds. Their own tests are those of tests/CMakeLists.txt.
set(fuzz_target fuzzers)
foreach(preset clang asan tsan fuzz)
  set(${preset}_dir ${PROJECT_BINARY_DIR}/rings/${preset})
  dsv4_test(${preset}.build sh ${scripts}/build_ring.sh ${PROJECT_SOURCE_DIR} ${preset}
    ${${preset}_dir} ${${preset}_target})
  set_tests_properties(${preset}.build PROPERTIES FIXTURES_SETUP ${preset}
    PROCESSORS ${n_processors} TIMEOUT 1200)
endforeach()
set(nested ${CMAKE_CTEST_COMMAND} --output-on-failure --no-tests=error -j ${n_processors} --test-dir)
dsv4_test(clang.tests ${nested} ${clang_dir} -LE slow)
# Sanitizers say nothing about AMD code objects.
dsv4_test(asan.tests ${nested} ${asan_dir} -E "^gfx[.]")
dsv4_test(tsan.tests ${nested} ${tsan_dir})
foreach(preset clang asan tsan)
  set_tests_properties(${preset}.tests PROPERTIES FIXTURES_REQUIRED ${preset}
    PROCESSORS ${n_processors} TIMEOUT 1200)
endforeach()

# Fuzzers: half a minute each for the two oldest, ten seconds for the others; five minutes each in the
# long ring (ctest -C long -L long).
foreach(name safetensors attn config tokenizer chat dsml)
  set(seconds 10)
  if(name MATCHES "^(safetensors|attn)$")
    set(seconds 30)
  endif()
  set(fuzz sh ${scripts}/run_fuzzer.sh ${fuzz_dir}/tests/fuzz/fuzz_${name}
    ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${name} ${fuzz_dir}/found/${name})
  dsv4_test(fuzz.${name} ${fuzz} ${seconds})
  add_test(NAME fuzz.${name}_long COMMAND ${fuzz} 300 CONFIGURATIONS long)
  set_tests_properties(fuzz.${name} fuzz.${name}_long PROPERTIES FIXTURES_REQUIRED fuzz)
  set_tests_properties(fuzz.${name}_long PROPERTIES LABELS long TIMEOUT 600)
endforeach()
if(TARGET fiber_cuda_run)
  foreach(kernel sm90 mma)
    add_test(NAME check.fibers_cuda_${kernel}_long COMMAND check_fibers --cuda --kernel ${kernel} CONFIGURATIONS long)
    set_tests_properties(check.fibers_cuda_${kernel}_long PROPERTIES LABELS long TIMEOUT 1200)
  endforeach()
endif()
add_test(NAME check.attn_long COMMAND check_attn --long CONFIGURATIONS long)
set_tests_properties(check.attn_long PROPERTIES LABELS long TIMEOUT 7200)

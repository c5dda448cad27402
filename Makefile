# Thin front of the CMake build: `make help` lists the targets, CONTRIBUTING.md explains the tests.

BUILD  ?= build
PREFIX ?= /usr/local
# Builds include the kernels for NVIDIA GPUs when there is a compiler for them.
CUDACXX := $(shell scripts/find-nvcc.sh)
export CUDACXX
CTEST   = ctest --test-dir $(BUILD) --output-on-failure --no-label-summary -j $(shell nproc)

C_FILES = $(shell find $(wildcard include src tools tests examples bench) -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp')

.PHONY: all run test test-long test-gpu test-hip bench bench-gpu format format-check layers install clean help

all: $(BUILD)/build.ninja
	cmake --build $(BUILD)

$(BUILD)/build.ninja:
	scripts/install-deps.sh run
	cmake --preset release -B $(BUILD)

run: all
	@scripts/demo.sh $(BUILD)/dsv4

test:
	scripts/install-deps.sh test
	CUDACXX="$$(scripts/find-nvcc.sh --install)" cmake --preset release -B $(BUILD) -DDSV4_CUDA=ON \
	    -DDSV4_HIP=ON -DDSV4_BUILD_TESTS=ON -DDSV4_TEST_RINGS=ON
	cmake --build $(BUILD)
	$(CTEST)

test-long:
	scripts/install-deps.sh test
	CUDACXX="$$(scripts/find-nvcc.sh --install)" cmake --preset release -B $(BUILD) -DDSV4_CUDA=ON \
	    -DDSV4_HIP=ON -DDSV4_BUILD_TESTS=ON -DDSV4_TEST_RINGS=ON
	cmake --build $(BUILD)
	$(CTEST) -C long -L long

# On a machine with a GPU: every case of the kernels' check, and the case files with their answers.
test-gpu:
	scripts/install-deps.sh test
	cmake --preset release -B $(BUILD) -DDSV4_CUDA=ON -DDSV4_BUILD_TESTS=ON
	cmake --build $(BUILD)
	tests/scripts/test_gpu.sh $(BUILD)

# On a machine with an AMD GPU and ROCm: the same, and a table of times (docs/hip.md).
test-hip:
	scripts/install-deps.sh hip
	cmake --preset release -B $(BUILD) -DDSV4_HIP=ON -DDSV4_BUILD_TESTS=ON
	cmake --build $(BUILD)
	tests/scripts/test_hip.sh $(BUILD)

bench-gpu: all
	bench/attn_gpu.py --library $(BUILD)/libdsv4.so --json bench/results/attn-h200.jsonl
	bench/plot_attn.py bench/results/attn-h200.jsonl docs/attn-h200.svg

bench: all
	$(BUILD)/dsv4 attn bench
	$(BUILD)/dsv4 bench

format:
	@clang-format -i $(C_FILES)

format-check:
	@clang-format --dry-run -Werror $(C_FILES)

layers:
	python3 tests/scripts/check_layers.py .

install: all
	cmake --install $(BUILD) --prefix $(PREFIX)

clean:
	rm -rf $(BUILD) build-*

help:
	@echo 'make               build $(BUILD)/dsv4, $(BUILD)/libdsv4.so and $(BUILD)/libdsv4.a'
	@echo 'make run           the small model in models/nano answers questions'
	@echo 'make bench         the full benchmarks: attention, matrices, layers'
	@echo 'make test          the whole proof: all tests, compilers, sanitizers and fuzzers'
	@echo 'make test-gpu      on a machine with a GPU: its kernels against the reference'
	@echo 'make test-hip      on a machine with an AMD GPU: the same there, and a table of times'
	@echo 'make bench-gpu     on a machine with a GPU and torch: the attention, and FlashMLA when it is there'
	@echo 'make test-long     longer: five minutes of each fuzzer, the long kernel check'
	@echo 'make format        format the C files; format-check only reports'
	@echo 'make layers        check the structural rules'
	@echo 'make install       install under PREFIX ($(PREFIX)) inside DESTDIR'
	@echo 'make clean         remove the build folders'

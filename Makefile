# Thin front of the CMake build: `make help` lists the targets, CONTRIBUTING.md explains the tests.

BUILD  ?= build
PREFIX ?= /usr/local
CTEST   = ctest --test-dir $(BUILD) --output-on-failure --no-label-summary -j $(shell nproc)

C_FILES = $(shell find $(wildcard include src tools tests examples bench) -name '*.[ch]')

.PHONY: all run test test-long bench format format-check layers install clean help

all: $(BUILD)/build.ninja
	cmake --build $(BUILD)

$(BUILD)/build.ninja:
	scripts/install-deps.sh run
	cmake --preset release -B $(BUILD)

run: all
	@scripts/demo.sh $(BUILD)/dsv4

test:
	scripts/install-deps.sh test
	cmake --preset release -B $(BUILD) -DDSV4_BUILD_TESTS=ON -DDSV4_TEST_RINGS=ON
	cmake --build $(BUILD)
	$(CTEST)

test-long:
	scripts/install-deps.sh test
	cmake --preset release -B $(BUILD) -DDSV4_BUILD_TESTS=ON -DDSV4_TEST_RINGS=ON
	cmake --build $(BUILD)
	$(CTEST) -C long -L long

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
	@echo 'make test-long     longer: five minutes of each fuzzer, the long kernel check'
	@echo 'make format        format the C files; format-check only reports'
	@echo 'make layers        check the structural rules'
	@echo 'make install       install under PREFIX ($(PREFIX)) inside DESTDIR'
	@echo 'make clean         remove the build folders'

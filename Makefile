# SPDX-License-Identifier: GPL-2.0
#
# Front door: builds kernels with memfd_dmabuf, boots them and does things there.

# Where everything is built, and the user's own kernel tree instead of Debian's.
BUILD ?= build
KSRC ?=
# make test, test-long: run tests whose name matches this extended regular expression.
T ?=
# 0 leaves patches/*-mm-count out.
MM_COUNT ?=
# make run: the picture that is shown.
IMAGE ?=
# make bench: short, profile or time; see scripts/run-bench.
MODE ?=

export KSRC MM_COUNT

build := $(abspath $(BUILD))
selftests := tools/testing/selftests/memfd_dmabuf/config
fragments-debug := configs/vm.config $(selftests) configs/debug.config
fragments-dropin := configs/vm.config $(selftests) configs/dropin.config configs/qemu.config
fragments-bench := configs/vm.config $(selftests) configs/udmabuf.config
fragments-kcsan := configs/vm.config $(selftests) configs/udmabuf.config configs/kcsan.config
fragments-stock := configs/vm.config configs/udmabuf.config configs/qemu.config

# Build what the selected tests need, and run them.
run-tests = needs=$$(scripts/run-tests --needs $(build) '$(value T)') && \
	$(MAKE) --no-print-directory $$needs && \
	scripts/run-tests $(build) '$(value T)'

# ---------------------------------------------------------------------------
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'KSRC=DIR      use this kernel tree instead of Debian'\''s linux-source-6.12'
	@echo 'MM_COUNT=0    without the series that makes all mappings of files cheaper'
	@echo 'BUILD=DIR     build there (default: build)'

run: kernel-bench samples ## show a viewer following a guest's memory, beside udmabuf
	@scripts/run-demo $(build) $(IMAGE)

run-qemu: dropin stock samples ## Debian's QEMU as it is, beside udmabuf
	@scripts/run-qemu $(build)

run-gst: dropin stock linux deps-gst ## GStreamer and other programs as they are
	@scripts/run-gst $(build)

test: ## run the tests, or T=pattern, on the debug kernel
	@$(run-tests)

test-long: ## all tests: longer, comparisons, figures, data races, run-qemu, run-gst
	@export LONG=1 && $(run-tests)

bench: kernel-bench stock selftests ## measure, beside udmabuf and mappings of the file
	@scripts/deps bench
	@scripts/run-bench $(build) $(MODE)

layers: selftests ## build and test the layers of the series one by one
	@scripts/run-layers $(build)

shell: debug ## a root shell on the debug kernel
	@BUILD=$(build) scripts/vm-run --tty --numa 2 -- bash

debug: deps ## build the kernel with KASAN, lockdep, kmemleak, KUnit ...
kernel-bench: deps ## build the kernel without debugging aids
dropin: deps ## build that kernel with /dev/udmabuf served by memfd_dmabuf
stock: deps ## build that kernel without our patches
kcsan: deps ## build it with the detector of data races

refresh: deps ## write edits made in BUILD/linux back to patches/
	@REFRESH=1 scripts/prepare-tree $(build)/linux patched

check: linux ## checkpatch, sparse, kernel-doc and patch size
	@scripts/check-style $(build)

clean: ## remove everything built
	rm -rf $(build) out

.PHONY: help run run-qemu run-gst test test-long bench layers shell refresh check
.PHONY: clean
.PHONY: debug kernel-bench dropin stock kcsan
.PHONY: deps deps-gst linux linux-stock samples selftests
.DEFAULT_GOAL := help

# ---------------------------------------------------------------------------
deps:
	@scripts/deps

deps-gst:
	@scripts/deps gst

linux: deps
	@mkdir -p $(build)
	@scripts/prepare-tree $(build)/linux patched

linux-stock: deps
	@mkdir -p $(build)
	@scripts/prepare-tree $(build)/linux-stock

debug dropin kcsan: linux
	@scripts/build-kernel $@ $(build)/linux $(build)/$@ $(fragments-$@)
kernel-bench: linux
	@scripts/build-kernel bench $(build)/linux $(build)/bench $(fragments-bench)
stock: linux-stock
	@scripts/build-kernel $@ $(build)/linux-stock $(build)/$@ $(fragments-$@)

selftests: linux
	@scripts/build-selftests $(build)

samples: deps
	@mkdir -p $(build)/samples
	@$(MAKE) --no-print-directory -s -C samples/memfd_dmabuf OUTPUT=$(build)/samples

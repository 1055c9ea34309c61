// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A plugin for QEMU's TCG that counts instructions, for each figure of the
 * bench program and each piece of code. run-bench builds and loads it:
 *
 *	-plugin bench-profile.so,mark=ADDR,marks=ADDR,output=FILE
 *
 * with the guest addresses of the program's bench_mark() and bench_marks. There
 * has to be one processor. Writes lines "figure address instructions".
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* QEMU's interface, version 1, as far as it is used. Debian has no header. */
struct qemu_plugin_tb;
struct qemu_plugin_insn;

typedef void (*tb_callback)(uint64_t id, struct qemu_plugin_tb *tb);
typedef void (*exec_callback)(unsigned int cpu, void *data);
typedef void (*mem_callback)(unsigned int cpu, uint32_t info, uint64_t vaddr,
			     void *data);
typedef void (*exit_callback)(uint64_t id, void *data);

enum { NO_REGISTERS = 0, STORES = 2 };

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_callback cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
					  exec_callback cb, int flags,
					  void *data);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn,
				      mem_callback cb, int flags, int rw,
				      void *data);
void qemu_plugin_register_atexit_cb(uint64_t id, exit_callback cb, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb,
						 size_t i);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

#define EXPORT __attribute__((visibility("default")))

EXPORT int qemu_plugin_version = 1;

#define MAX_FIGURES	1024

/* A translated block. @count is of the current figure, @next who else has one. */
struct block {
	uint64_t addr;
	uint64_t insns;
	uint64_t count;
	struct block *next;
	struct block *older;
	uint64_t *counts;
};

static struct block *current, *blocks;
static unsigned int figure;
static uint64_t mark, marks;
static FILE *output;

static void executed(unsigned int cpu, void *data)
{
	struct block *b = data;

	if (!figure)
		return;
	if (!b->count) {
		b->next = current;
		current = b;
	}
	b->count += b->insns;
}

static void marked(unsigned int cpu, uint32_t info, uint64_t vaddr, void *data)
{
	if (vaddr < marks || vaddr >= marks + MAX_FIGURES)
		return;
	for (struct block *b = current; b; b = b->next) {
		if (!b->counts)
			b->counts = calloc(MAX_FIGURES, sizeof(*b->counts));
		if (!b->counts)
			abort();
		b->counts[figure] += b->count;
		b->count = 0;
	}
	current = NULL;
	figure = vaddr - marks;
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	struct block *b = calloc(1, sizeof(*b));

	if (!b)
		abort();
	b->addr = qemu_plugin_tb_vaddr(tb);
	b->insns = qemu_plugin_tb_n_insns(tb);
	b->older = blocks;
	blocks = b;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, NO_REGISTERS, b);
	if (b->addr != mark)
		return;
	for (size_t i = 0; i < b->insns; i++)
		qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i),
						 marked, NO_REGISTERS, STORES,
						 NULL);
}

static void leave(uint64_t id, void *data)
{
	for (struct block *b = blocks; b; b = b->older)
		for (unsigned int i = 1; b->counts && i < MAX_FIGURES; i++)
			if (b->counts[i])
				fprintf(output, "%u %" PRIx64 " %" PRIu64 "\n",
					i, b->addr, b->counts[i]);
	fclose(output);
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc,
			       char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "mark=", 5))
			mark = strtoull(argv[i] + 5, NULL, 16);
		else if (!strncmp(argv[i], "marks=", 6))
			marks = strtoull(argv[i] + 6, NULL, 16);
		else if (!strncmp(argv[i], "output=", 7))
			output = fopen(argv[i] + 7, "w");
	}
	if (!mark || !marks || !output) {
		fprintf(stderr, "bench-profile: bad arguments\n");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, leave, NULL);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * Random operations on files, and on mappings of them and of buffers made of
 * them, against a model of what each page of the files holds.
 *
 * After each step, what the step could have changed and a sample of the rest is
 * looked at through all mappings: pages must have the contents of the model,
 * what is beyond the end of a file and, through a NOALLOC buffer, what is a hole
 * must give SIGBUS, and page tables must agree with each other and with the
 * model. Now and then everything is looked at.
 *
 * Each step depends on the seed and on the steps before it only. To replay a
 * failure, run its variant alone with the seed it has printed, for as many
 * steps as it has printed:
 *
 *	SEED=<n> STEPS=<n> VERBOSE=1 ./model_test -r model.<variant>.random
 *
 * SEED (default 1) chooses the operations, STEPS how many there are in each
 * variant (0: no end), and VERBOSE prints each one before it is done, for those
 * that the machine does not survive.
 */
#include "common.h"

#include <stdarg.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "harness.h"

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"
#define CGROUP_DIR "/sys/fs/cgroup/"
#define TEST_CGROUP CGROUP_DIR "memfd_dmabuf.model/"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* What is smaller than a page comes in units of this. */
#define SECTOR		512U
#define SECTORS		((unsigned int)PAGE / SECTOR)
#define HUGE_PAGES	512U	/* pages in a huge page */
#define HUGE		(HUGE_PAGES * PAGE)

#define MAX_FILES	3U
#define MAX_PAGES	(3 * HUGE_PAGES)
#define MAX_BUFFERS	8U
#define MAX_RUNS	24U
#define MAX_VIEWS	16U
#define MAX_PLACES	64U
#define HISTORY		20U

enum kind {
	NONE,
	SMALL,		/* shmem without large folios */
	LARGE,		/* shmem that may have some */
	HUGETLB,
};

/*
 * What is known about a page of a file. Where the kernel is free to fill a hole
 * with zeros or to leave it alone, it may be either, until an access tells.
 */
enum state { HOLE, MAYBE, DATA };

struct page {
	unsigned char state;
	bool dirty;	/* or reclaim drops it: a hole it was and will be */
	uint16_t version[SECTORS];	/* 0: zeros */
};

struct file {
	int fd;
	enum kind kind;
	unsigned int pages;	/* it does not grow larger */
	unsigned int size;	/* now, in sectors */
	struct page page[MAX_PAGES];
};

struct run {
	unsigned int file, page, nr;
	unsigned int at;	/* buffer page */
};

struct buffer {
	int fd;			/* or -1 */
	unsigned int flags;
	unsigned int nr_runs, pages;
	struct run runs[MAX_RUNS];
};

/* A mapping, within one vma. */
struct view {
	char *addr;		/* or NULL */
	int buf;		/* or -1: of a file */
	unsigned int file;
	unsigned int first, nr;	/* pages of the buffer or file */
	int prot;
	bool locked;
};

/* How to get at a page of a mapping. */
enum way { CPU, PROCESS_VM, PROC_MEM, NR_WAYS };
static const char * const way_name[] = { "cpu", "process_vm", "/proc/self/mem" };

enum outcome { FINE, FAULT, EITHER };

/* Shared with children. */
static struct file *files;
static unsigned int nr_files;

/* Each process has its own: a child keeps the views it has inherited. */
static struct buffer buffers[MAX_BUFFERS];
static struct view views[MAX_VIEWS];	/* the first ones: all of each file */
static struct {
	unsigned int file, first, last;
	bool any;
} changed;
static bool failed;

static struct {
	pid_t pid;		/* or 0 */
	unsigned long born;
	int to, from;
} child;

static int dev, proc_mem, pagemap;
static uint64_t seed, rng;
static unsigned long step;
static bool verbose;
static char history[HISTORY][160];
static unsigned long nr_history;

static unsigned int min(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

static unsigned int max(unsigned int a, unsigned int b)
{
	return a > b ? a : b;
}

/* splitmix64 */
static uint64_t next_random(void)
{
	uint64_t z = rng += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* What a step draws does not depend on how much those before it have drawn. */
static void restart_random(unsigned int part)
{
	rng = seed;
	rng = next_random() + step * 4 + part;
	rng = next_random();
}

static unsigned int below(unsigned int n)
{
	return next_random() % n;
}

static bool chance(unsigned int percent)
{
	return below(100) < percent;
}

static void __printf(1, 2) say(const char *format, ...)
{
	char *line = history[nr_history++ % HISTORY];
	int n = snprintf(line, sizeof(*history), "%lu: ", step);
	va_list args;

	va_start(args, format);
	vsnprintf(line + n, sizeof(*history) - n, format, args);
	va_end(args);
	if (verbose)
		fprintf(stderr, "# %s\n", line);
}

static void __printf(1, 2) wrong(const char *format, ...)
{
	unsigned long i = nr_history < HISTORY ? 0 : nr_history - HISTORY;
	va_list args;

	if (failed)
		return;
	failed = true;
	fprintf(stderr, "# SEED=%llu, step %lu: ", (unsigned long long)seed,
		step);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n# the last operations:\n");
	for (; i < nr_history; i++)
		fprintf(stderr, "#   %s\n", history[i % HISTORY]);
}

/* For system calls that must not fail. */
static bool check(bool ok, const char *what)
{
	if (!ok)
		wrong("%s: %s", what, strerror(errno));
	return ok;
}

/* Again in each child, which has a memory of its own. */
static bool open_proc(void)
{
	proc_mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return proc_mem >= 0 && pagemap >= 0;
}

/* The model */

static unsigned int end_page(const struct file *f)
{
	return (f->size + SECTORS - 1) / SECTORS;
}

static uint16_t version(void)
{
	return step % UINT16_MAX + 1;
}

static uint64_t word(const struct file *f, unsigned int page,
		     unsigned int sector)
{
	unsigned int v = f->page[page].version[sector];

	return v ? tag(f - files + 1, page * SECTORS + sector, v) : 0;
}

static void touch(struct file *f, unsigned int page)
{
	unsigned int i, first = page - page % HUGE_PAGES;

	if (f->page[page].state == DATA)
		return;
	if (f->kind != SMALL) {
		for (i = first; i < first + HUGE_PAGES; i++) {
			if (f->kind == HUGETLB)
				f->page[i].state = DATA;
			else if (f->page[i].state == HOLE)
				f->page[i].state = MAYBE;
		}
	}
	f->page[page].state = DATA;
}

static void soil(struct file *f, unsigned int page)
{
	touch(f, page);
	f->page[page].dirty = true;
}

/* Pages may have been reclaimed. */
static void forget_clean(void)
{
	for (struct file *f = files; f < files + nr_files; f++)
		for (unsigned int i = 0; i < MAX_PAGES; i++)
			if (f->kind != HUGETLB && f->page[i].state == DATA &&
			    !f->page[i].dirty)
				f->page[i].state = MAYBE;
}

/* An access to a page that might have been there has told that it is not. */
static void learn_hole(struct file *f, unsigned int page)
{
	unsigned int first = page - page % HUGE_PAGES;

	if (f->kind == HUGETLB) {
		for (unsigned int i = first; i < first + HUGE_PAGES; i++)
			f->page[i].state = HOLE;
	} else {
		f->page[page].state = HOLE;
	}
}

/* It has been seen without an access. */
static void learn_page(struct file *f, unsigned int page)
{
	if (f->kind == HUGETLB)
		touch(f, page);
	else
		f->page[page].state = DATA;
}

static void maybe(struct file *f, unsigned int first, unsigned int last)
{
	for (unsigned int i = first; i <= last && i < MAX_PAGES; i++)
		if (f->page[i].state == HOLE)
			f->page[i].state = MAYBE;
}

static void note_change(const struct file *f, unsigned int first,
			unsigned int last)
{
	changed.any = true;
	changed.file = f - files;
	changed.first = first;
	changed.last = min(last, MAX_PAGES - 1);
}

/* Sectors @from to @to, exclusive, are thrown away. */
static void discard(struct file *f, unsigned int from, unsigned int to)
{
	unsigned int unit = f->kind == SMALL ? SECTORS : HUGE_PAGES * SECTORS;

	to = min(to, MAX_PAGES * SECTORS);
	if (from >= to)
		return;
	for (unsigned int s = from; s < to; s++) {
		struct page *page = &f->page[s / SECTORS];

		page->version[s % SECTORS] = 0;
		if (s % SECTORS || s + SECTORS > to)
			continue;
		/* A part of a large folio may be zeroed, or split off. */
		if (s - s % unit >= from && s - s % unit + unit <= to)
			page->state = HOLE;
		else if (f->kind == LARGE && page->state == DATA)
			page->state = MAYBE;
		page->dirty = false;
	}
	note_change(f, from / SECTORS, (to - 1) / SECTORS);
}

/* The file grows, without pages. */
static void grow(struct file *f, unsigned int size)
{
	unsigned int i, last = end_page(f);

	if (size <= f->size)
		return;
	/* Beyond the end a split of a large folio drops pages. */
	for (i = last; i < MAX_PAGES && f->kind == LARGE; i++)
		if (f->page[i].state == DATA)
			f->page[i].state = MAYBE;
	f->size = size;
}

/* Views */

static bool noalloc(const struct view *v)
{
	return v->buf >= 0 && buffers[v->buf].flags & MEMFD_DMABUF_NOALLOC;
}

static bool rdonly(const struct view *v)
{
	return v->buf >= 0 && buffers[v->buf].flags & MEMFD_DMABUF_RDONLY;
}

static bool fixed(const struct view *v)
{
	return v - views < nr_files;
}

static char *at(const struct view *v, unsigned int i)
{
	return v->addr + i * PAGE;
}

/* Whose page is the view's page @i? */
static struct file *where(const struct view *v, unsigned int i,
			  unsigned int *page)
{
	const struct run *run;

	i += v->first;
	if (v->buf < 0) {
		*page = i;
		return &files[v->file];
	}
	for (run = buffers[v->buf].runs; i >= run->at + run->nr; run++)
		;
	*page = run->page + (i - run->at);
	return &files[run->file];
}

static bool has_hugetlb(const struct view *v)
{
	const struct buffer *b;

	if (v->buf < 0)
		return files[v->file].kind == HUGETLB;
	b = &buffers[v->buf];
	for (unsigned int i = 0; i < b->nr_runs; i++)
		if (files[b->runs[i].file].kind == HUGETLB)
			return true;
	return false;
}

static void describe(const struct view *v, unsigned int i, char *text,
		     size_t size)
{
	unsigned int page;
	struct file *f = where(v, i, &page);
	char of[48] = "file";

	if (v->buf >= 0)
		snprintf(of, sizeof(of), "%s%sbuffer %d",
			 rdonly(v) ? "read-only " : "",
			 noalloc(v) ? "NOALLOC " : "", v->buf);
	snprintf(text, size, "page %u of file %ld, page %u of %s, %s, view %ld",
		 page, f - files, v->first + i, of,
		 v->prot & PROT_WRITE ? "rw" : v->prot ? "r" : "none",
		 v - views);
}

/*
 * Mappings of the file itself may have pages beyond its end: shmem maps large
 * folios as a whole, and hugetlbfs those that fallocate() has left there.
 */
static bool across_end(const struct view *v, const struct file *f,
		       unsigned int page)
{
	if (f->kind == HUGETLB)
		return f->page[page].state != HOLE;
	if (v->buf >= 0)
		return false;
	return f->kind == LARGE && f->size &&
	       page / HUGE_PAGES == (end_page(f) - 1) / HUGE_PAGES;
}

static enum outcome expectation(const struct view *v, unsigned int i)
{
	unsigned int page;
	struct file *f = where(v, i, &page);

	if (page >= end_page(f))
		return across_end(v, f, page) ? EITHER : FAULT;
	if (!noalloc(v) || f->page[page].state == DATA)
		return FINE;
	return f->page[page].state == HOLE ? FAULT : EITHER;
}

/* Access */

static void *fault_addr;
static int fault_expected;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	if (!PEEK(&fault_expected)) {
		/* a bug of the test: die of it */
		signal(sig, SIG_DFL);
		return;
	}
	fault_addr = info->si_addr;
	siglongjmp(sigbus_jump, sig);
}

static int cpu_transfer(uint64_t *addr, uint64_t *data, unsigned int words,
			bool write)
{
	int sig = sigsetjmp(sigbus_jump, 0);

	POKE(&fault_expected, !sig);
	if (sig)
		return fault_addr == addr ? sig : -1;
	for (unsigned int i = 0; i < words; i++) {
		if (write)
			POKE(&addr[i], data[i]);
		else
			data[i] = PEEK(&addr[i]);
	}
	POKE(&fault_expected, 0);
	return 0;
}

/* Returns 0, or the signal or error number. */
static int transfer(char *addr, void *data, size_t size, enum way way,
		    bool write)
{
	struct iovec local = { data, size }, remote = { addr, size };
	ssize_t n;

	switch (way) {
	case CPU:
		return cpu_transfer((void *)addr, data, size / 8, write);
	case PROCESS_VM:
		n = write ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0)
			  : process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
		return n == size ? 0 : errno;
	default:
		n = write ? pwrite(proc_mem, data, size, (uintptr_t)addr)
			  : pread(proc_mem, data, size, (uintptr_t)addr);
		return n == size ? 0 : errno;
	}
}

static int failure(enum way way, int sig)
{
	return way == CPU ? sig : way == PROCESS_VM ? EFAULT : EIO;
}

/*
 * Which failure the access must end with, if any. *@expect is what the state of
 * the page calls for, and only valid without such a failure.
 */
static int forbidden(const struct view *v, unsigned int i, enum way way,
		     bool write)
{
	unsigned int page;
	struct file *f = where(v, i, &page);

	if (write ? !(v->prot & PROT_WRITE) : !v->prot && way != PROC_MEM)
		return failure(way, SIGSEGV);
	/* No page to get hold of in a vma that is not of hugetlbfs. */
	if (way == PROCESS_VM && v->buf >= 0 && f->kind == HUGETLB) {
		if (!noalloc(v) && page < end_page(f))
			maybe(f, page - page % HUGE_PAGES,
			      page | (HUGE_PAGES - 1));
		return EFAULT;
	}
	return 0;
}

static void compare(const struct file *f, unsigned int page,
		    const uint64_t *data, const char *through)
{
	for (unsigned int i = 0; i < PAGE / 8; i++) {
		uint64_t expected = word(f, page, i / (SECTOR / 8));

		if (data[i] != expected) {
			wrong("%s: word %u is %#llx, not %#llx", through, i,
			      (unsigned long long)data[i],
			      (unsigned long long)expected);
			return;
		}
	}
}

/*
 * Was the result of an access right? Learns from it what the model does not
 * know. Returns true if the page was there.
 */
static bool judge(const struct view *v, unsigned int i, enum way way,
		  bool write, int result)
{
	int veto = forbidden(v, i, way, write), bus = failure(way, SIGBUS);
	enum outcome expect = expectation(v, i);
	unsigned int page;
	struct file *f = where(v, i, &page);
	char text[128];
	bool ok;

	if (veto)
		ok = result == veto;
	else if (result)
		ok = result == bus && expect != FINE;
	else
		ok = expect != FAULT;
	if (!ok) {
		describe(v, i, text, sizeof(text));
		wrong("%s of %s by %s: result %d, expected %d%s (end %u, state %u)",
		      write ? "write" : "read", text, way_name[way], result,
		      veto ?: expect == FINE ? 0 : bus,
		      !veto && expect == EITHER ? " or 0" : "", end_page(f),
		      f->page[page].state);
		return false;
	}
	if (!veto && page < end_page(f)) {
		if (result)
			learn_hole(f, page);
		else
			touch(f, page);
	}
	return !result;
}

/* Read a page of a view. */
static void look(const struct view *v, unsigned int i, enum way way)
{
	unsigned int page;
	struct file *f = where(v, i, &page);
	uint64_t data[PAGE / 8];
	char text[128];

	if (judge(v, i, way, false, transfer(at(v, i), data, PAGE, way, false))) {
		describe(v, i, text, sizeof(text));
		compare(f, page, data, text);
	}
}

/* Write sectors @from to @to, exclusive, of a page of a view. */
static void poke(const struct view *v, unsigned int i, enum way way,
		 unsigned int from, unsigned int to)
{
	unsigned int page, s;
	struct file *f = where(v, i, &page);
	uint64_t data[PAGE / 8];

	if (page >= end_page(f)) {
		/* or it shows once the file has grown */
		if (across_end(v, f, page))
			return;
	} else {
		to = min(to, f->size - page * SECTORS);
		if (from >= to)
			return;
	}
	for (s = 0; s < (to - from) * (SECTOR / 8); s++)
		data[s] = tag(f - files + 1, page * SECTORS + from +
			      s / (SECTOR / 8), version());
	if (judge(v, i, way, true,
		  transfer(at(v, i) + from * SECTOR, data, (to - from) * SECTOR,
			   way, true))) {
		soil(f, page);
		for (s = from; s < to; s++)
			f->page[page].version[s] = version();
	}
}

/* Read a file, which leaves holes alone. */
static void check_file(const struct file *f, unsigned int first, unsigned int nr)
{
	static uint64_t data[16 * PAGE / 8];
	char text[64];

	while (nr && !failed) {
		unsigned int n = min(nr, 16), sectors = 0;

		if (first * SECTORS < f->size)
			sectors = min(n * SECTORS, f->size - first * SECTORS);
		memset(data, 0, sizeof(data));
		if (!check(pread(f->fd, data, n * PAGE, first * PAGE) ==
			   sectors * SECTOR, "pread"))
			return;
		for (unsigned int i = 0; i * SECTORS < sectors; i++) {
			snprintf(text, sizeof(text), "pread page %u of file %ld",
				 first + i, f - files);
			compare(f, first + i, data + i * PAGE / 8, text);
		}
		first += n;
		nr -= n;
	}
}

/* Page tables: what they may have, and that they all have the same. */

static struct {
	unsigned long generation;
	uint64_t pfn;
} frames[MAX_FILES][MAX_PAGES];
static unsigned long generation;

static void check_tables(const struct view *v, unsigned int first,
			 unsigned int nr)
{
	static uint64_t entries[MAX_PAGES];
	char text[128];

	nr = min(nr, v->nr - first);
	if (!check(pread(pagemap, entries, nr * 8,
			 (uintptr_t)at(v, first) / PAGE * 8) == nr * 8,
		   "pagemap"))
		return;
	for (unsigned int i = first; i < first + nr; i++) {
		uint64_t entry = entries[i - first];
		const char *problem = NULL;
		unsigned int page;
		struct file *f;

		if (!(entry & PM_PRESENT))
			continue;
		f = where(v, i, &page);
		if (page >= end_page(f)) {
			if (!across_end(v, f, page))
				problem = "what is beyond the end";
		} else if (f->page[page].state == HOLE) {
			problem = "a hole";
		} else {
			typeof(**frames) *frame = &frames[f - files][page];

			if (frame->generation != generation) {
				frame->generation = generation;
				frame->pfn = PM_PFN(entry);
			} else if (frame->pfn != PM_PFN(entry)) {
				problem = "two pages at once";
			}
			learn_page(f, page);
		}
		if (problem) {
			describe(v, i, text, sizeof(text));
			wrong("%s is mapped: %s", problem, text);
			return;
		}
	}
}

/*
 * mincore() knows what the file has in memory, where that is mapped. Of a buffer it
 * knows what is mapped.
 */
static void check_mincore(const struct view *v)
{
	static unsigned char vec[MAX_PAGES], plain[MAX_FILES][MAX_PAGES];
	static uint64_t entries[MAX_PAGES];
	unsigned int i, page, told, known;
	struct file *f;
	char text[128];

	if (has_hugetlb(v))
		return;		/* those are only told of if mapped */
	if (!check(!mincore(v->addr, v->nr * PAGE, vec), "mincore"))
		return;
	if (fixed(v))
		memcpy(plain[v->file], vec, v->nr);
	if (!check(pread(pagemap, entries, v->nr * 8,
			 (uintptr_t)v->addr / PAGE * 8) == v->nr * 8, "pagemap"))
		return;
	for (i = 0; i < v->nr; i++) {
		f = where(v, i, &page);
		told = vec[i] & 1;
		known = plain[f - files][page] & 1;
		/* khugepaged may have unmapped some in between */
		if ((v->buf < 0 && told != known) || (told && !known) ||
		    (!told && entries[i] & PM_PRESENT) ||
		    (told && f->page[page].state == HOLE)) {
			describe(v, i, text, sizeof(text));
			wrong("mincore says %u: %s", told, text);
			return;
		}
	}
}

struct place {
	const struct view *v;
	unsigned int i;
};

/* Where a page of a file is mapped; NOALLOC buffers come first. */
static unsigned int find_places(unsigned int file, unsigned int page,
				struct place *places)
{
	unsigned int nr = 0;

	for (int pass = 0; pass < 2; pass++) {
		for (struct view *v = views; v < views + MAX_VIEWS; v++) {
			struct run whole = { file, 0, MAX_PAGES, 0 }, *run;
			unsigned int n = 1;

			if (!v->addr || noalloc(v) == pass ||
			    (v->buf < 0 && v->file != file))
				continue;
			run = &whole;
			if (v->buf >= 0) {
				run = buffers[v->buf].runs;
				n = buffers[v->buf].nr_runs;
			}
			for (; n--; run++) {
				unsigned int i = run->at + page - run->page;

				if (run->file == file && page >= run->page &&
				    page - run->page < run->nr &&
				    i >= v->first && i - v->first < v->nr &&
				    nr < MAX_PLACES)
					places[nr++] = (struct place){
						v, i - v->first
					};
			}
		}
	}
	return nr;
}

/* Look at a page everywhere; @fill: even if that fills a hole. */
static void look_everywhere(unsigned int file, unsigned int page, bool fill)
{
	struct place places[MAX_PLACES];
	unsigned int nr = find_places(file, page, places);
	struct file *f = &files[file];

	for (unsigned int i = 0; i < nr && !failed; i++)
		if (fill || noalloc(places[i].v) || f->page[page].state == DATA ||
		    page >= end_page(f))
			look(places[i].v, places[i].i, CPU);
}

static void check_sample(void)
{
	unsigned int nr, i, page, span = changed.last - changed.first + 1;
	bool fill = chance(40);
	struct view *v;
	struct file *f;

	generation++;
	for (v = views; v < views + MAX_VIEWS && !failed; v++)
		if (v->addr)
			check_tables(v, v->nr > 128 ? below(v->nr - 127) : 0, 128);

	nr = changed.any ? min(span, 4) : 0;
	for (i = 0; i < nr && !failed; i++) {
		page = changed.first + (span > 4 ? below(span) : i);
		f = &files[changed.file];
		if (page < f->pages) {
			look_everywhere(changed.file, page, fill);
			check_file(f, page, 1);
		}
	}
	for (i = 0; i < 4 && !failed; i++) {
		v = &views[below(MAX_VIEWS)];
		if (!v->addr)
			continue;
		nr = below(v->nr);
		f = where(v, nr, &page);
		if (noalloc(v) || f->page[page].state == DATA ||
		    page >= end_page(f))
			look(v, nr, below(NR_WAYS));
	}
}

static void check_everything(void)
{
	unsigned int page, i;
	struct view *v;
	struct file *f;

	generation++;
	/* before an access fetches pages from swap */
	for (v = views; v < views + MAX_VIEWS && !failed; v++) {
		if (!v->addr)
			continue;
		check_tables(v, 0, v->nr);
		check_mincore(v);
	}
	for (f = files; f < files + nr_files && !failed; f++)
		check_file(f, 0, f->pages);
	for (v = views; v < views + MAX_VIEWS && !failed; v++) {
		if (!v->addr)
			continue;
		for (i = 0; i < v->nr && !failed; i++) {
			f = where(v, i, &page);
			if (noalloc(v) || f->page[page].state == DATA)
				look(v, i, CPU);
		}
	}
}

/* Operations on a file */

static struct file *any_file(void)
{
	return &files[below(nr_files)];
}

/* A page, with a liking for where large folios begin. */
static unsigned int any_page(const struct file *f)
{
	if (f->pages >= HUGE_PAGES && chance(40))
		return below(f->pages / HUGE_PAGES) * HUGE_PAGES;
	return below(f->pages);
}

static unsigned int any_length(const struct file *f, unsigned int limit)
{
	static const unsigned int lengths[] = { 1, 1, 1, 2, 5, 16, 40 };
	unsigned int nr = lengths[below(7)];

	if (f->pages >= HUGE_PAGES && chance(40))
		nr = HUGE_PAGES;
	return min(nr, limit);
}

static void do_punch(void)
{
	struct file *f = any_file();
	unsigned int from = any_page(f);
	unsigned int to = from + any_length(f, f->pages - from);
	bool by_madvise = f->kind != HUGETLB && chance(20);
	char *addr = at(&views[f - files], from);

	from *= SECTORS;
	to *= SECTORS;
	if (!by_madvise && chance(15)) {
		from += below(SECTORS);
		to = max(from + 1, to - below(SECTORS));
	}
	say("%s file %ld, sectors %u to %u", by_madvise ? "remove" : "punch",
	    f - files, from, to);
	/* MADV_REMOVE refuses what is locked */
	if (by_madvise)
		check(!munlock(addr, (to - from) * SECTOR) &&
		      !madvise(addr, (to - from) * SECTOR, MADV_REMOVE),
		      "MADV_REMOVE");
	else
		check(!fallocate(f->fd,
				 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 from * SECTOR, (to - from) * SECTOR), "punch");
	discard(f, from, to);
}

static void do_truncate(void)
{
	struct file *f = any_file();
	unsigned int size = below(f->pages + 1) * SECTORS, old = f->size;

	if (chance(50))
		size = f->pages * SECTORS;
	else if (f->kind == HUGETLB || (f->kind == LARGE && chance(50)))
		size -= size % (HUGE_PAGES * SECTORS);
	else if (size && chance(30))
		size -= below(SECTORS);
	say("truncate file %ld to sector %u from %u", f - files, size, old);
	check(!ftruncate(f->fd, size * SECTOR), "ftruncate");
	if (size <= old || f->kind == HUGETLB)
		discard(f, size, MAX_PAGES * SECTORS);
	grow(f, size);
	f->size = size;
	note_change(f, min(size, old) / SECTORS, max(size, old) / SECTORS);
}

static void do_fallocate(void)
{
	struct file *f = any_file();
	unsigned int from = any_page(f), i;
	unsigned int nr = any_length(f, f->pages - from);
	bool keep = chance(50);

	if (f->kind == HUGETLB) {
		from -= from % HUGE_PAGES;
		nr = HUGE_PAGES;
	}
	say("fallocate file %ld, pages %u to %u%s", f - files, from, from + nr,
	    keep ? ", keep size" : "");
	check(!fallocate(f->fd, keep ? FALLOC_FL_KEEP_SIZE : 0, from * PAGE,
			 nr * PAGE), "fallocate");
	if (!keep)
		grow(f, (from + nr) * SECTORS);
	for (i = from; i < from + nr; i++)
		soil(f, i);
	note_change(f, from, from + nr - 1);
}

static void do_write(void)
{
	static uint64_t data[16 * PAGE / 8];
	struct file *f = any_file();
	unsigned int from = any_page(f), s;
	unsigned int to = from + min(any_length(f, f->pages - from), 16);

	if (f->kind == HUGETLB)
		return;		/* hugetlbfs cannot */
	from *= SECTORS;
	to *= SECTORS;
	if (chance(15)) {
		from += below(SECTORS);
		to = max(from + 1, to - below(SECTORS));
	}
	say("write file %ld, sectors %u to %u", f - files, from, to);
	for (s = 0; s < (to - from) * (SECTOR / 8); s++)
		data[s] = tag(f - files + 1, from + s / (SECTOR / 8), version());
	check(pwrite(f->fd, data, (to - from) * SECTOR, from * SECTOR) ==
	      (to - from) * SECTOR, "pwrite");
	grow(f, to);
	for (s = from; s < to; s++) {
		soil(f, s / SECTORS);
		f->page[s / SECTORS].version[s % SECTORS] = version();
	}
	note_change(f, from / SECTORS, (to - 1) / SECTORS);
}

static void do_read(void)
{
	struct file *f = any_file();
	unsigned int page = any_page(f);

	say("read file %ld, page %u", f - files, page);
	check_file(f, page, min(f->pages - page, 32));
}

/* Operations on views */

static struct view *any_view(bool may_be_fixed)
{
	struct view *v, *found[MAX_VIEWS];
	unsigned int nr = 0;

	for (v = views; v < views + MAX_VIEWS; v++)
		if (v->addr && (may_be_fixed || !fixed(v)))
			found[nr++] = v;
	return nr ? found[below(nr)] : NULL;
}

static struct view *free_view(unsigned int needed)
{
	struct view *v, *found = NULL;

	for (v = views + nr_files; v < views + MAX_VIEWS && needed; v++) {
		if (!v->addr) {
			found = v;
			needed--;
		}
	}
	return needed ? NULL : found;
}

static void pick_range(const struct view *v, unsigned int *first,
		       unsigned int *nr)
{
	unsigned int page;

	*first = 0;
	*nr = v->nr;
	if (chance(30))
		return;
	*first = below(v->nr);
	*nr = any_length(where(v, *first, &page), v->nr - *first);
}

/* Operations that change a part of a vma make it a view of its own. */
static struct view *isolate(struct view *v, unsigned int first, unsigned int nr)
{
	struct view *rest;

	if (!free_view(2))
		return v;
	if (first) {
		rest = free_view(1);
		*rest = *v;
		rest->nr = first;
		v->addr += first * PAGE;
		v->first += first;
		v->nr -= first;
	}
	if (nr < v->nr) {
		rest = free_view(1);
		*rest = *v;
		rest->addr += nr * PAGE;
		rest->first += nr;
		rest->nr -= nr;
		v->nr = nr;
	}
	return v;
}

/*
 * All pages of a view have been faulted in, or an unknown number of them until
 * the first one that is not there.
 */
static void populated(const struct view *v, unsigned int first, unsigned int nr,
		      bool all)
{
	unsigned int page;
	struct file *f;
	char text[128];

	if (!v->prot)
		return;
	for (unsigned int i = first; i < first + nr; i++) {
		f = where(v, i, &page);
		if (all && expectation(v, i) == FAULT) {
			describe(v, i, text, sizeof(text));
			wrong("faulted in %s (end %u, state %u)", text,
			      end_page(f), f->page[page].state);
		}
		if (page >= end_page(f))
			continue;
		if (all)
			touch(f, page);
		else if (!noalloc(v))
			maybe(f, page - page % HUGE_PAGES,
			      page | (HUGE_PAGES - 1));
	}
}

static bool all_fine(const struct view *v, unsigned int first, unsigned int nr)
{
	for (unsigned int i = first; i < first + nr; i++)
		if (expectation(v, i) != FINE)
			return false;
	return v->prot != PROT_NONE;
}

static void say_view(const char *what, const struct view *v, unsigned int first,
		     unsigned int nr)
{
	if (v->buf >= 0)
		say("%s view %ld, pages %u to %u of buffer %d", what, v - views,
		    v->first + first, v->first + first + nr, v->buf);
	else
		say("%s view %ld, pages %u to %u of file %u", what, v - views,
		    v->first + first, v->first + first + nr, v->file);
}

static void access_view(bool write)
{
	struct view *v = any_view(true);
	enum way way = chance(75) ? CPU : below(NR_WAYS);
	unsigned int i = below(v->nr), nr = min(1 + below(6), v->nr - i);
	unsigned int page, from = 0, to = SECTORS;
	struct file *f = where(v, i, &page);

	if (chance(15)) {
		from = below(SECTORS);
		to = from + 1 + below(SECTORS - from);
	}
	say_view(write ? "poke" : "look at", v, i, nr);
	note_change(f, page, page + nr - 1);
	for (; nr-- && !failed; i++) {
		if (write)
			poke(v, i, way, from, to);
		else
			look(v, i, way);
	}
}

static void do_look(void)
{
	access_view(false);
}

static void do_poke(void)
{
	access_view(true);
}

static void unmap_view(struct view *v)
{
	check(!munmap(v->addr, v->nr * PAGE), "munmap");
	v->addr = NULL;
}

static void do_munmap(void)
{
	struct view *v = any_view(false);
	unsigned int first, nr;

	if (!v)
		return;
	pick_range(v, &first, &nr);
	say_view("munmap", v, first, nr);
	unmap_view(isolate(v, first, nr));
}

/* Of a new mapping: returns the object's descriptor. */
static int pick_object(struct view *v)
{
	unsigned int i, pages;
	int fd;

	*v = (struct view){ .buf = below(MAX_BUFFERS) };
	if (chance(80) && buffers[v->buf].fd >= 0) {
		fd = buffers[v->buf].fd;
		pages = buffers[v->buf].pages;
	} else {
		v->buf = -1;
		v->file = below(nr_files);
		if (files[v->file].kind == HUGETLB)
			return -1;	/* its mappings have rules of their own */
		fd = files[v->file].fd;
		pages = files[v->file].pages;
	}
	v->nr = pages;
	if (chance(50)) {
		i = below(pages);
		v->first = i;
		v->nr = 1 + below(pages - i);
	}
	v->prot = chance(70) ? PROT_READ | PROT_WRITE : PROT_READ;
	return fd;
}

static void do_map(void)
{
	int flags = MAP_SHARED | (chance(20) ? MAP_POPULATE : 0);
	struct view *v = free_view(1), *old = NULL, new;
	int fd = pick_object(&new);
	char *addr = NULL;

	if (fd < 0)
		return;
	if (chance(30)) {
		/* over a part of another one */
		old = any_view(false);
		if (old && old->nr >= new.nr) {
			v = isolate(old, below(old->nr - new.nr + 1), new.nr);
			if (v->nr != new.nr)
				return;
			addr = v->addr;
			flags |= MAP_FIXED;
		}
	}
	if (!v)
		return;
	if (new.buf >= 0)
		say("map view %ld, pages %u to %u of buffer %d, flags %#x, prot %u",
		    v - views, new.first, new.first + new.nr, new.buf, flags,
		    new.prot);
	else
		say("map view %ld, pages %u to %u of file %u, flags %#x, prot %u",
		    v - views, new.first, new.first + new.nr, new.file, flags,
		    new.prot);
	if (rdonly(&new) && new.prot & PROT_WRITE) {
		addr = mmap(addr, new.nr * PAGE, new.prot, flags, fd,
			    new.first * PAGE);
		if (addr != MAP_FAILED || errno != EACCES)
			wrong("a read-only buffer mapped for writing");
		return;
	}
	new.addr = mmap(addr, new.nr * PAGE, new.prot, flags, fd,
			new.first * PAGE);
	if (!check(new.addr != MAP_FAILED, "mmap"))
		return;
	*v = new;
	if (flags & MAP_POPULATE)
		populated(v, 0, v->nr, false);
}

/* Some place for @pages, and as to huge pages anywhere. */
static char *free_address(unsigned int pages)
{
	size_t shift = below(2) * below(HUGE_PAGES) * PAGE;
	char *area = mmap(NULL, pages * PAGE + 2 * HUGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (!check(area != MAP_FAILED, "mmap"))
		return NULL;
	munmap(area, pages * PAGE + 2 * HUGE);
	return (char *)(((uintptr_t)area + HUGE - 1) & ~(HUGE - 1)) + shift;
}

static void do_move(void)
{
	struct view *v = any_view(false), *left = free_view(1);
	bool keep = left && chance(25);
	unsigned int nr;
	char *to, *addr;

	if (!v)
		return;
	nr = keep || chance(70) ? v->nr : 1 + below(v->nr);
	to = free_address(nr);
	say_view(keep ? "move away from" : "move", v, 0, nr);
	addr = mremap(v->addr, v->nr * PAGE, nr * PAGE, MREMAP_MAYMOVE |
		      MREMAP_FIXED | (keep ? MREMAP_DONTUNMAP : 0), to);
	if (!check(addr == to, "mremap"))
		return;
	if (keep) {
		*left = *v;
		left->locked = false;
	}
	v->addr = to;
	v->nr = nr;
}

/* A mapping that has grown past the end of its buffer shows nothing there. */
static void check_beyond(const struct view *v, char *addr)
{
	enum way way = below(NR_WAYS);
	bool write = chance(50);
	uint64_t data[SECTOR / 8] = {};
	int result = transfer(addr, data, SECTOR, way, write), expect = SIGBUS;

	if (write ? !(v->prot & PROT_WRITE) : !v->prot && way != PROC_MEM)
		expect = SIGSEGV;
	if (result != failure(way, expect))
		wrong("%s by %s past the end of a buffer: result %d",
		      write ? "write" : "read", way_name[way], result);
}

static void do_resize(void)
{
	struct view *v = any_view(false), *copy = free_view(1);
	unsigned int limit, nr, old;
	bool twice;
	char *addr;

	if (!v)
		return;
	limit = v->buf < 0 ? files[v->file].pages : buffers[v->buf].pages;
	limit -= v->first;
	nr = chance(50) ? 1 + below(v->nr) : v->nr + below(limit + 2 - v->nr);
	old = v->nr;
	if (nr > limit && v->buf < 0)
		return;
	/* without a size, mremap() makes a second mapping */
	twice = copy && chance(20);
	say_view(twice ? "map once more" : "resize", v, 0, nr);
	addr = mremap(v->addr, twice ? 0 : old * PAGE, nr * PAGE,
		      MREMAP_MAYMOVE);
	/* the kernel extends no special vma in place; it may have moved it */
	if (addr == MAP_FAILED && errno == ENOMEM && nr > old && !twice &&
	    has_hugetlb(v))
		return;
	if (!check(addr != MAP_FAILED, "mremap"))
		return;
	if (twice) {
		*copy = *v;
		v = copy;
		old = 0;
	}
	if (nr > limit) {
		check_beyond(v, addr + limit * PAGE);
		if (!check(!munmap(addr + limit * PAGE, (nr - limit) * PAGE),
			   "munmap"))
			return;
		nr = limit;
	}
	v->addr = addr;
	v->nr = nr;
	if (v->locked && nr > old)
		populated(v, old, nr - old, false);
}

static void do_mprotect(void)
{
	static const int prots[] = {
		PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
		PROT_READ | PROT_WRITE,
	};
	struct view *v = any_view(false);
	int prot = prots[below(4)];
	unsigned int first, nr;

	if (!v)
		return;
	pick_range(v, &first, &nr);
	v = isolate(v, first, nr);
	say_view(!prot ? "forbid" : prot & PROT_WRITE ? "permit" : "write-protect",
		 v, 0, v->nr);
	if (rdonly(v) && prot & PROT_WRITE) {
		if (!mprotect(v->addr, v->nr * PAGE, prot) || errno != EACCES)
			wrong("a read-only buffer made writable");
	} else if (check(!mprotect(v->addr, v->nr * PAGE, prot), "mprotect")) {
		v->prot = prot;
	}
}

static void do_mlock(void)
{
	struct view *v = any_view(true);
	unsigned int first, nr, how = below(4);
	int ret;

	/* which has no special vma locked, but populated at once */
	if (how == 2 && has_hugetlb(v))
		how = 3;
	pick_range(v, &first, &nr);
	if (!fixed(v)) {
		v = isolate(v, first, nr);
		first = 0;
		nr = v->nr;
	}
	if (how < 2) {
		say_view("munlock", v, first, nr);
		check(!munlock(at(v, first), nr * PAGE), "munlock");
		v->locked = false;
	} else if (how == 2) {
		say_view("mlock on fault", v, first, nr);
		check(!mlock2(at(v, first), nr * PAGE, MLOCK_ONFAULT), "mlock2");
		v->locked = false;
	} else {
		say_view("mlock", v, first, nr);
		/* a page that is not there does not undo the locking */
		ret = mlock(at(v, first), nr * PAGE);
		if (ret && (errno != ENOMEM || all_fine(v, first, nr)))
			check(false, "mlock");
		populated(v, first, nr, !ret);
		v->locked = true;
	}
}

static void do_populate(void)
{
	struct view *v = any_view(true);
	bool write = chance(50);
	unsigned int first, nr;
	int ret;

	pick_range(v, &first, &nr);
	say_view(write ? "populate for writing" : "populate", v, first, nr);
	ret = madvise(at(v, first), nr * PAGE, write ? MADV_POPULATE_WRITE :
						       MADV_POPULATE_READ);
	if (!ret && write && !(v->prot & PROT_WRITE))
		wrong("populated a mapping that is not writable");
	if (ret && (!write || v->prot & PROT_WRITE) && all_fine(v, first, nr))
		check(false, "MADV_POPULATE");
	if (!write || v->prot & PROT_WRITE)
		populated(v, first, nr, !ret);
}

/* Advice changes nothing of what is in a file, whether it is taken or not. */
static void do_advise(void)
{
	static const struct {
		const char *name;
		int advice;
	} advice[] = {
		{ "DONTNEED", MADV_DONTNEED },
		{ "DONTNEED", MADV_DONTNEED },
		{ "COLD", MADV_COLD },
		{ "WILLNEED", MADV_WILLNEED },
		{ "PAGEOUT", MADV_PAGEOUT },
		{ "HUGEPAGE", MADV_HUGEPAGE },
		{ "NOHUGEPAGE", MADV_NOHUGEPAGE },
	};
	unsigned int n = below(7), first, nr;
	struct view *v = any_view(true);

	pick_range(v, &first, &nr);
	if (advice[n].advice == MADV_HUGEPAGE ||
	    advice[n].advice == MADV_NOHUGEPAGE) {
		first = 0;
		nr = v->nr;
	}
	say_view(advice[n].name, v, first, nr);
	madvise(at(v, first), nr * PAGE, advice[n].advice);
	if (advice[n].advice == MADV_PAGEOUT)
		forget_clean();
}

/* To swap: pages that several mappings have are left alone, so only one has. */
static void do_pageout(void)
{
	struct file *f = any_file();
	unsigned int page = any_page(f), nr = any_length(f, f->pages - page);
	struct view *v;

	say("page out file %ld, pages %u to %u", f - files, page, page + nr);
	for (v = views; v < views + MAX_VIEWS; v++)
		if (v->addr && v != &views[f - files])
			madvise(v->addr, v->nr * PAGE, MADV_DONTNEED);
	v = &views[f - files];
	for (unsigned int i = page; i < page + nr && !failed; i += 16)
		if (f->page[i].state == DATA)
			look(v, i, CPU);
	madvise(at(v, page), nr * PAGE, MADV_PAGEOUT);
	forget_clean();
	note_change(f, page, page + nr - 1);
}

static void do_reclaim(void)
{
	say("reclaim");
	reclaim_cgroup(TEST_CGROUP, "512K swappiness=200");
	forget_clean();
}

static void do_migrate(void)
{
	struct view *v = any_view(true);
	unsigned int first, nr, i, page;
	int node = below(2), nodes[16], status[16];
	void *pages[16];
	struct file *f;

	pick_range(v, &first, &nr);
	nr = min(nr, 16);
	say_view(node ? "migrate to node 1" : "migrate to node 0", v, first, nr);
	for (i = 0; i < nr && !failed; i++) {
		f = where(v, first + i, &page);
		if (f->page[page].state == DATA)
			look(v, first + i, CPU);
		pages[i] = at(v, first + i);
		nodes[i] = node;
	}
	check(syscall(SYS_move_pages, 0, (unsigned long)nr, pages, nodes, status,
		      MPOL_MF_MOVE_ALL) >= 0, "move_pages");
	f = where(v, first, &page);
	note_change(f, page, page + nr - 1);
}

static struct file *large_file(unsigned int *first)
{
	struct file *f = any_file();

	if (f->kind != LARGE || f->pages < HUGE_PAGES)
		return NULL;
	*first = below(f->pages / HUGE_PAGES) * HUGE_PAGES;
	return f;
}

static void do_collapse(void)
{
	unsigned int first;
	struct file *f = large_file(&first);

	if (!f)
		return;
	say("collapse file %ld, from page %u", f - files, first);
	madvise(at(&views[f - files], first), HUGE, MADV_COLLAPSE);
	maybe(f, first, first + HUGE_PAGES - 1);
	note_change(f, first, first + HUGE_PAGES - 1);
}

static void do_split(void)
{
	unsigned int first;
	struct file *f = large_file(&first);
	char text[64], *addr;

	if (!f)
		return;
	addr = at(&views[f - files], first);
	say("split file %ld, from page %u", f - files, first);
	snprintf(text, sizeof(text), "%d,%p,%p", getpid(), addr, addr + HUGE);
	write_file("/sys/kernel/debug/split_huge_pages", text);
	note_change(f, first, first + HUGE_PAGES - 1);
}

/* Buffers */

static bool in_use(unsigned int buf)
{
	for (struct view *v = views; v < views + MAX_VIEWS; v++)
		if (v->addr && v->buf == buf)
			return true;
	return buffers[buf].fd >= 0;
}

static void do_create(void)
{
	struct memfd_dmabuf_range ranges[MAX_RUNS];
	unsigned int i, n, limit, buf = below(MAX_BUFFERS);
	struct buffer b = { .flags = below(2) * MEMFD_DMABUF_NOALLOC };
	bool beyond = false;

	if (in_use(buf))
		return;
	if (chance(25))
		b.flags |= MEMFD_DMABUF_RDONLY;
	n = chance(40) ? 1 : 1 + below(MAX_RUNS);
	for (i = 0; i < n; i++) {
		struct run *run = &b.runs[b.nr_runs];
		struct file *f = any_file();

		limit = end_page(f);
		run->file = f - files;
		run->page = any_page(f);
		run->nr = any_length(f, f->pages - run->page);
		if (n == 1 && chance(60)) {
			run->page = 0;
			run->nr = max(limit, 1);
		}
		/* seldom, but then the whole buffer is refused */
		if (run->page + run->nr > limit && chance(97))
			continue;
		if (b.pages + run->nr > MAX_PAGES)
			continue;
		beyond |= run->page + run->nr > limit;
		run->at = b.pages;
		ranges[b.nr_runs++] = range(f->fd, run->page, run->nr);
		b.pages += run->nr;
	}
	if (!b.nr_runs)
		return;
	say("create buffer %u of %u ranges, %u pages, flags %u", buf, b.nr_runs,
	    b.pages, b.flags);
	b.fd = create_flags(dev, MEMFD_DMABUF_CLOEXEC | b.flags, ranges,
			    b.nr_runs);
	if (beyond) {
		if (b.fd != -EINVAL)
			wrong("a range beyond the end of its file: %d", b.fd);
	} else if (b.fd < 0) {
		wrong("MEMFD_DMABUF_CREATE: %s", strerror(-b.fd));
	} else {
		buffers[buf] = b;
	}
}

static void do_close(void)
{
	struct buffer *b = &buffers[below(MAX_BUFFERS)];

	if (b->fd < 0)
		return;
	say("close buffer %ld", b - buffers);
	close(b->fd);
	b->fd = -1;
}

/* Children */

/* What a child does with what it has inherited. */
static void child_work(unsigned int part)
{
	if (!check(open_proc(), "/proc/self"))
		return;
	restart_random(part);
	for (int i = 0; i < 12 && !failed; i++) {
		struct view *v = any_view(true);
		unsigned int page, n = below(v->nr);
		struct file *f = where(v, n, &page);

		if (chance(50) && f->page[page].state == DATA)
			poke(v, n, CPU, 0, SECTORS);
		if (noalloc(v) || f->page[page].state == DATA)
			look(v, n, CPU);
	}
	changed.any = false;
	check_sample();
	close(proc_mem);
	close(pagemap);
}

static void do_fork(void)
{
	int status;
	pid_t pid;

	say("fork");
	pid = fork();
	if (!pid) {
		child_work(2);
		_exit(failed);
	}
	if (!check(pid > 0 && waitpid(pid, &status, 0) == pid, "fork"))
		return;
	if (status)
		wrong("in the child: status %#x", status);
}

static void child_main(int from_parent, int to_parent)
{
	unsigned long now;

	while (read(from_parent, &now, sizeof(now)) == sizeof(now)) {
		char ok;

		step = now;
		child_work(3);
		ok = !failed;
		if (write(to_parent, &ok, 1) != 1)
			break;
	}
	_exit(failed);
}

/* A child that stays, with the mappings of the time of its birth. */
static void start_child(void)
{
	int to[2], from[2];

	say("start a child");
	if (!check(!pipe2(to, O_CLOEXEC) && !pipe2(from, O_CLOEXEC), "pipe"))
		return;
	child.born = step;
	child.pid = fork();
	if (!child.pid) {
		close(to[1]);
		close(from[0]);
		child_main(to[0], from[1]);
	}
	check(child.pid > 0, "fork");
	close(to[0]);
	close(from[1]);
	child.to = to[1];
	child.from = from[0];
}

static void stop_child(void)
{
	int status;

	if (child.pid <= 0)
		return;
	close(child.to);
	close(child.from);
	if (check(waitpid(child.pid, &status, 0) == child.pid, "waitpid") &&
	    status)
		wrong("the child of step %lu: status %#x", child.born, status);
	child.pid = 0;
}

static void do_child(void)
{
	char ok = 0;

	if (!child.pid) {
		start_child();
	} else if (chance(25)) {
		say("stop the child");
		stop_child();
	} else {
		say("let the child work");
		if (write(child.to, &step, sizeof(step)) != sizeof(step) ||
		    read(child.from, &ok, 1) != 1 || !ok)
			wrong("in the child of step %lu", child.born);
	}
}

static const struct {
	void (*run)(void);
	unsigned int weight;
} operations[] = {
	{ do_punch, 12 },
	{ do_truncate, 5 },
	{ do_fallocate, 4 },
	{ do_write, 8 },
	{ do_read, 3 },
	{ do_look, 12 },
	{ do_poke, 14 },
	{ do_map, 8 },
	{ do_munmap, 5 },
	{ do_move, 3 },
	{ do_resize, 5 },
	{ do_mprotect, 5 },
	{ do_mlock, 3 },
	{ do_populate, 2 },
	{ do_advise, 5 },
	{ do_pageout, 5 },
	{ do_reclaim, 1 },
	{ do_migrate, 6 },
	{ do_collapse, 2 },
	{ do_split, 2 },
	{ do_create, 8 },
	{ do_close, 4 },
	{ do_fork, 1 },
	{ do_child, 3 },
};

static void do_step(void)
{
	unsigned int total = 0, i, n;

	for (i = 0; i < ARRAY_SIZE(operations); i++)
		total += operations[i].weight;
	restart_random(0);
	changed.any = false;
	n = below(total);
	for (i = 0; n >= operations[i].weight; i++)
		n -= operations[i].weight;
	operations[i].run();
	if (failed)
		return;
	restart_random(1);
	check_sample();
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

FIXTURE(model) {
	long free_huge_pages;
};

FIXTURE_VARIANT(model) {
	const char *shmem_enabled;
	const char *shmem_64k;		/* the same for this size of folios */
	unsigned int steps;
	unsigned int full_check;	/* after so many steps */
	struct {
		enum kind kind;
		unsigned int pages;
	} files[MAX_FILES];
};

FIXTURE_VARIANT_ADD(model, small_pages) {
	.shmem_enabled = "never",
	.shmem_64k = "never",
	.steps = 9000,
	.full_check = 100,
	.files = { { SMALL, 96 }, { SMALL, 64 } },
};

FIXTURE_VARIANT_ADD(model, large_folios) {
	.shmem_enabled = "never",
	.shmem_64k = "always",
	.steps = 3000,
	.full_check = 200,
	.files = { { LARGE, 192 }, { LARGE, 64 } },
};

FIXTURE_VARIANT_ADD(model, huge_pages) {
	.shmem_enabled = "always",
	.shmem_64k = "never",
	.steps = 3000,
	.full_check = 400,
	.files = { { LARGE, 2 * HUGE_PAGES + 100 }, { LARGE, HUGE_PAGES } },
};

FIXTURE_VARIANT_ADD(model, hugetlb) {
	.shmem_enabled = "never",
	.shmem_64k = "never",
	.steps = 2500,
	.full_check = 400,
	.files = { { HUGETLB, 3 * HUGE_PAGES }, { HUGETLB, HUGE_PAGES } },
};

FIXTURE_VARIANT_ADD(model, mixed) {
	.shmem_enabled = "advise",
	.shmem_64k = "inherit",
	.steps = 2500,
	.full_check = 400,
	.files = {
		{ LARGE, 96 }, { LARGE, 2 * HUGE_PAGES },
		{ HUGETLB, 2 * HUGE_PAGES },
	},
};

FIXTURE_SETUP(model)
{
	struct sigaction sa = {
		.sa_sigaction = on_fault,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};
	char text[32];

	ASSERT_EQ(0, sigaction(SIGBUS, &sa, NULL));
	ASSERT_EQ(0, sigaction(SIGSEGV, &sa, NULL));
	seed = number("SEED", 1);
	verbose = number("VERBOSE", 0);
	TH_LOG("SEED=%llu", (unsigned long long)seed);

	ASSERT_EQ(0, write_file(THP_DIR "shmem_enabled",
				variant->shmem_enabled));
	ASSERT_EQ(0, write_file(THP_DIR "hugepages-64kB/shmem_enabled",
				variant->shmem_64k));
	/* khugepaged would fill holes when it likes */
	ASSERT_EQ(0, write_file(THP_DIR "khugepaged/max_ptes_none", "0"));
	ASSERT_EQ(0, write_file("/proc/sys/vm/nr_hugepages", "16"));
	self->free_huge_pages = read_key("/proc/meminfo", "HugePages_Free:");
	ASSERT_LE(12, self->free_huge_pages);
	ASSERT_EQ(0, write_file(CGROUP_DIR "cgroup.subtree_control", "+memory"));
	ASSERT_TRUE(!mkdir(TEST_CGROUP, 0755) || errno == EEXIST);
	snprintf(text, sizeof(text), "%d", getpid());
	ASSERT_EQ(0, write_file(TEST_CGROUP "cgroup.procs", text));

	ASSERT_TRUE(open_proc());
	dev = open_device();
	ASSERT_LE(0, dev);
	files = mmap(NULL, MAX_FILES * sizeof(*files), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, files);
	for (unsigned int i = 0; i < MAX_BUFFERS; i++)
		buffers[i].fd = -1;
	for (nr_files = 0; nr_files < MAX_FILES; nr_files++) {
		struct view *v = &views[nr_files];
		struct file *f = &files[nr_files];

		f->kind = variant->files[nr_files].kind;
		if (f->kind == NONE)
			break;
		f->pages = variant->files[nr_files].pages;
		f->size = f->pages * SECTORS;
		f->fd = memfd_create("memfd_dmabuf model", MFD_CLOEXEC |
				     MFD_ALLOW_SEALING |
				     (f->kind == HUGETLB ? MFD_HUGETLB : 0));
		ASSERT_LE(0, f->fd);
		ASSERT_EQ(0, ftruncate(f->fd, f->pages * PAGE));
		*v = (struct view){
			.addr = map_shared(f->fd, f->pages),
			.buf = -1,
			.file = nr_files,
			.nr = f->pages,
			.prot = PROT_READ | PROT_WRITE,
		};
		ASSERT_NE(MAP_FAILED, v->addr);
	}
}

FIXTURE_TEARDOWN(model)
{
	char text[32];

	snprintf(text, sizeof(text), "%d", getpid());
	write_file(CGROUP_DIR "cgroup.procs", text);
	rmdir(TEST_CGROUP);
	write_file("/proc/sys/vm/nr_hugepages", "0");
	write_file(THP_DIR "khugepaged/max_ptes_none", "511");
	write_file(THP_DIR "shmem_enabled", "never");
	write_file(THP_DIR "hugepages-64kB/shmem_enabled", "never");
}

TEST_F_TIMEOUT(model, random, 30 * 24 * 3600)
{
	unsigned long steps = number("STEPS", variant->steps);
	unsigned int i;

	for (step = 1; !failed && (!steps || step <= steps); step++) {
		do_step();
		if (!failed && (step % variant->full_check == 0 || step == steps))
			check_everything();
	}
	stop_child();
	EXPECT_FALSE(failed);

	/* nothing is left behind: not writers, nor huge pages or reservations */
	for (struct view *v = views; v < views + MAX_VIEWS; v++)
		if (v->addr)
			unmap_view(v);
	for (i = 0; i < MAX_BUFFERS; i++)
		if (buffers[i].fd >= 0)
			close(buffers[i].fd);
	for (i = 0; i < nr_files; i++) {
		EXPECT_EQ(0, fcntl(files[i].fd, F_ADD_SEALS, F_SEAL_WRITE));
		close(files[i].fd);
	}
	EXPECT_EQ(self->free_huge_pages,
		  read_key("/proc/meminfo", "HugePages_Free:"));
	EXPECT_EQ(0, read_key("/proc/meminfo", "HugePages_Rsvd:"));
}

TEST_HARNESS_MAIN

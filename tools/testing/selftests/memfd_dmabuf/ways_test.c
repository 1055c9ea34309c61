// SPDX-License-Identifier: GPL-2.0
/*
 * Every way the kernel touches a mapping: what an operation does to a plain
 * shared mapping of a memfd it does to the mapping of a buffer.
 *
 * Each test takes its steps on two areas of equal contents, a plain mapping and
 * a buffer's, and takes NOTE() of what comes of them: a value, or -errno. The
 * teardown compares the notes of the two areas. Where a difference is right,
 * EXPECT_DIFFERENT() has both outcomes, and the comment above it the reason.
 */
#include "common.h"

#include <liburing.h>
#include <limits.h>
#include <linux/elf.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "../../../../mm/gup_test.h"
#include "harness.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP	4
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED	24
#endif

#define FILE_PAGES	64
#define NR		24
#define LEN		(NR * PAGE)
#define HUGE_PAGES	512UL
#define ROOM		(HUGE_PAGES * PAGE)
#define RW		(PROT_READ | PROT_WRITE)
#define NOTES		1024

#define FAULT_AROUND	"/sys/kernel/debug/fault_around_bytes"

#define PM_FILE		0x2000000000000000ULL
#define PM_UFFD_WP	0x0200000000000000ULL
#define PM_EXCLUSIVE	0x0100000000000000ULL

struct note {
	const char *what;
	long value;
};

struct area {
	bool buffer;
	int file;		/* the memfd */
	int fd;			/* what @map maps: the memfd, or the buffer */
	char *owner;		/* mapping of all of the memfd */
	char *room;		/* addresses around @map that nobody else takes */
	char *map;		/* the first NR pages of @fd */
	struct memfd_dmabuf_range pages[NR]; /* page i of @map in the memfd */
	unsigned int notes;
	struct note note[NOTES];
};

FIXTURE(ways) {
	int dev;
	struct area *area;	/* plain, buffer; shared with children */
};

FIXTURE_VARIANT(ways) {
	bool in_order;
};

FIXTURE_VARIANT_ADD(ways, scattered) { .in_order = false };
FIXTURE_VARIANT_ADD(ways, one_run) { .in_order = true };

#define for_each_area(a) \
	for (struct area *(a) = self->area; (a) < self->area + 2; (a)++)

/* The value of an expression, or what went wrong with it. */
#define RESULT(expr) ({							\
	long _result = (long)(expr);					\
	_result == -1 ? -errno : _result; })

/* For system calls that return an address. */
#define MAPPED(addr)	((addr) == MAP_FAILED ? -1 : 0)

/* Keep what comes of a step, to be compared with the other area's. */
#define NOTE(a, expr)	note(a, #expr, RESULT(expr))

#define EXPECT_DIFFERENT(a, on_plain, on_buffer, expr) \
	EXPECT_EQ((a)->buffer ? (on_buffer) : (on_plain), RESULT(expr))

static long note(struct area *a, const char *what, long value)
{
	if (a->notes == NOTES)
		abort();
	a->note[a->notes++] = (struct note){ what, value };
	return value;
}

static void compare_notes(struct __test_metadata *_metadata,
			  const struct area *plain, const struct area *buffer)
{
	EXPECT_NE(0, plain->notes);
	ASSERT_EQ(plain->notes, buffer->notes);
	for (unsigned int i = 0; i < plain->notes; i++) {
		ASSERT_STREQ(plain->note[i].what, buffer->note[i].what);
		EXPECT_EQ(plain->note[i].value, buffer->note[i].value) {
			TH_LOG("differs from plain, note %u: %s", i,
			       plain->note[i].what);
		}
	}
}

static char *at(const struct area *a, unsigned int i)
{
	return a->map + i * PAGE;
}

static unsigned int file_page(const struct area *a, unsigned int i)
{
	return a->pages[i].offset / PAGE;
}

static char *owner_at(const struct area *a, unsigned int i)
{
	return a->owner + file_page(a, i) * PAGE;
}

static char *reserve(void)
{
	char *addr = mmap(NULL, 2 * ROOM, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (addr == MAP_FAILED)
		return addr;
	return (char *)(((uintptr_t)addr + ROOM - 1) & ~(ROOM - 1));
}

static int run_on(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

/* What has been read back. */
static uint64_t data[LEN / 8];

static sigjmp_buf touch_jump;
static siginfo_t touch_info;

static void touch_handler(int sig, siginfo_t *info, void *context)
{
	touch_info = *info;
	siglongjmp(touch_jump, 1);
}

/* Access a byte: 0, or the signal and its code. */
static int touch(char *addr, bool write)
{
	if (sigsetjmp(touch_jump, 1)) {
		if (touch_info.si_addr != addr)
			return INT_MAX;
		return touch_info.si_signo << 8 | touch_info.si_code;
	}
	if (write)
		POKE(addr, 1);
	else
		PEEK(addr);
	return 0;
}

FIXTURE_SETUP(ways)
{
	struct sigaction sa = {
		.sa_sigaction = touch_handler,
		.sa_flags = SA_SIGINFO,
	};
	struct area *plain, *buffer;

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	/* Fresh pages are in a list of their processor, seen by it only. */
	ASSERT_EQ(0, run_on(0));
	/* A buffer fills page tables anyway: so the plain mapping does, too. */
	ASSERT_EQ(0, write_file(FAULT_AROUND, "2097152"));

	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	self->area = mmap(NULL, 2 * sizeof(*self->area), RW,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->area);
	plain = &self->area[0];
	buffer = &self->area[1];
	buffer->buffer = true;
	for_each_area(a) {
		a->file = new_memfd(FILE_PAGES);
		ASSERT_LE(0, a->file);
	}
	for (unsigned int i = 0; i < NR; i++) {
		plain->pages[i] = range(plain->file, i, 1);
		buffer->pages[i] = range(buffer->file, variant->in_order ?
					 i + 3 : i * 37 % 61 + 1, 1);
	}
	plain->fd = plain->file;
	buffer->fd = create(self->dev, buffer->pages, NR);
	ASSERT_LE(0, buffer->fd);
	for_each_area(a) {
		a->owner = map_shared(a->file, FILE_PAGES);
		ASSERT_NE(MAP_FAILED, a->owner);
		a->room = reserve();
		ASSERT_NE(MAP_FAILED, a->room);
		a->map = a->room + 16 * PAGE;
		ASSERT_EQ(a->map, mmap(a->map, LEN, RW, MAP_SHARED | MAP_FIXED,
				       a->fd, 0));
	}
}

FIXTURE_TEARDOWN(ways)
{
	write_file(FAULT_AROUND, "65536");
	compare_notes(_metadata, &self->area[0], &self->area[1]);
}

/* Write a version of the area's pages to the file; no mapping takes part. */
#define fill(a, version) do {						\
	for (unsigned int _i = 0; _i < NR; _i++) {			\
		ASSERT_TRUE(write_page((a)->file, file_page(a, _i),	\
				       tag(1, _i, version)));		\
	}								\
} while (0)

/* How many pages at @map are that version of the area's from @first on. */
static int shows_from(const void *map, unsigned int first, unsigned int nr,
		      unsigned int version)
{
	int n = 0;

	for (unsigned int i = 0; i < nr; i++)
		n += page_is(map + i * PAGE, tag(1, first + i, version));
	return n;
}

static int shows(const void *map, unsigned int version)
{
	return shows_from(map, 0, NR, version);
}

static int zeros(const void *map, unsigned int nr)
{
	int n = 0;

	for (unsigned int i = 0; i < nr; i++)
		n += page_is(map + i * PAGE, 0);
	return n;
}

/* Pages that have a bit set in /proc/self/pagemap. */
static int pagemap_bits(const char *map, unsigned int nr, uint64_t bit)
{
	int n = 0;

	for (unsigned int i = 0; i < nr; i++)
		n += !!(pagemap_entry(map + i * PAGE) & bit);
	return n;
}

static int present(const char *map, unsigned int nr)
{
	return pagemap_bits(map, nr, PM_PRESENT);
}

static int incore(char *map, unsigned int nr)
{
	unsigned char vec[FILE_PAGES];
	int n = 0;

	if (mincore(map, nr * PAGE, vec))
		return -1;
	for (unsigned int i = 0; i < nr; i++)
		n += vec[i] & 1;
	return n;
}

static int punch_all(const struct area *a)
{
	return punch(a->file, 0, FILE_PAGES);
}

/* The file or the buffer once more, not to be written through. */
static int open_rdonly(int dev, struct area *a)
{
	char path[64];

	if (a->buffer)
		return create_flags(dev, MEMFD_DMABUF_CLOEXEC |
				    MEMFD_DMABUF_RDONLY, a->pages, NR);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", a->file);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static char *map_rdonly(int dev, struct area *a)
{
	int fd = open_rdonly(dev, a);
	char *map = mmap(NULL, LEN, PROT_READ, MAP_SHARED, fd, 0);

	close(fd);
	return map;
}

/* The vmas that have a piece of these addresses. */
static int count_vmas(const char *addr, unsigned long len)
{
	unsigned long start, end, from = (uintptr_t)addr;
	FILE *f = fopen("/proc/self/maps", "re");
	int n = 0;

	if (!f)
		return -1;
	while (fscanf(f, "%lx-%lx%*[^\n]", &start, &end) == 2)
		n += start < from + len && end > from;
	fclose(f);
	return n;
}

/* The number in a line "key: number" of a file in /proc, or -1. */
static long proc_value(FILE *f, const char *key)
{
	char line[512];
	long value = -1;

	while (f && value < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			sscanf(line + strlen(key), ": %ld", &value);
	if (f)
		fclose(f);
	return value;
}

static long locked_kb(void)
{
	return proc_value(fopen("/proc/self/status", "re"), "VmLck");
}

/* /proc/self/smaps at the first line about the vma that starts at @map. */
static FILE *open_smaps(const char *map)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long start, end;
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2 &&
		    start == (uintptr_t)map)
			return f;
	if (f)
		fclose(f);
	return NULL;
}

static long smaps_kb(const char *map, const char *key)
{
	return proc_value(open_smaps(map), key);
}

/*
 * All that smaps knows. A buffer has its ->mmap asked before the new mapping is
 * merged, which takes the flag "nr"; and it never gets "me".
 */
static void note_smaps(struct area *a)
{
	FILE *f = open_smaps(a->map);
	unsigned long start, end;
	char line[512], *flag;

	if (!f) {
		note(a, "smaps", -ENOENT);
		return;
	}
	while (fgets(line, sizeof(line), f) &&
	       sscanf(line, "%lx-%lx ", &start, &end) != 2) {
		if (!strncmp(line, "VmFlags:", 8)) {
			flag = strstr(line, a->buffer ? " nr" : " me");
			if (flag)
				memmove(flag, flag + 3, strlen(flag + 3) + 1);
		}
		note(a, strdup(line), 0);
	}
	fclose(f);
}

/* What numa_maps knows, but for the address and the name of the file. */
static void note_numa_maps(struct area *a)
{
	FILE *f = fopen("/proc/self/numa_maps", "re");
	char line[512], policy[128];
	unsigned long start;
	int skip, found = 0;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx %127s file=%*s%n", &start, policy,
			   &skip) != 2 || start != (uintptr_t)a->map)
			continue;
		note(a, strdup(policy), 0);
		note(a, strdup(line + skip), 0);
		found = 1;
	}
	if (f)
		fclose(f);
	note(a, "numa_maps", found);
}

/* Without swap reclaim proves nothing. */
static void need_swap(struct __test_metadata *_metadata)
{
	char line[256];
	int lines = 0;
	FILE *f = fopen("/proc/swaps", "re");

	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f))
		lines++;
	fclose(f);
	ASSERT_LT(1, lines) TH_LOG("this test needs swap space");
}

static void need_node1(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, access("/sys/devices/system/node/node1", F_OK))
		TH_LOG("this test needs two NUMA nodes");
}

TEST_F(ways, map_populate)
{
	const int prots[] = { PROT_READ, RW };

	for_each_area(a) {
		for (int i = 0; i < 2; i++) {
			char *map;

			/* holes */
			map = mmap(NULL, LEN, prots[i],
				   MAP_SHARED | MAP_POPULATE, a->fd, 0);
			ASSERT_NE(MAP_FAILED, map);
			NOTE(a, present(map, NR));
			NOTE(a, resident(a->file, FILE_PAGES));
			NOTE(a, shows(map, 1));
			munmap(map, LEN);

			fill(a, 1);
			map = mmap(NULL, LEN, prots[i],
				   MAP_SHARED | MAP_POPULATE, a->fd, 0);
			ASSERT_NE(MAP_FAILED, map);
			EXPECT_EQ(NR, NOTE(a, present(map, NR)));
			NOTE(a, shows(map, 1));
			munmap(map, LEN);
			map = mmap(NULL, LEN, prots[i], MAP_SHARED |
				   MAP_POPULATE | MAP_NONBLOCK, a->fd, 0);
			ASSERT_NE(MAP_FAILED, map);
			NOTE(a, present(map, NR));
			munmap(map, LEN);
			ASSERT_EQ(0, punch_all(a));
		}
		/* all of it past the end of the file */
		ASSERT_EQ(0, ftruncate(a->file, 0));
		NOTE(a, MAPPED(mmap(a->map, LEN, RW, MAP_SHARED | MAP_FIXED |
				    MAP_POPULATE, a->fd, 0)));
		NOTE(a, present(a->map, NR));
	}
}

TEST_F(ways, madv_populate)
{
	const int advices[] = { MADV_POPULATE_READ, MADV_POPULATE_WRITE };

	for_each_area(a) {
		for (int i = 0; i < 2; i++) {
			NOTE(a, madvise(at(a, 4), 4 * PAGE, advices[i]));
			NOTE(a, resident(a->file, FILE_PAGES));
			NOTE(a, present(a->map, NR));
			fill(a, 1);
			NOTE(a, madvise(a->map, LEN, advices[i]));
			EXPECT_EQ(NR, NOTE(a, present(a->map, NR)));
			NOTE(a, shows(a->map, 1));
			ASSERT_EQ(0, punch_all(a));
			/* into the addresses behind the mapping */
			NOTE(a, madvise(a->map, LEN + PAGE, advices[i]));
			NOTE(a, present(a->map, NR));

			ASSERT_EQ(0, mprotect(at(a, 8), PAGE, PROT_READ));
			NOTE(a, madvise(a->map, LEN, advices[i]));
			ASSERT_EQ(0, mprotect(at(a, 8), PAGE, PROT_NONE));
			NOTE(a, madvise(a->map, LEN, advices[i]));
			ASSERT_EQ(0, mprotect(at(a, 8), PAGE, RW));

			ASSERT_EQ(0, ftruncate(a->file, 0));
			NOTE(a, madvise(a->map, LEN, advices[i]));
			ASSERT_EQ(0, ftruncate(a->file, FILE_PAGES * PAGE));
		}
	}
}

TEST_F_TIMEOUT(ways, madvise, 120)
{
#define ADVICE(name) { MADV_##name, "MADV_" #name }
	static const struct {
		int advice;
		const char *name;
	} advices[] = {
		ADVICE(NORMAL), ADVICE(RANDOM), ADVICE(SEQUENTIAL),
		ADVICE(WILLNEED), ADVICE(DONTNEED), ADVICE(DONTNEED_LOCKED),
		ADVICE(FREE), ADVICE(DONTFORK), ADVICE(DOFORK),
		ADVICE(WIPEONFORK), ADVICE(KEEPONFORK), ADVICE(MERGEABLE),
		ADVICE(UNMERGEABLE), ADVICE(HUGEPAGE), ADVICE(NOHUGEPAGE),
		ADVICE(COLLAPSE), ADVICE(DONTDUMP), ADVICE(DODUMP),
		ADVICE(COLD), ADVICE(PAGEOUT),
	};
#undef ADVICE

	need_swap(_metadata);
	for_each_area(a) {
		for (unsigned int i = 0; i < ARRAY_SIZE(advices); i++) {
			int version = i + 1;

			fill(a, version);
			ASSERT_EQ(NR, shows(a->map, version));
			note(a, advices[i].name,
			     RESULT(madvise(a->map, LEN, advices[i].advice)));
			NOTE(a, present(a->map, NR));
			NOTE(a, resident(a->file, FILE_PAGES));
			NOTE(a, shows(a->map, version));
			NOTE(a, count_vmas(a->map, LEN));
		}
		/* the last one had worked */
		fill(a, 100);
		ASSERT_EQ(NR, shows(a->map, 100));
		ASSERT_EQ(0, madvise(a->map, LEN, MADV_PAGEOUT));
		EXPECT_EQ(0, NOTE(a, resident(a->file, FILE_PAGES)));
		NOTE(a, shows(a->map, 100));
		/* of a part */
		NOTE(a, madvise(at(a, 4), 4 * PAGE, MADV_DONTNEED));
		EXPECT_EQ(NR - 4, NOTE(a, present(a->map, NR)));
		NOTE(a, madvise(at(a, 4), 4 * PAGE, MADV_DONTFORK));
		NOTE(a, count_vmas(a->map, LEN));
		NOTE(a, madvise(at(a, 4), 4 * PAGE, MADV_DOFORK));
		NOTE(a, count_vmas(a->map, LEN));
		NOTE(a, madvise(a->map + 1, PAGE, MADV_DONTNEED));
		NOTE(a, madvise(a->map, LEN + PAGE, MADV_DONTFORK));
		NOTE(a, madvise(a->map, LEN, 12345));
	}
}

TEST_F(ways, madv_remove)
{
	for_each_area(a) {
		char *ro = map_rdonly(self->dev, a);

		ASSERT_NE(MAP_FAILED, ro);
		fill(a, 1);
		NOTE(a, shows(a->map, 1));
		NOTE(a, madvise(ro, LEN, MADV_REMOVE));
		ASSERT_EQ(0, mlock(a->map, LEN));
		NOTE(a, madvise(a->map, LEN, MADV_REMOVE));
		ASSERT_EQ(0, munlock(a->map, LEN));
		/*
		 * Not through a buffer: what there is of the file is for its
		 * owner to say, a consumer reads and writes. A dma-buf is not
		 * a regular file, hence the error.
		 */
		EXPECT_DIFFERENT(a, 0, -ENODEV,
				 madvise(a->map, LEN, MADV_REMOVE));
		EXPECT_DIFFERENT(a, 0, NR, shows(a->map, 1));
	}
}

TEST_F(ways, madv_willneed)
{
	need_swap(_metadata);
	for_each_area(a) {
		fill(a, 1);
		ASSERT_EQ(NR, shows(a->map, 1));
		ASSERT_EQ(0, madvise(a->map, LEN, MADV_PAGEOUT));
		ASSERT_EQ(0, resident(a->file, FILE_PAGES));
		NOTE(a, madvise(a->map, LEN, MADV_WILLNEED));
		/*
		 * Advice only: the dma-buf's own file has nothing in swap.
		 * MADV_POPULATE_READ brings pages in.
		 */
		EXPECT_DIFFERENT(a, NR, 0, resident(a->file, FILE_PAGES));
		NOTE(a, madvise(a->map, LEN, MADV_POPULATE_READ));
		EXPECT_EQ(NR, NOTE(a, resident(a->file, FILE_PAGES)));
		NOTE(a, shows(a->map, 1));
	}
}

/*
 * A range that one huge page could back. In a file's own mapping MADV_COLLAPSE
 * makes it one; the buffer follows.
 */
TEST_F_TIMEOUT(ways, madv_collapse, 120)
{
	for_each_area(a) {
		const unsigned int pages[] = { 0, 100, HUGE_PAGES - 1 };
		struct memfd_dmabuf_range r;
		int file = new_memfd(HUGE_PAGES);
		char *owner = reserve(), *map = reserve();
		int fd = file;

		ASSERT_LE(0, file);
		r = range(file, 0, HUGE_PAGES);
		if (a->buffer)
			fd = create(self->dev, &r, 1);
		ASSERT_LE(0, fd);
		ASSERT_EQ(owner, mmap(owner, ROOM, RW, MAP_SHARED | MAP_FIXED,
				      file, 0));
		ASSERT_EQ(map, mmap(map, ROOM, RW, MAP_SHARED | MAP_FIXED, fd,
				    0));
		ASSERT_EQ(0, fallocate(file, 0, 0, ROOM));
		for (int i = 0; i < 3; i++) {
			fill_page(map + pages[i] * PAGE, tag(1, pages[i], 1));
		}
		/*
		 * To collapse is to change the file, and khugepaged does that
		 * where it can see which pages are neighbours: in mappings of
		 * the file itself.
		 */
		EXPECT_DIFFERENT(a, 0, -EINVAL,
				 madvise(map, ROOM, MADV_COLLAPSE));
		NOTE(a, madvise(owner, ROOM, MADV_COLLAPSE));
		EXPECT_LT(0, smaps_kb(owner, "ShmemPmdMapped"));
		for (int i = 0; i < 3; i++) {
			NOTE(a, page_is(map + pages[i] * PAGE,
					tag(1, pages[i], 1)));
		}
		ASSERT_EQ(0, punch(file, 0, HUGE_PAGES));
		NOTE(a, zeros(map, 1));
	}
}

TEST_F(ways, msync)
{
	for_each_area(a) {
		fill(a, 1);
		NOTE(a, shows(a->map, 1));
		NOTE(a, msync(a->map, LEN, MS_ASYNC));
		NOTE(a, msync(a->map, LEN, MS_INVALIDATE));
		/*
		 * A dma-buf is not a file that could be written to a disk:
		 * none of them has fsync(), whoever exports it.
		 */
		EXPECT_DIFFERENT(a, 0, -EINVAL, msync(a->map, LEN, MS_SYNC));
	}
}

TEST_F(ways, mlock)
{
	for_each_area(a) {
		char *ro = map_rdonly(self->dev, a), *map;

		ASSERT_NE(MAP_FAILED, ro);
		NOTE(a, mlock(a->map, LEN));
		EXPECT_EQ(LEN / 1024, NOTE(a, locked_kb()));
		EXPECT_EQ(NR, NOTE(a, present(a->map, NR)));
		NOTE(a, smaps_kb(a->map, "Locked"));
		NOTE(a, madvise(a->map, LEN, MADV_DONTNEED));
		NOTE(a, madvise(a->map, LEN, MADV_COLD));
		NOTE(a, madvise(a->map, LEN, MADV_PAGEOUT));
		NOTE(a, msync(a->map, LEN, MS_INVALIDATE));
		NOTE(a, present(a->map, NR));

		/* The owner may punch what somebody else has locked. */
		NOTE(a, punch_all(a));
		NOTE(a, present(a->map, NR));
		fill(a, 1);
		NOTE(a, shows(a->map, 1));

		/* a part, and back to one piece */
		NOTE(a, munlock(at(a, 4), 8 * PAGE));
		NOTE(a, locked_kb());
		NOTE(a, count_vmas(a->map, LEN));
		NOTE(a, smaps_kb(at(a, 12), "Locked"));
		NOTE(a, munlock(a->map, LEN));
		EXPECT_EQ(0, NOTE(a, locked_kb()));
		NOTE(a, count_vmas(a->map, LEN));
		NOTE(a, smaps_kb(a->map, "Locked"));

		/* as pages come */
		ASSERT_EQ(0, punch_all(a));
		NOTE(a, mlock2(a->map, LEN, MLOCK_ONFAULT));
		NOTE(a, locked_kb());
		NOTE(a, present(a->map, NR));
		NOTE(a, resident(a->file, FILE_PAGES));
		NOTE(a, touch(at(a, 5), true));
		NOTE(a, present(a->map, NR));
		NOTE(a, smaps_kb(a->map, "Locked"));
		NOTE(a, munlock(a->map, LEN));

		NOTE(a, mlock(ro, LEN));
		NOTE(a, locked_kb());
		NOTE(a, present(ro, NR));
		NOTE(a, munlock(ro, LEN));

		map = mmap(NULL, LEN, RW, MAP_SHARED | MAP_LOCKED, a->fd, 0);
		ASSERT_NE(MAP_FAILED, map);
		NOTE(a, locked_kb());
		NOTE(a, present(map, NR));
		NOTE(a, munmap(map, LEN));
		NOTE(a, locked_kb());

		ASSERT_EQ(0, ftruncate(a->file, 0));
		NOTE(a, mlock(a->map, LEN));
		NOTE(a, locked_kb());
		NOTE(a, munlock(a->map, LEN));
	}
}

/* Reclaim takes neighbours and leaves locked pages, until they are unlocked. */
TEST_F_TIMEOUT(ways, mlock_reclaim, 120)
{
	const char *dir = "/sys/fs/cgroup/memfd_dmabuf.ways";
	char path[128], pid[32];
	long left;

	need_swap(_metadata);
	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	ASSERT_TRUE(!mkdir(dir, 0755) || errno == EEXIST);
	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	snprintf(pid, sizeof(pid), "%d", getpid());
	ASSERT_EQ(0, write_file(path, pid));

	for_each_area(a) {
		fill(a, 1);
		ASSERT_EQ(NR, shows(a->map, 1));
		NOTE(a, mlock(a->map, 8 * PAGE));
	}
	for (int i = 0; i < 50; i++) {
		reclaim_cgroup(dir, "1M swappiness=200");
		left = 0;
		for_each_area(a)
			left += incore(at(a, 8), NR - 8);
		if (!left)
			break;
	}
	EXPECT_EQ(0, left);
	for_each_area(a) {
		EXPECT_EQ(8, NOTE(a, present(a->map, NR)));
		NOTE(a, resident(a->file, FILE_PAGES));
		NOTE(a, munlock(a->map, 8 * PAGE));
	}
	for (int i = 0; i < 50; i++) {
		reclaim_cgroup(dir, "1M swappiness=200");
		left = 0;
		for_each_area(a)
			left += resident(a->file, FILE_PAGES);
		if (!left)
			break;
	}
	EXPECT_EQ(0, left);
	for_each_area(a)
		NOTE(a, shows(a->map, 1));
	ASSERT_EQ(0, write_file("/sys/fs/cgroup/cgroup.procs", pid));
	EXPECT_EQ(0, rmdir(dir));
}

TEST_F(ways, mprotect)
{
	for_each_area(a) {
		int fd = open_rdonly(self->dev, a);
		char *ro;

		fill(a, 1);
		NOTE(a, shows(a->map, 1));
		NOTE(a, mprotect(a->map, LEN, PROT_READ));
		NOTE(a, present(a->map, NR));
		NOTE(a, touch(at(a, 2), true));
		fill(a, 2);
		NOTE(a, shows(a->map, 2));

		NOTE(a, mprotect(at(a, 8), 8 * PAGE, PROT_NONE));
		NOTE(a, count_vmas(a->map, LEN));
		NOTE(a, touch(at(a, 9), false));
		ASSERT_EQ(0, punch_all(a));
		fill(a, 3);
		NOTE(a, mprotect(a->map, LEN, RW));
		EXPECT_EQ(1, NOTE(a, count_vmas(a->map, LEN)));
		NOTE(a, shows(a->map, 3));
		NOTE(a, touch(at(a, 9), true));
		NOTE(a, touch(at(a, 2), true));
		NOTE(a, PEEK(owner_at(a, 9)));

		NOTE(a, mprotect(a->map, LEN, PROT_WRITE));
		NOTE(a, touch(at(a, 3), true));
		NOTE(a, mprotect(a->map, LEN + PAGE, PROT_READ));

		ASSERT_LE(0, fd);
		NOTE(a, MAPPED(mmap(NULL, LEN, RW, MAP_SHARED, fd, 0)));
		ro = mmap(NULL, LEN, PROT_READ, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, ro);
		EXPECT_EQ(-EACCES, NOTE(a, mprotect(ro, LEN, RW)));
		NOTE(a, mprotect(at(a, 0), LEN, PROT_NONE));
		NOTE(a, mprotect(ro, LEN, PROT_NONE));
		NOTE(a, mprotect(ro, LEN, PROT_WRITE));
		NOTE(a, mprotect(ro, LEN, PROT_READ));
		NOTE(a, touch(ro, false));
		NOTE(a, touch(ro, true));
		close(fd);
	}
}

TEST_F(ways, mremap_move)
{
	for_each_area(a) {
		char *to = reserve() + 16 * PAGE, *part, *copy;

		fill(a, 1);
		ASSERT_EQ(NR, shows(a->map, 1));
		NOTE(a, mremap(a->map, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED,
			       to) == to);
		EXPECT_EQ(NR, NOTE(a, present(to, NR)));
		NOTE(a, touch(a->map, false));
		ASSERT_EQ(0, punch_all(a));
		NOTE(a, present(to, NR));
		fill(a, 2);
		NOTE(a, shows(to, 2));

		/* a part from the middle */
		part = a->map;
		NOTE(a, mremap(to + 8 * PAGE, 8 * PAGE, 8 * PAGE,
			       MREMAP_MAYMOVE | MREMAP_FIXED, part) == part);
		NOTE(a, present(part, 8));
		NOTE(a, touch(to + 9 * PAGE, false));
		ASSERT_EQ(0, punch_all(a));
		fill(a, 3);
		NOTE(a, shows_from(part, 8, 8, 3));
		NOTE(a, shows_from(to, 0, 8, 3));
		NOTE(a, shows_from(to + 16 * PAGE, 16, 8, 3));

		/* ... and leave it where it was as well */
		copy = mremap(part, 8 * PAGE, 8 * PAGE,
			      MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
		NOTE(a, MAPPED(copy));
		if (copy == MAP_FAILED)
			continue;
		NOTE(a, present(part, 8));
		NOTE(a, present(copy, 8));
		NOTE(a, shows_from(part, 8, 8, 3));
		fill_page(copy, tag(1, 8, 4));
		NOTE(a, shows_from(part, 8, 1, 4));

		/* old length 0: a second mapping of the same pages */
		copy = mremap(part, 0, 8 * PAGE, MREMAP_MAYMOVE);
		NOTE(a, MAPPED(copy));
		if (copy == MAP_FAILED)
			continue;
		NOTE(a, shows_from(copy, 8, 8, 3));
		fill_page(part + PAGE, tag(1, 9, 5));
		NOTE(a, shows_from(copy, 9, 7, 5));
		copy = mremap(part + PAGE, 0, 2 * PAGE, MREMAP_MAYMOVE);
		NOTE(a, MAPPED(copy));
		NOTE(a, shows_from(copy, 9, 2, 5));

		NOTE(a, mremap(part, 8 * PAGE, 3 * PAGE, 0) == part);
		NOTE(a, count_vmas(part, 8 * PAGE));
		ASSERT_EQ(0, punch_all(a));
		fill(a, 6);
		NOTE(a, shows_from(part, 8, 3, 6));
		NOTE(a, touch(part + 3 * PAGE, false));
		/* across the end of a vma */
		NOTE(a, MAPPED(mremap(part, 4 * PAGE, 2 * PAGE,
				      MREMAP_MAYMOVE | MREMAP_FIXED,
				      part + 8 * PAGE)));
	}
}

TEST_F(ways, mremap_grow)
{
	for_each_area(a) {
		char *old, *map = at(a, NR), *elsewhere = reserve();

		/* pages 4 to 11, with room to grow behind them */
		ASSERT_EQ(map, mmap(map, 8 * PAGE, RW, MAP_SHARED | MAP_FIXED,
				    a->fd, 4 * PAGE));
		ASSERT_EQ(0, munmap(map + 8 * PAGE, 16 * PAGE));
		fill(a, 1);
		ASSERT_EQ(8, shows_from(map, 4, 8, 1));
		NOTE(a, mremap(map, 8 * PAGE, 12 * PAGE, 0) == map);
		NOTE(a, shows_from(map, 4, 12, 1));
		/* no room */
		ASSERT_EQ(map + 12 * PAGE,
			  mmap(map + 12 * PAGE, PAGE, PROT_NONE, MAP_PRIVATE |
			       MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		NOTE(a, MAPPED(mremap(map, 12 * PAGE, 16 * PAGE, 0)));
		map = mremap(map, 12 * PAGE, NR * PAGE - 4 * PAGE,
			     MREMAP_MAYMOVE);
		NOTE(a, MAPPED(map));
		ASSERT_NE(MAP_FAILED, map);
		NOTE(a, shows_from(map, 4, NR - 4, 1));
		ASSERT_EQ(0, punch_all(a));
		fill(a, 2);
		NOTE(a, shows_from(map, 4, NR - 4, 2));

		/* A dma-buf's end is as the end of a file. */
		if (!a->buffer)
			ASSERT_EQ(0, ftruncate(a->file, LEN));
		map = mremap(map, (NR - 4) * PAGE, (NR - 2) * PAGE,
			     MREMAP_MAYMOVE);
		NOTE(a, MAPPED(map));
		ASSERT_NE(MAP_FAILED, map);
		for (unsigned int i = NR - 5; i < NR - 2; i++) {
			NOTE(a, touch(map + i * PAGE, false));
			NOTE(a, touch(map + i * PAGE, true));
		}
		NOTE(a, madvise(map, (NR - 2) * PAGE, MADV_POPULATE_READ));
		NOTE(a, present(map, NR - 2));
		/* copied, and moved */
		old = mremap(map, 0, (NR - 3) * PAGE, MREMAP_MAYMOVE);
		NOTE(a, MAPPED(old));
		ASSERT_NE(MAP_FAILED, old);
		NOTE(a, touch(old + (NR - 4) * PAGE, true));
		map = mremap(map + PAGE, PAGE, NR * PAGE, MREMAP_MAYMOVE |
			     MREMAP_FIXED, elsewhere);
		NOTE(a, MAPPED(map));
		ASSERT_NE(MAP_FAILED, map);
		ASSERT_EQ(0, punch_all(a));
		fill(a, 3);
		NOTE(a, shows_from(old, 4, NR - 4, 3));
		NOTE(a, shows_from(map, 5, NR - 5, 3));
		NOTE(a, touch(map + (NR - 5) * PAGE, false));
		NOTE(a, touch(map + (NR - 1) * PAGE, true));
	}
}

/* A neighbour that the new mapping could be merged with changes nothing. */
TEST_F(ways, mmap_adjacent)
{
	for_each_area(a) {
		char *map = at(a, NR);

		/* all pages of the file, so that any that show could */
		for (unsigned int i = 0; i < FILE_PAGES; i++) {
			ASSERT_TRUE(write_page(a->file, i, 77));
		}
		fill(a, 1);
		NOTE(a, munmap(at(a, NR / 2), LEN / 2));
		NOTE(a, MAPPED(mmap(at(a, NR / 2), LEN / 2, RW, MAP_SHARED |
				    MAP_FIXED, a->fd, LEN / 2)));
		EXPECT_EQ(1, NOTE(a, count_vmas(a->map, LEN)));
		NOTE(a, shows(a->map, 1));

		/* mmap() does not go past the end, though. */
		ASSERT_EQ(0, munmap(map, PAGE));
		EXPECT_DIFFERENT(a, 0, -EINVAL,
				 MAPPED(mmap(map, PAGE, RW, MAP_SHARED |
					     MAP_FIXED, a->fd, LEN)));
		EXPECT_DIFFERENT(a, 0, SIGSEGV << 8 | SEGV_MAPERR,
				 touch(map, false));

		/* Nor does it get round a seal that has come in between. */
		ASSERT_EQ(0, munmap(at(a, NR / 2), LEN / 2));
		ASSERT_EQ(0, fcntl(a->file, F_ADD_SEALS,
				   F_SEAL_FUTURE_WRITE));
		EXPECT_EQ(-EPERM,
			  NOTE(a, MAPPED(mmap(at(a, NR / 2), LEN / 2, RW,
					      MAP_SHARED | MAP_FIXED, a->fd,
					      LEN / 2))));
	}
}

/* remap_file_pages() is an mmap() in disguise. */
TEST_F(ways, remap_file_pages)
{
	for_each_area(a) {
		char *ro = map_rdonly(self->dev, a);

		ASSERT_NE(MAP_FAILED, ro);
		for (unsigned int i = 0; i < FILE_PAGES; i++) {
			ASSERT_TRUE(write_page(a->file, i, 77));
		}
		fill(a, 1);
		NOTE(a, shows(a->map, 1));
		NOTE(a, remap_file_pages(a->map, 8 * PAGE, 0, 16, 0));
		NOTE(a, shows_from(a->map, 16, 8, 1));
		NOTE(a, shows_from(at(a, 8), 8, 16, 1));
		NOTE(a, remap_file_pages(at(a, 8), 8 * PAGE, 0, 0, 0));
		NOTE(a, shows_from(at(a, 8), 0, 8, 1));
		ASSERT_EQ(0, punch_all(a));
		NOTE(a, present(a->map, NR));
		fill(a, 2);
		NOTE(a, shows_from(a->map, 16, 8, 2));
		NOTE(a, shows_from(at(a, 8), 0, 8, 2));
		NOTE(a, remap_file_pages(a->map, 8 * PAGE, RW, 0, 0));
		NOTE(a, remap_file_pages(a->map, PAGE, 0, -1UL, 0));
		NOTE(a, remap_file_pages(ro, 8 * PAGE, 0, 8, 0));

		/* As in mmap_adjacent: nothing goes past the end. */
		for (unsigned int i = 0; i < FILE_PAGES; i++) {
			ASSERT_TRUE(write_page(a->file, i, 77));
		}
		fill(a, 3);
		EXPECT_DIFFERENT(a, 0, -EINVAL,
				 remap_file_pages(at(a, 16), 8 * PAGE, 0,
						  NR - 4, 0));
		EXPECT_DIFFERENT(a, 0, -EINVAL,
				 remap_file_pages(a->map, 4 * PAGE, 0, NR, 0));
		for (unsigned int i = 0; i < NR && a->buffer; i++) {
			if (!touch(at(a, i), false)) {
				EXPECT_NE(77, PEEK((uint64_t *)at(a, i)));
			}
		}
	}
}

TEST_F(ways, map_fixed)
{
	for_each_area(a) {
		fill(a, 1);
		ASSERT_EQ(NR, shows(a->map, 1));
		ASSERT_EQ(at(a, 8), mmap(at(a, 8), 8 * PAGE, RW, MAP_PRIVATE |
					 MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		NOTE(a, count_vmas(a->map, LEN));
		NOTE(a, present(a->map, NR));
		NOTE(a, zeros(at(a, 8), 8));
		fill_page(at(a, 8), 5);
		ASSERT_EQ(0, punch_all(a));
		NOTE(a, present(a->map, NR));
		fill(a, 2);
		NOTE(a, shows(a->map, 2));
		NOTE(a, page_is(at(a, 8), 5));
		NOTE(a, page_is(owner_at(a, 8), tag(1, 8, 2)));

		/* other pages of it, and then the same as before */
		NOTE(a, MAPPED(mmap(at(a, 8), 8 * PAGE, RW, MAP_SHARED |
				    MAP_FIXED, a->fd, 0)));
		NOTE(a, count_vmas(a->map, LEN));
		NOTE(a, shows_from(at(a, 8), 0, 8, 2));
		NOTE(a, MAPPED(mmap(at(a, 8), 8 * PAGE, RW, MAP_SHARED |
				    MAP_FIXED, a->fd, 8 * PAGE)));
		EXPECT_EQ(1, NOTE(a, count_vmas(a->map, LEN)));
		ASSERT_EQ(0, punch_all(a));
		NOTE(a, present(a->map, NR));
		fill(a, 3);
		EXPECT_EQ(NR, NOTE(a, shows(a->map, 3)));
		/* in place of itself */
		NOTE(a, MAPPED(mmap(a->map, LEN, PROT_READ, MAP_SHARED |
				    MAP_FIXED, a->fd, 0)));
		NOTE(a, shows(a->map, 3));
		NOTE(a, touch(a->map, true));
	}
}

/* A child writes to the shared pages, and to its copies of their neighbours. */
TEST_F(ways, fork_cow)
{
	for_each_area(a) {
		char *before = a->map - PAGE, *after = at(a, NR);
		int status;
		pid_t pid;

		ASSERT_EQ(before, mmap(before, PAGE, RW, MAP_PRIVATE |
				       MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		ASSERT_EQ(after, mmap(after, PAGE, RW, MAP_PRIVATE |
				      MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		fill_page(before, 5);
		fill_page(after, 6);
		fill(a, 1);
		ASSERT_EQ(NR, shows(a->map, 1));
		ASSERT_EQ(0, madvise(at(a, 10), 2 * PAGE, MADV_DONTFORK));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			/* its page tables need not be copied */
			NOTE(a, present(a->map, NR));
			NOTE(a, shows_from(a->map, 0, 10, 1));
			NOTE(a, touch(at(a, 10), false));
			NOTE(a, touch(at(a, 11), true));
			NOTE(a, shows_from(at(a, 12), 12, NR - 12, 1));
			NOTE(a, page_is(before, 5) && page_is(after, 6));
			fill_page(before, 7);
			fill_page(after, 7);
			for (unsigned int i = 0; i < 10; i++)
				fill_page(at(a, i), tag(1, i, 2));
			NOTE(a, page_is(before, 7) && page_is(after, 7));
			_exit(0);
		}
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_EQ(0, status);
		NOTE(a, shows_from(a->map, 0, 10, 2));
		NOTE(a, shows_from(at(a, 10), 10, NR - 10, 1));
		NOTE(a, page_is(before, 5) && page_is(after, 6));

		/*
		 * A private copy of a page would not follow the file, and a
		 * dma-buf has one memory for all: its consumers map it shared.
		 */
		EXPECT_DIFFERENT(a, 0, -EINVAL,
				 MAPPED(mmap(NULL, LEN, RW, MAP_PRIVATE, a->fd,
					     0)));
	}
}

/* Access a word in another process: 0, or -1 with errno. */
typedef long (*remote_t)(pid_t pid, char *addr, uint64_t *word, bool write);

static long remote_process_vm(pid_t pid, char *addr, uint64_t *word,
			      bool write)
{
	struct iovec local = { word, 8 }, remote = { addr, 8 };

	errno = ENODATA;
	return (write ? process_vm_writev : process_vm_readv)
		(pid, &local, 1, &remote, 1, 0) == 8 ? 0 : -1;
}

static long remote_ptrace(pid_t pid, char *addr, uint64_t *word, bool write)
{
	if (write)
		return ptrace(PTRACE_POKEDATA, pid, addr, *word);
	errno = 0;
	*word = ptrace(PTRACE_PEEKDATA, pid, addr, NULL);
	return errno ? -1 : 0;
}

static long remote_mem(pid_t pid, char *addr, uint64_t *word, bool write)
{
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	errno = ENODATA;
	if (write)
		n = pwrite(fd, word, 8, (uintptr_t)addr);
	else
		n = pread(fd, word, 8, (uintptr_t)addr);
	close(fd);
	return n == 8 ? 0 : -1;
}

static void test_remote(struct __test_metadata *_metadata,
			struct area *area, int dev, remote_t remote)
{
	char *ro[2];
	pid_t pid;
	int status;

	for (int i = 0; i < 2; i++) {
		struct area *a = &area[i];

		ro[i] = map_rdonly(dev, a);
		ASSERT_NE(MAP_FAILED, ro[i]);
		ASSERT_EQ(0, mprotect(at(a, 20), PAGE, PROT_READ));
		ASSERT_EQ(0, mprotect(at(a, 21), PAGE, PROT_NONE));
		fill(a, 1);
	}
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFSTOPPED(status));

	for (int i = 0; i < 2; i++) {
		struct area *a = &area[i];
		uint64_t word, sum = 0;
		int writes = 0;

		for (unsigned int p = 0; p < NR; p++) {
			word = 0;
			NOTE(a, remote(pid, at(a, p), &word, false));
			sum += word;
		}
		NOTE(a, sum);
		for (unsigned int p = 0; p < NR; p++) {
			word = tag(1, p, 2);
			NOTE(a, remote(pid, at(a, p) + PAGE - 8, &word, true));
			writes += PEEK((uint64_t *)(owner_at(a, p) + PAGE - 8))
				  == word;
		}
		EXPECT_EQ(NR - 2, NOTE(a, writes));

		/* holes: also to look at one fills it */
		ASSERT_EQ(0, punch_all(a));
		NOTE(a, remote(pid, at(a, 3), &word, false));
		NOTE(a, word);
		NOTE(a, resident(a->file, FILE_PAGES));
		NOTE(a, remote(pid, at(a, 4), &word, true));
		NOTE(a, resident(a->file, FILE_PAGES));

		/* Nobody writes through a read-only mapping, not even ptrace. */
		fill(a, 3);
		word = 99;
		NOTE(a, remote(pid, ro[i], &word, false));
		NOTE(a, word);
		EXPECT_GT(0, NOTE(a, remote(pid, ro[i], &word, true)));
		EXPECT_GT(0, NOTE(a, remote(pid, at(a, 20), &word, true)));
		EXPECT_EQ(NR, NOTE(a, shows(ro[i], 3)));

		/* across the end of the mapping; past the end of the file */
		NOTE(a, remote(pid, at(a, NR) - 4, &word, false));
		NOTE(a, remote(pid, at(a, NR), &word, false));
		ASSERT_EQ(0, ftruncate(a->file, 0));
		NOTE(a, remote(pid, at(a, 5), &word, false));
		NOTE(a, remote(pid, at(a, 5), &word, true));
	}
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
}

TEST_F(ways, process_vm)
{
	test_remote(_metadata, self->area, self->dev, remote_process_vm);
}

TEST_F(ways, ptrace)
{
	test_remote(_metadata, self->area, self->dev, remote_ptrace);
}

TEST_F(ways, proc_mem)
{
	test_remote(_metadata, self->area, self->dev, remote_mem);
}

TEST_F(ways, smaps)
{
	need_swap(_metadata);
	for_each_area(a) {
		note_smaps(a);
		fill(a, 1);
		NOTE(a, touch(at(a, 3), false));
		note_smaps(a);
		NOTE(a, shows(a->map, 1));
		note_smaps(a);
		EXPECT_EQ(LEN / 1024, smaps_kb(a->map, "Rss"));
		EXPECT_EQ(LEN / 1024, smaps_kb(a->map, "Pss"));
		for (unsigned int i = 0; i < NR; i += 2)
			fill_page(at(a, i), tag(1, i, 2));
		note_smaps(a);
		/* mapped twice: half of it is this mapping's */
		for (unsigned int i = 0; i < 8; i++)
			NOTE(a, touch(owner_at(a, i), true));
		note_smaps(a);
		EXPECT_EQ(8 * PAGE / 1024, smaps_kb(a->map, "Shared_Clean") +
					   smaps_kb(a->map, "Shared_Dirty"));
		EXPECT_EQ(20 * PAGE / 1024, smaps_kb(a->map, "Pss"));
		ASSERT_EQ(0, madvise(a->owner, FILE_PAGES * PAGE,
				     MADV_DONTNEED));

		ASSERT_EQ(0, madvise(a->map, LEN, MADV_PAGEOUT));
		ASSERT_EQ(0, resident(a->file, FILE_PAGES));
		EXPECT_EQ(0, NOTE(a, smaps_kb(a->map, "Rss")));
		/*
		 * smaps counts the swap entries of the vma's file, and it is
		 * the memfd that has them: they are in the owner's smaps, once.
		 */
		EXPECT_DIFFERENT(a, LEN / 1024, 0, smaps_kb(a->map, "Swap"));
		EXPECT_EQ(LEN / 1024, smaps_kb(a->owner, "Swap"));
	}
}

/*
 * /proc/self/clear_refs: which pages have been used, which written? It is about
 * all of the process, so the areas take each step together.
 */
TEST_F(ways, clear_refs)
{
	for_each_area(a) {
		fill(a, 1);
		ASSERT_EQ(NR, shows(a->map, 1));
	}
	ASSERT_EQ(0, write_file("/proc/self/clear_refs", "1"));
	for_each_area(a) {
		/* or the processor would use what it remembers of the pages */
		ASSERT_EQ(0, mprotect(a->map, LEN, PROT_NONE));
		ASSERT_EQ(0, mprotect(a->map, LEN, RW));
		EXPECT_EQ(0, NOTE(a, smaps_kb(a->map, "Referenced")));
		for (unsigned int i = 0; i < 8; i++)
			NOTE(a, touch(at(a, i), false));
		EXPECT_EQ(8 * PAGE / 1024,
			  NOTE(a, smaps_kb(a->map, "Referenced")));
		/* for the next step: some that are not mapped */
		ASSERT_EQ(0, madvise(at(a, 16), 8 * PAGE, MADV_DONTNEED));
	}

	ASSERT_EQ(0, write_file("/proc/self/clear_refs", "4"));
	for_each_area(a) {
		EXPECT_EQ(0, NOTE(a, pagemap_bits(a->map, NR, PM_SOFT_DIRTY)));
		NOTE(a, touch(at(a, 1), false));
		NOTE(a, touch(at(a, 2), true));
		NOTE(a, touch(at(a, 16), false));
		NOTE(a, touch(at(a, 17), true));
		for (unsigned int i = 0; i < NR; i++)
			NOTE(a, pagemap_entry(at(a, i)) & PM_SOFT_DIRTY);
		EXPECT_EQ(2, pagemap_bits(a->map, NR, PM_SOFT_DIRTY));
		note_smaps(a);
		/* a hole */
		ASSERT_EQ(0, punch_all(a));
		NOTE(a, touch(at(a, 5), true));
		NOTE(a, touch(at(a, 6), false));
		NOTE(a, pagemap_bits(a->map, NR, PM_SOFT_DIRTY));
		/* a new mapping is soft-dirty as a whole */
		ASSERT_EQ(a->map, mmap(a->map, LEN, RW, MAP_SHARED | MAP_FIXED,
				       a->fd, 0));
		NOTE(a, pagemap_bits(a->map, NR, PM_SOFT_DIRTY));
	}
}

TEST_F(ways, numa_maps)
{
	for_each_area(a) {
		note_numa_maps(a);
		fill(a, 1);
		ASSERT_EQ(NR, shows(a->map, 1));
		note_numa_maps(a);
		for (unsigned int i = 0; i < NR; i++)
			fill_page(at(a, i), tag(1, i, 2));
		NOTE(a, touch(owner_at(a, 2), false));
		note_numa_maps(a);
	}
}

TEST_F(ways, mbind)
{
	unsigned long node1 = 1UL << 1;

	need_node1(_metadata);
	for_each_area(a) {
		int on_node1 = 0;

		fill(a, 1);
		ASSERT_EQ(NR, shows(a->map, 1));
		NOTE(a, syscall(SYS_mbind, a->map, LEN, MPOL_BIND, &node1,
				3UL, MPOL_MF_MOVE | MPOL_MF_STRICT));
		NOTE(a, shows(a->map, 1));
		for (unsigned int i = 0; i < NR; i++) {
			EXPECT_EQ(1, NOTE(a, move_page(at(a, i), -1)));
		}
		note_numa_maps(a);
		ASSERT_EQ(0, punch_all(a));
		for (unsigned int i = 0; i < NR; i++) {
			NOTE(a, touch(at(a, i), true));
			on_node1 += move_page(at(a, i), -1) == 1;
		}
		/*
		 * Where the file's pages are to be is the file's policy, which
		 * the owner sets with its own mapping. A consumer moves what is
		 * there, as the owner does, but does not change that.
		 */
		EXPECT_DIFFERENT(a, NR, 0, on_node1);
	}
}

/* Every run of pages that are alike, as PAGEMAP_SCAN sees them. */
static long note_scan(struct area *a)
{
	struct page_region regions[NR];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)a->map,
		.end = (uintptr_t)at(a, NR),
		.vec = (uintptr_t)regions,
		.vec_len = NR,
		.return_mask = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN |
			       PAGE_IS_FILE | PAGE_IS_PRESENT |
			       PAGE_IS_SWAPPED | PAGE_IS_PFNZERO |
			       PAGE_IS_HUGE | PAGE_IS_SOFT_DIRTY,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	long nr = RESULT(ioctl(fd, PAGEMAP_SCAN, &arg));

	close(fd);
	note(a, "PAGEMAP_SCAN", nr);
	for (long i = 0; i < nr; i++) {
		note(a, "start", regions[i].start - arg.start);
		note(a, "end", regions[i].end - arg.start);
		note(a, "categories", regions[i].categories);
	}
	return nr;
}

TEST_F(ways, pagemap)
{
	need_swap(_metadata);
	for_each_area(a) {
		note_scan(a);
		fill(a, 1);
		NOTE(a, touch(at(a, 0), false));
		EXPECT_EQ(NR, NOTE(a, present(a->map, NR)));
		EXPECT_LT(0, note_scan(a));
		NOTE(a, touch(at(a, 20), true));
		for (unsigned int i = 0; i < NR; i++) {
			NOTE(a, pagemap_entry(at(a, i)) & ~PM_PFN(-1ULL));
		}
		NOTE(a, pagemap_bits(a->map, NR, PM_FILE));
		NOTE(a, pagemap_bits(a->map, NR, PM_EXCLUSIVE));
		/* the file's pages, and no others */
		for (unsigned int i = 0; i < NR; i++) {
			NOTE(a, touch(at(a, i), false));
			NOTE(a, touch(owner_at(a, i), false));
			EXPECT_NE(0, PM_PFN(pagemap_entry(at(a, i))));
			EXPECT_EQ(PM_PFN(pagemap_entry(owner_at(a, i))),
				  PM_PFN(pagemap_entry(at(a, i))));
		}
		NOTE(a, pagemap_bits(a->map, NR, PM_EXCLUSIVE));
		ASSERT_EQ(0, madvise(a->owner, FILE_PAGES * PAGE,
				     MADV_DONTNEED));
		ASSERT_EQ(0, madvise(a->map, 8 * PAGE, MADV_PAGEOUT));
		for (unsigned int i = 0; i < NR; i++) {
			NOTE(a, pagemap_entry(at(a, i)) & ~PM_PFN(-1ULL));
		}
		note_scan(a);
	}
}

TEST_F(ways, mincore)
{
	need_swap(_metadata);
	for_each_area(a) {
		/* holes */
		EXPECT_EQ(0, NOTE(a, incore(a->map, NR)));
		/*
		 * In the file, and not mapped: mincore() looks into the page
		 * cache of the vma's file, which for a buffer is empty.
		 */
		fill(a, 1);
		EXPECT_DIFFERENT(a, NR, 0, incore(a->map, NR));
		EXPECT_EQ(0, NOTE(a, present(a->map, NR)));
		/* some mapped, some holes */
		NOTE(a, touch(at(a, 20), true));
		ASSERT_EQ(0, punch(a->file, file_page(a, 3), 1));
		ASSERT_EQ(0, punch(a->file, file_page(a, 21), 1));
		for (unsigned int i = 0; i < NR; i++) {
			EXPECT_DIFFERENT(a, i != 3 && i != 21, i == 20,
					 incore(at(a, i), 1));
		}
		EXPECT_DIFFERENT(a, 4, 0, incore(at(a, 2), 5));

		/* swapped out */
		fill(a, 2);
		ASSERT_EQ(NR, shows(a->map, 2));
		ASSERT_EQ(0, madvise(at(a, 4), 8 * PAGE, MADV_PAGEOUT));
		for (unsigned int i = 0; i < NR; i++) {
			EXPECT_EQ(i < 4 || i >= 12,
				  NOTE(a, incore(at(a, i), 1)));
		}
		NOTE(a, shows(a->map, 2));
		EXPECT_EQ(NR, NOTE(a, incore(a->map, NR)));
		/* into the addresses behind the mapping */
		ASSERT_EQ(0, munmap(at(a, NR), PAGE));
		NOTE(a, incore(at(a, NR - 1), 2));
		/* past the end of the file */
		ASSERT_EQ(0, ftruncate(a->file, 0));
		EXPECT_EQ(0, NOTE(a, incore(a->map, NR)));
	}
}

/* Let a copy of this process dump core. Returns the core file. */
static int dump_core(const char *dir, const char *filter)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	pid_t pid = fork();
	char path[128];
	int status, fd;

	if (pid < 0)
		return -errno;
	if (!pid) {
		write_file("/proc/self/coredump_filter", filter);
		setrlimit(RLIMIT_CORE, &unlimited);
		raise(SIGQUIT);
		_exit(1);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) ||
	    !WCOREDUMP(status))
		return -ECHILD;
	snprintf(path, sizeof(path), "%s/core.%d", dir, pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	unlink(path);
	return fd;
}

/* How many of the area's pages are in a core file? */
static int core_shows(int core, struct area *a, unsigned int version)
{
	struct elf64_hdr ehdr;
	struct elf64_phdr phdr;

	if (pread(core, &ehdr, sizeof(ehdr), 0) != sizeof(ehdr) ||
	    memcmp(ehdr.e_ident, ELFMAG, SELFMAG))
		return -ENOEXEC;
	for (int i = 0; i < ehdr.e_phnum; i++) {
		if (pread(core, &phdr, sizeof(phdr),
			  ehdr.e_phoff + i * sizeof(phdr)) != sizeof(phdr))
			return -EIO;
		if (phdr.p_type != PT_LOAD || phdr.p_vaddr != (uintptr_t)a->map)
			continue;
		if (phdr.p_memsz != LEN)
			return -ERANGE;
		if (!phdr.p_filesz)
			return 0;
		if (phdr.p_filesz != LEN ||
		    pread(core, data, LEN, phdr.p_offset) != LEN)
			return -EIO;
		return shows(data, version);
	}
	return -ENOENT;
}

#define CORE_ANON_SHARED	"0x02"
#define CORE_MAPPED_SHARED	"0x08"
#define CORE_BOTH_SHARED	"0x0a"

TEST_F_TIMEOUT(ways, core_dump, 180)
{
	char dir[] = "/tmp/memfd_dmabuf.XXXXXX", pattern[64], saved[256];
	FILE *f = fopen("/proc/sys/kernel/core_pattern", "re");
	int fd;

	ASSERT_NE(NULL, f);
	ASSERT_EQ(1, fscanf(f, "%255[^\n]", saved));
	fclose(f);
	ASSERT_NE(NULL, mkdtemp(dir));
	snprintf(pattern, sizeof(pattern), "%s/core.%%p", dir);
	ASSERT_EQ(0, write_file("/proc/sys/kernel/core_pattern", pattern));

	for_each_area(a) {
		fill(a, 1);
		/* some of it mapped in the parent, none in the child */
		NOTE(a, touch(at(a, 0), false));
	}
	fd = dump_core(dir, CORE_BOTH_SHARED);
	EXPECT_LE(0, fd);
	for_each_area(a) {
		EXPECT_EQ(NR, NOTE(a, core_shows(fd, a, 1)));
	}
	close(fd);

	/*
	 * A memfd has no name in any directory, so it is dumped as if it were
	 * anonymous memory. A dma-buf counts as a file with a name, whoever
	 * exports it, and those are not dumped by default.
	 */
	fd = dump_core(dir, CORE_ANON_SHARED);
	EXPECT_LE(0, fd);
	for_each_area(a) {
		EXPECT_DIFFERENT(a, NR, 0, core_shows(fd, a, 1));
	}
	close(fd);
	fd = dump_core(dir, CORE_MAPPED_SHARED);
	EXPECT_LE(0, fd);
	for_each_area(a) {
		EXPECT_DIFFERENT(a, 0, NR, core_shows(fd, a, 1));
	}
	close(fd);

	for_each_area(a)
		NOTE(a, madvise(a->map, LEN, MADV_DONTDUMP));
	fd = dump_core(dir, CORE_BOTH_SHARED);
	EXPECT_LE(0, fd);
	for_each_area(a) {
		EXPECT_EQ(0, NOTE(a, core_shows(fd, a, 1)));
	}
	close(fd);

	/* A page that is not there any more is left out; the core is whole. */
	for_each_area(a) {
		NOTE(a, madvise(a->map, LEN, MADV_DODUMP));
		ASSERT_EQ(0, ftruncate(a->file, 0));
	}
	fd = dump_core(dir, CORE_BOTH_SHARED);
	EXPECT_LE(0, fd);
	for_each_area(a) {
		EXPECT_EQ(0, NOTE(a, core_shows(fd, a, 1)));
	}
	close(fd);
	EXPECT_EQ(0, write_file("/proc/sys/kernel/core_pattern", saved));
	rmdir(dir);
}

/* A block device that does direct I/O. */
static int zram_add(void)
{
	FILE *f = fopen("/sys/class/zram-control/hot_add", "re");
	int id = -1;

	if (f && fscanf(f, "%d", &id) != 1)
		id = -1;
	if (f)
		fclose(f);
	return id;
}

TEST_F(ways, direct_io)
{
	char path[64], text[16];
	int id = zram_add();

	ASSERT_LE(0, id) TH_LOG("this test needs zram");
	snprintf(path, sizeof(path), "/sys/block/zram%d/disksize", id);
	ASSERT_EQ(0, write_file(path, "1M"));
	snprintf(path, sizeof(path), "/dev/zram%d", id);
	for_each_area(a) {
		char *ro = map_rdonly(self->dev, a);
		int dev = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
		long pins = pinned_pages();
		struct iovec iov[NR];

		ASSERT_NE(MAP_FAILED, ro);
		ASSERT_LE(0, dev);
		/* from pages that are not mapped, into holes */
		fill(a, 1);
		EXPECT_EQ(LEN, NOTE(a, pwrite(dev, a->map, LEN, 0)));
		ASSERT_EQ(0, punch_all(a));
		EXPECT_EQ(LEN, NOTE(a, pread(dev, a->map, LEN, 0)));
		EXPECT_EQ(NR, NOTE(a, shows(a->map, 1)));
		NOTE(a, shows_from(owner_at(a, 7), 7, 1, 1));
		NOTE(a, resident(a->file, FILE_PAGES));

		/* page by page, backwards; parts of a page are not aligned */
		for (unsigned int i = 0; i < NR; i++) {
			fill_page(at(a, i), tag(1, i, 2));
			iov[NR - 1 - i] = (struct iovec){ at(a, i), PAGE };
		}
		NOTE(a, pwritev(dev, iov, NR, 0));
		fill(a, 3);
		NOTE(a, pread(dev, a->map, LEN, 0));
		for (unsigned int i = 0; i < NR; i++)
			NOTE(a, page_is(at(a, i), tag(1, NR - 1 - i, 2)));
		NOTE(a, pread(dev, a->map + 1, PAGE, 0));

		NOTE(a, pwrite(dev, ro, LEN, 0));
		EXPECT_EQ(-EFAULT, NOTE(a, pread(dev, ro, LEN, 0)));
		/* the last pages are not there */
		NOTE(a, pread(dev, at(a, NR - 2), 4 * PAGE, 0));
		ASSERT_EQ(0, ftruncate(a->file, 0));
		NOTE(a, pread(dev, a->map, LEN, 0));
		NOTE(a, pwrite(dev, a->map, LEN, 0));
		EXPECT_EQ(0, NOTE(a, pinned_pages() - pins));
		close(dev);
	}
	snprintf(text, sizeof(text), "%d", id);
	EXPECT_EQ(0, write_file("/sys/class/zram-control/hot_remove", text));
}

/* The pages themselves go through the pipe, and stay in it. */
TEST_F(ways, vmsplice)
{
	const unsigned int flags[] = { 0, SPLICE_F_GIFT };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	ASSERT_LE(LEN, fcntl(fd[1], F_SETPIPE_SZ, 64 * PAGE));
	for_each_area(a) {
		struct iovec iov = { a->map, LEN };
		int file = new_memfd(NR);

		ASSERT_LE(0, file);
		for (int i = 0; i < 2; i++) {
			fill(a, 1);
			EXPECT_EQ(LEN, NOTE(a, vmsplice(fd[1], &iov, 1,
							flags[i])));
			fill(a, 2);
			ASSERT_EQ(LEN, read(fd[0], data, LEN));
			EXPECT_EQ(NR, NOTE(a, shows(data, 2)));

			/* the pipe keeps what the file has discarded */
			NOTE(a, vmsplice(fd[1], &iov, 1, flags[i]));
			ASSERT_EQ(0, punch_all(a));
			NOTE(a, zeros(a->map, NR));
			fill(a, 3);
			ASSERT_EQ(LEN, read(fd[0], data, LEN));
			EXPECT_EQ(NR, NOTE(a, shows(data, 2)));
			NOTE(a, shows(a->map, 3));

			/* on to a file, which may want the page for itself */
			NOTE(a, vmsplice(fd[1], &iov, 1, flags[i]));
			NOTE(a, splice(fd[0], NULL, file, &(loff_t){ 0 }, LEN,
				       flags[i] ? SPLICE_F_MOVE : 0));
			fill(a, 4);
			ASSERT_EQ(LEN, pread(file, data, LEN, 0));
			NOTE(a, shows(data, 3));
			NOTE(a, shows(a->map, 4));
		}
		/* from a pipe into the mapping */
		ASSERT_EQ(0, punch_all(a));
		for (unsigned int i = 0; i < NR; i++)
			fill_page(data + i * (PAGE / 8), tag(1, i, 5));
		ASSERT_EQ(LEN, write(fd[1], data, LEN));
		NOTE(a, vmsplice(fd[0], &iov, 1, 0));
		EXPECT_EQ(NR, NOTE(a, shows(a->map, 5)));
		ASSERT_EQ(0, ftruncate(a->file, 0));
		NOTE(a, vmsplice(fd[1], &iov, 1, 0));
		close(file);
	}
}

/* Whoever sleeps on the buffer's mapping is woken through the file's own. */
static void *futex_waiter(void *word)
{
	return (void *)RESULT(syscall(SYS_futex, word, FUTEX_WAIT, 1, NULL,
				      NULL, 0));
}

TEST_F(ways, futex)
{
	for_each_area(a) {
		int *word = (int *)at(a, 7), *alias = (int *)owner_at(a, 7);
		pthread_t thread;
		void *result;

		POKE(word, 1);
		ASSERT_EQ(0, pthread_create(&thread, NULL, futex_waiter, word));
		while (!syscall(SYS_futex, alias, FUTEX_WAKE, 1, NULL, NULL, 0))
			sched_yield();
		ASSERT_EQ(0, pthread_join(thread, &result));
		EXPECT_EQ(0, NOTE(a, result));
		/* and another page of it is another futex */
		NOTE(a, syscall(SYS_futex, at(a, 8), FUTEX_WAKE, 1, NULL, NULL,
				0));
	}
}

#define complete(ring, res) do {					\
	struct io_uring_cqe *_cqe;					\
									\
	ASSERT_LE(0, io_uring_submit(ring));				\
	ASSERT_EQ(0, io_uring_wait_cqe(ring, &_cqe));			\
	res = _cqe->res;						\
	io_uring_cqe_seen(ring, _cqe);					\
} while (0)

TEST_F(ways, io_uring_fixed)
{
	struct io_uring ring;
	int src = new_memfd(NR), dst = new_memfd(NR);

	ASSERT_LE(0, src);
	ASSERT_LE(0, dst);
	for (unsigned int i = 0; i < NR; i++) {
		ASSERT_TRUE(write_page(src, i, tag(1, i, 2)));
	}
	ASSERT_EQ(0, io_uring_queue_init(8, &ring, 0));
	for_each_area(a) {
		char *ro = map_rdonly(self->dev, a);
		struct iovec iov = { a->map, LEN }, ro_iov = { ro, LEN };
		long pins = pinned_pages();
		int res;

		ASSERT_NE(MAP_FAILED, ro);
		fill(a, 1);
		ASSERT_EQ(0, NOTE(a, io_uring_register_buffers(&ring, &iov,
							       1)));
		EXPECT_EQ(NR, NOTE(a, pinned_pages() - pins));
		io_uring_prep_write_fixed(io_uring_get_sqe(&ring), dst, a->map,
					  LEN, 0, 0);
		complete(&ring, res);
		EXPECT_EQ(LEN, NOTE(a, res));
		ASSERT_EQ(LEN, pread(dst, data, LEN, 0));
		NOTE(a, shows(data, 1));
		io_uring_prep_read_fixed(io_uring_get_sqe(&ring), src, a->map,
					 LEN, 0, 0);
		complete(&ring, res);
		NOTE(a, res);
		EXPECT_EQ(NR, NOTE(a, shows(a->map, 2)));
		NOTE(a, shows_from(owner_at(a, 9), 9, 1, 2));

		/* the pin keeps what the file has discarded */
		NOTE(a, punch_all(a));
		NOTE(a, zeros(a->map, NR));
		fill(a, 3);
		io_uring_prep_write_fixed(io_uring_get_sqe(&ring), dst, a->map,
					  LEN, 0, 0);
		complete(&ring, res);
		NOTE(a, res);
		ASSERT_EQ(LEN, pread(dst, data, LEN, 0));
		EXPECT_EQ(NR, NOTE(a, shows(data, 2)));
		NOTE(a, shows(a->map, 3));
		NOTE(a, io_uring_unregister_buffers(&ring));
		EXPECT_EQ(0, NOTE(a, pinned_pages() - pins));

		NOTE(a, io_uring_register_buffers(&ring, &ro_iov, 1));
		ASSERT_EQ(0, ftruncate(a->file, 0));
		NOTE(a, io_uring_register_buffers(&ring, &iov, 1));
		EXPECT_EQ(0, NOTE(a, pinned_pages() - pins));
	}
	io_uring_queue_exit(&ring);
}

/*
 * Punches against READ_FIXED into the same pages, against somebody who looks on.
 * The reads go to the pages that were registered, so what is left is the hole.
 */
TEST_F_TIMEOUT(ways, io_uring_punch_race, 120)
{
	int src = new_memfd(NR), foreign = 0, res;
	struct io_uring ring;
	cpu_set_t all;

	memset(&all, 0xff, sizeof(all));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(all), &all));
	ASSERT_LE(0, src);
	for (unsigned int i = 0; i < NR; i++) {
		ASSERT_TRUE(write_page(src, i, tag(1, i, 2)));
	}
	ASSERT_EQ(0, io_uring_queue_init(8, &ring, 0));
	for_each_area(a) {
		struct iovec iov = { a->map, LEN };
		long pins = pinned_pages();

		for (int round = 0; round < 20; round++) {
			struct io_uring_cqe *cqe;
			struct io_uring_sqe *sqe;
			unsigned int done = 0;

			fill(a, 1);
			ASSERT_EQ(0, io_uring_register_buffers(&ring, &iov, 1));
			sqe = io_uring_get_sqe(&ring);
			io_uring_prep_read_fixed(sqe, src, a->map, LEN, 0, 0);
			sqe->flags |= IOSQE_ASYNC;
			sqe = io_uring_get_sqe(&ring);
			io_uring_prep_fallocate(sqe, a->file,
						FALLOC_FL_PUNCH_HOLE |
						FALLOC_FL_KEEP_SIZE, 0,
						FILE_PAGES * PAGE);
			ASSERT_EQ(2, io_uring_submit(&ring));
			while (done < 2) {
				for (unsigned int i = 0; i < NR; i++) {
					uint64_t v = PEEK((uint64_t *)at(a, i));

					foreign += v && v != tag(1, i, 1) &&
						   v != tag(1, i, 2);
				}
				while (!io_uring_peek_cqe(&ring, &cqe)) {
					EXPECT_LE(0, cqe->res);
					io_uring_cqe_seen(&ring, cqe);
					done++;
				}
			}
			ASSERT_EQ(0, io_uring_unregister_buffers(&ring));
			NOTE(a, zeros(a->map, NR));
		}
		EXPECT_EQ(0, foreign);
		EXPECT_EQ(0, NOTE(a, pinned_pages() - pins));
		/* and without a punch they arrive */
		fill(a, 1);
		ASSERT_EQ(0, io_uring_register_buffers(&ring, &iov, 1));
		io_uring_prep_read_fixed(io_uring_get_sqe(&ring), src, a->map,
					 LEN, 0, 0);
		complete(&ring, res);
		NOTE(a, res);
		NOTE(a, shows(a->map, 2));
		ASSERT_EQ(0, io_uring_unregister_buffers(&ring));
	}
	io_uring_queue_exit(&ring);
}

TEST_F(ways, io_uring_madvise)
{
	const int advices[] = {
		MADV_POPULATE_READ, MADV_COLD, MADV_DONTNEED,
		MADV_POPULATE_WRITE, MADV_PAGEOUT, MADV_WILLNEED, MADV_FREE,
		MADV_WIPEONFORK,
	};
	struct io_uring ring;
	int res;

	need_swap(_metadata);
	ASSERT_EQ(0, io_uring_queue_init(8, &ring, 0));
	for_each_area(a) {
		for (unsigned int i = 0; i < ARRAY_SIZE(advices); i++) {
			fill(a, i);
			io_uring_prep_madvise(io_uring_get_sqe(&ring), a->map,
					      LEN, advices[i]);
			complete(&ring, res);
			NOTE(a, res);
			NOTE(a, present(a->map, NR));
			NOTE(a, shows(a->map, i));
		}
		io_uring_prep_madvise(io_uring_get_sqe(&ring), a->map, LEN,
				      MADV_REMOVE);
		complete(&ring, res);
		/* As for madvise(). */
		EXPECT_DIFFERENT(a, 0, -ENODEV, res);
	}
	io_uring_queue_exit(&ring);
}

/* A long-term pin keeps its page, in the file or not, and leaves no trace. */
TEST_F_TIMEOUT(ways, longterm_pin, 120)
{
	const unsigned int flags[] = {
		PIN_LONGTERM_TEST_FLAG_USE_WRITE,
		PIN_LONGTERM_TEST_FLAG_USE_WRITE |
		PIN_LONGTERM_TEST_FLAG_USE_FAST,
		0,
	};
	int gup = open("/sys/kernel/debug/gup_test", O_RDWR | O_CLOEXEC);
	uint64_t to = (uintptr_t)data;

	need_swap(_metadata);
	need_node1(_metadata);
	ASSERT_LE(0, gup) TH_LOG("this test needs CONFIG_GUP_TEST");
	for_each_area(a) {
		char *ro = map_rdonly(self->dev, a);
		struct pin_longterm_test pin = { .size = LEN };
		int node, other, status;
		long pins = pinned_pages();
		void *page = at(a, 3);

		ASSERT_NE(MAP_FAILED, ro);
		for (unsigned int i = 0; i < ARRAY_SIZE(flags); i++) {
			pin.addr = (uintptr_t)a->map;
			pin.flags = flags[i];
			fill(a, 1);
			/* fast looks into page tables only */
			ASSERT_EQ(NR, shows(a->map, 1));
			ASSERT_EQ(0, NOTE(a, ioctl(gup, PIN_LONGTERM_TEST_START,
						   &pin)));
			EXPECT_EQ(NR, NOTE(a, pinned_pages() - pins));
			fill(a, 2);
			ASSERT_EQ(0, ioctl(gup, PIN_LONGTERM_TEST_READ, &to));
			EXPECT_EQ(NR, NOTE(a, shows(data, 2)));

			/* neither moved nor reclaimed */
			node = move_page(page, -1);
			other = !node;
			EXPECT_EQ(1, NOTE(a, syscall(SYS_move_pages, 0, 1UL,
						     &page, &other, &status,
						     MPOL_MF_MOVE_ALL)));
			NOTE(a, status);
			/* the attempt may have unmapped it, as reclaim does */
			NOTE(a, touch(page, false));
			EXPECT_EQ(node, move_page(page, -1));
			NOTE(a, madvise(a->map, LEN, MADV_PAGEOUT));
			NOTE(a, resident(a->file, FILE_PAGES));
			fill(a, 3);
			ASSERT_EQ(0, ioctl(gup, PIN_LONGTERM_TEST_READ, &to));
			EXPECT_EQ(NR, NOTE(a, shows(data, 3)));
			NOTE(a, shows(a->map, 3));

			/* the punch goes ahead */
			NOTE(a, punch_all(a));
			NOTE(a, zeros(a->map, NR));
			fill(a, 4);
			ASSERT_EQ(0, ioctl(gup, PIN_LONGTERM_TEST_READ, &to));
			EXPECT_EQ(NR, NOTE(a, shows(data, 3)));
			NOTE(a, shows(a->map, 4));
			NOTE(a, ioctl(gup, PIN_LONGTERM_TEST_STOP));
			EXPECT_EQ(0, NOTE(a, pinned_pages() - pins));
			/* and the pages that are there now can go */
			NOTE(a, madvise(a->map, LEN, MADV_PAGEOUT));
			EXPECT_EQ(0, NOTE(a, resident(a->file, FILE_PAGES)));
		}
		pin.addr = (uintptr_t)ro;
		pin.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE;
		NOTE(a, ioctl(gup, PIN_LONGTERM_TEST_START, &pin));
		ASSERT_EQ(0, ftruncate(a->file, 0));
		pin.addr = (uintptr_t)a->map;
		NOTE(a, ioctl(gup, PIN_LONGTERM_TEST_START, &pin));
		EXPECT_EQ(0, NOTE(a, pinned_pages() - pins));
	}
	close(gup);
}

static bool mtime_changed(int file)
{
	const struct timespec old[2] = {
		{ .tv_sec = 1000 }, { .tv_sec = 1000 },
	};
	struct stat st;
	bool changed = fstat(file, &st) || st.st_mtime != 1000;

	return futimens(file, old) || changed;
}

/* Has the file been written to? Whoever asks so begins anew. */
TEST_F(ways, mtime)
{
	for_each_area(a) {
		uint64_t word = 5;

		fill(a, 1);
		mtime_changed(a->file);
		EXPECT_FALSE(mtime_changed(a->file));
		NOTE(a, touch(at(a, 20), true));
		EXPECT_TRUE(NOTE(a, mtime_changed(a->file)));
		NOTE(a, touch(at(a, 0), false));
		EXPECT_FALSE(NOTE(a, mtime_changed(a->file)));
		/* mapped, and writable already */
		NOTE(a, touch(at(a, 20), true));
		NOTE(a, mtime_changed(a->file));
		NOTE(a, touch(at(a, 0), true));
		NOTE(a, mtime_changed(a->file));
		/* a hole */
		ASSERT_EQ(0, punch_all(a));
		NOTE(a, mtime_changed(a->file));
		NOTE(a, touch(at(a, 1), false));
		NOTE(a, mtime_changed(a->file));
		NOTE(a, touch(at(a, 2), true));
		NOTE(a, mtime_changed(a->file));

		NOTE(a, madvise(a->map, LEN, MADV_DONTNEED));
		NOTE(a, remote_process_vm(getpid(), at(a, 3), &word, true));
		NOTE(a, mtime_changed(a->file));
		NOTE(a, madvise(at(a, 4), PAGE, MADV_POPULATE_WRITE));
		NOTE(a, mtime_changed(a->file));
		/* write faults on pages that are mapped */
		NOTE(a, mprotect(a->map, LEN, PROT_READ));
		NOTE(a, touch(at(a, 5), false));
		NOTE(a, mtime_changed(a->file));
		NOTE(a, mprotect(a->map, LEN, RW));
		NOTE(a, touch(at(a, 5), true));
		NOTE(a, mtime_changed(a->file));
	}
	/*
	 * Soft-dirty tracking makes the next write to each page a fault. The
	 * driver does not see this one: it is the dma-buf's time that changes.
	 */
	ASSERT_EQ(0, write_file("/proc/self/clear_refs", "4"));
	for_each_area(a) {
		NOTE(a, touch(at(a, 5), true));
		EXPECT_DIFFERENT(a, 1, 0, mtime_changed(a->file));
	}
}

/* Returns a userfaultfd. */
static int uffd_open(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int uffd_register(int uffd, char *addr, unsigned long len,
			 uint64_t mode)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)addr, len },
		.mode = mode,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &reg);
}

static int uffd_unregister(int uffd, char *addr, unsigned long len)
{
	struct uffdio_range reg = { (uintptr_t)addr, len };

	return ioctl(uffd, UFFDIO_UNREGISTER, &reg);
}

static int uffd_wake(int uffd, char *addr)
{
	struct uffdio_range wake = { (uintptr_t)addr, PAGE };

	return ioctl(uffd, UFFDIO_WAKE, &wake);
}

static int uffd_copy(int uffd, char *addr, uint64_t value)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)addr,
		.src = (uintptr_t)data,
		.len = PAGE,
	};

	fill_page(data, value);
	return ioctl(uffd, UFFDIO_COPY, &copy);
}

static int uffd_continue(int uffd, char *addr)
{
	struct uffdio_continue cont = { .range = { (uintptr_t)addr, PAGE } };

	return ioctl(uffd, UFFDIO_CONTINUE, &cont);
}

static int uffd_writeprotect(int uffd, char *addr, unsigned long len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)addr, len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp);
}

/* The flags of the next fault, which must be at @addr. */
static long uffd_event(int uffd, char *addr, int timeout)
{
	struct pollfd pollfd = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;

	if (poll(&pollfd, 1, timeout) != 1)
		return -EAGAIN;
	if (read(uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT ||
	    (msg.arg.pagefault.address & ~(PAGE - 1)) != (uintptr_t)addr)
		return -EIO;
	return msg.arg.pagefault.flags;
}

static void *owner_reads(void *addr)
{
	return (void *)PEEK((uint64_t *)addr);
}

static void *owner_writes(void *addr)
{
	POKE((uint64_t *)addr, 8);
	return NULL;
}

/*
 * As a virtual machine monitor does: userfaultfd on its own mapping, which is
 * what the guest runs on, while the consumer of a buffer looks on.
 */
TEST_F(ways, uffd_missing_on_owner)
{
	for_each_area(a) {
		int uffd = uffd_open(0);
		pthread_t guest;
		void *seen;

		ASSERT_LE(0, uffd);
		ASSERT_EQ(0, uffd_register(uffd, a->owner, FILE_PAGES * PAGE,
					   UFFDIO_REGISTER_MODE_MISSING));
		NOTE(a, uffd_copy(uffd, owner_at(a, 5), tag(1, 5, 1)));
		NOTE(a, shows_from(at(a, 5), 5, 1, 1));
		/*
		 * It is the owner's mapping that is watched, so a consumer's
		 * access fills the hole. MEMFD_DMABUF_NOALLOC is against that.
		 */
		NOTE(a, touch(at(a, 6), false));
		NOTE(a, uffd_event(uffd, owner_at(a, 6), 0));
		EXPECT_EQ(-EEXIST, NOTE(a, uffd_copy(uffd, owner_at(a, 6), 1)));

		/* the guest waits for a page; the consumer does not */
		ASSERT_EQ(0, pthread_create(&guest, NULL, owner_reads,
					    owner_at(a, 7)));
		EXPECT_EQ(0, NOTE(a, uffd_event(uffd, owner_at(a, 7), -1)));
		NOTE(a, touch(at(a, 5), false));
		NOTE(a, uffd_copy(uffd, owner_at(a, 7), tag(1, 7, 1)));
		ASSERT_EQ(0, pthread_join(guest, &seen));
		EXPECT_EQ(tag(1, 7, 1), NOTE(a, seen));
		NOTE(a, shows_from(at(a, 7), 7, 1, 1));

		/* the consumer comes first */
		ASSERT_EQ(0, pthread_create(&guest, NULL, owner_reads,
					    owner_at(a, 8)));
		EXPECT_EQ(0, NOTE(a, uffd_event(uffd, owner_at(a, 8), -1)));
		fill_page(at(a, 8), tag(1, 8, 2));
		NOTE(a, uffd_copy(uffd, owner_at(a, 8), tag(1, 8, 1)));
		NOTE(a, uffd_wake(uffd, owner_at(a, 8)));
		ASSERT_EQ(0, pthread_join(guest, &seen));
		EXPECT_EQ(tag(1, 8, 2), NOTE(a, seen));
		close(uffd);
	}
}

TEST_F(ways, uffd_minor_on_owner)
{
	for_each_area(a) {
		int uffd = uffd_open(UFFD_FEATURE_MINOR_SHMEM);
		pthread_t guest;
		void *seen;

		ASSERT_LE(0, uffd);
		fill(a, 1);
		ASSERT_EQ(0, uffd_register(uffd, a->owner, FILE_PAGES * PAGE,
					   UFFDIO_REGISTER_MODE_MINOR));
		ASSERT_EQ(0, pthread_create(&guest, NULL, owner_reads,
					    owner_at(a, 3)));
		EXPECT_EQ(UFFD_PAGEFAULT_FLAG_MINOR,
			  NOTE(a, uffd_event(uffd, owner_at(a, 3), -1)));
		/* the page is there, so the consumer has it */
		NOTE(a, shows(a->map, 1));
		fill_page(at(a, 3), tag(1, 3, 2));
		NOTE(a, present(owner_at(a, 3), 1));
		NOTE(a, uffd_event(uffd, owner_at(a, 3), 0));
		NOTE(a, uffd_continue(uffd, owner_at(a, 3)));
		ASSERT_EQ(0, pthread_join(guest, &seen));
		EXPECT_EQ(tag(1, 3, 2), NOTE(a, seen));
		NOTE(a, uffd_continue(uffd, owner_at(a, 4)));
		NOTE(a, PM_PFN(pagemap_entry(owner_at(a, 4))) ==
			PM_PFN(pagemap_entry(at(a, 4))));
		ASSERT_EQ(0, punch_all(a));
		NOTE(a, uffd_continue(uffd, owner_at(a, 4)));
		close(uffd);
	}
}

TEST_F(ways, uffd_wp_on_owner)
{
	for_each_area(a) {
		int uffd = uffd_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP |
				     UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
		pthread_t guest;

		ASSERT_LE(0, uffd);
		fill(a, 1);
		ASSERT_EQ(NR, shows(a->map, 1));
		ASSERT_EQ(0, uffd_register(uffd, a->owner, FILE_PAGES * PAGE,
					   UFFDIO_REGISTER_MODE_WP));
		NOTE(a, touch(owner_at(a, 4), false));
		NOTE(a, uffd_writeprotect(uffd, a->owner, FILE_PAGES * PAGE,
					  true));
		EXPECT_EQ(1, NOTE(a, pagemap_bits(owner_at(a, 4), 1,
						  PM_UFFD_WP)));
		/* The consumer's pages are not protected; nobody is told. */
		NOTE(a, touch(at(a, 4), true));
		NOTE(a, touch(at(a, 5), true));
		NOTE(a, uffd_event(uffd, owner_at(a, 4), 0));
		NOTE(a, pagemap_bits(owner_at(a, 4), 1, PM_UFFD_WP));

		ASSERT_EQ(0, pthread_create(&guest, NULL, owner_writes,
					    owner_at(a, 4)));
		EXPECT_EQ(UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE,
			  NOTE(a, uffd_event(uffd, owner_at(a, 4), -1)));
		NOTE(a, touch(at(a, 4), true));
		NOTE(a, uffd_writeprotect(uffd, owner_at(a, 4), PAGE, false));
		ASSERT_EQ(0, pthread_join(guest, NULL));
		EXPECT_EQ(8, NOTE(a, PEEK((uint64_t *)at(a, 4))));
		close(uffd);
	}
}

TEST_F(ways, uffd_on_map)
{
	const uint64_t modes[] = {
		UFFDIO_REGISTER_MODE_MISSING,
		UFFDIO_REGISTER_MODE_MINOR,
		UFFDIO_REGISTER_MODE_WP,
	};

	for_each_area(a) {
		int uffd = uffd_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP |
				     UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
				     UFFD_FEATURE_MINOR_SHMEM);

		ASSERT_LE(0, uffd);
		fill(a, 1);
		for (unsigned int i = 0; i < ARRAY_SIZE(modes); i++) {
			/*
			 * Whoever serves such faults puts pages into the file
			 * of the vma, and a dma-buf has none of its own.
			 */
			EXPECT_DIFFERENT(a, 0, -EINVAL,
					 uffd_register(uffd, a->map, LEN,
						       modes[i]));
			if (!a->buffer) {
				ASSERT_EQ(0, uffd_unregister(uffd, a->map,
							     LEN));
			}
			NOTE(a, shows(a->map, 1));
		}
		close(uffd);
	}
}

/* To learn what is written needs no page from anybody: for any memory. */
TEST_F(ways, uffd_wp_async)
{
	for_each_area(a) {
		int uffd = uffd_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP |
				     UFFD_FEATURE_WP_UNPOPULATED |
				     UFFD_FEATURE_WP_ASYNC);

		ASSERT_LE(0, uffd);
		/* half of it is mapped; page 20 is a hole */
		ASSERT_EQ(0, write_file(FAULT_AROUND, "4096"));
		fill(a, 1);
		ASSERT_EQ(0, punch(a->file, file_page(a, 20), 1));
		ASSERT_EQ(0, madvise(a->map, 12 * PAGE, MADV_POPULATE_READ));
		ASSERT_EQ(0, NOTE(a, uffd_register(uffd, a->map, LEN,
						   UFFDIO_REGISTER_MODE_WP)));
		NOTE(a, uffd_writeprotect(uffd, a->map, LEN, true));
		note_scan(a);
		EXPECT_EQ(NR, NOTE(a, pagemap_bits(a->map, NR, PM_UFFD_WP)));
		NOTE(a, touch(at(a, 1), false));
		NOTE(a, touch(at(a, 2), true));
		NOTE(a, touch(at(a, 16), false));
		NOTE(a, touch(at(a, 17), true));
		NOTE(a, touch(at(a, 20), true));
		for (unsigned int i = 0; i < NR; i++)
			NOTE(a, pagemap_entry(at(a, i)) & PM_UFFD_WP);
		EXPECT_EQ(NR - 3, pagemap_bits(a->map, NR, PM_UFFD_WP));
		note_scan(a);
		/* pages that leave take nothing along */
		NOTE(a, madvise(a->map, LEN, MADV_DONTNEED));
		NOTE(a, pagemap_bits(a->map, NR, PM_UFFD_WP));
		ASSERT_EQ(0, punch_all(a));
		NOTE(a, pagemap_bits(a->map, NR, PM_UFFD_WP));
		fill(a, 2);
		NOTE(a, shows(a->map, 2));
		NOTE(a, pagemap_bits(a->map, NR, PM_UFFD_WP));
		NOTE(a, touch(at(a, 3), true));
		NOTE(a, pagemap_bits(a->map, NR, PM_UFFD_WP));
		NOTE(a, uffd_unregister(uffd, a->map, LEN));
		NOTE(a, pagemap_bits(a->map, NR, PM_UFFD_WP));
		fill(a, 3);
		NOTE(a, shows(a->map, 3));
		close(uffd);
	}
}

TEST_HARNESS_MAIN

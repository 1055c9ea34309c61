// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers of huge pages: hugetlb, whose pages come from a pool that has to be
 * kept right, and large folios of shmem, which may be mapped as one where run,
 * address and folio agree, and only there.
 */
#include "common.h"

#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include "harness.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef MFD_HUGE_1GB
#define MFD_HUGE_1GB (30U << 26)
#endif

#define HUGE		(2UL << 20)
#define PER_HUGE	(HUGE / PAGE)
#define FILE_HUGE	4UL
#define FILE_SIZE	(FILE_HUGE * HUGE)
#define FILE_PAGES	(FILE_HUGE * PER_HUGE)

#define POOL_2M		"/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define POOL_1G		"/sys/kernel/mm/hugepages/hugepages-1048576kB/"
#define THP_DIR		"/sys/kernel/mm/transparent_hugepage/"
#define CGROUP		"/sys/fs/cgroup/"

static long read_number(const char *dir, const char *name)
{
	char path[256];
	long value = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s%s", dir, name);
	f = fopen(path, "re");
	if (!f)
		return -1;
	if (fscanf(f, "%ld", &value) != 1)
		value = -1;
	fclose(f);
	return value;
}

static int write_number(const char *dir, const char *name, long value)
{
	char path[256], text[32];

	snprintf(path, sizeof(path), "%s%s", dir, name);
	snprintf(text, sizeof(text), "%ld", value);
	return write_file(path, text);
}

/* All that a pool of huge pages counts. */
struct pool {
	long nr;
	long free;
	long resv;
	long surplus;
};

static struct pool read_pool(const char *dir)
{
	return (struct pool) {
		.nr = read_number(dir, "nr_hugepages"),
		.free = read_number(dir, "free_hugepages"),
		.resv = read_number(dir, "resv_hugepages"),
		.surplus = read_number(dir, "surplus_hugepages"),
	};
}

#define expect_pool(want, seen) do {					\
	struct pool _want = (want), _seen = (seen);			\
									\
	EXPECT_EQ(_want.nr, _seen.nr);					\
	EXPECT_EQ(_want.free, _seen.free);				\
	EXPECT_EQ(_want.resv, _seen.resv);				\
	EXPECT_EQ(_want.surplus, _seen.surplus);			\
} while (0)

/*
 * A file by path on a mount of its own. The mount is out of the way at once, and
 * gone with the last user of the file.
 */
static int new_file(const char *type, const char *options, unsigned long size)
{
	char dir[] = "/tmp/memfd_dmabuf.XXXXXX", path[64];
	int fd = -1;

	if (!mkdtemp(dir))
		return -1;
	if (!mount("none", dir, type, 0, options)) {
		snprintf(path, sizeof(path), "%s/ram", dir);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd >= 0 && ftruncate(fd, size)) {
			close(fd);
			fd = -1;
		}
		umount2(dir, MNT_DETACH);
	}
	rmdir(dir);
	return fd;
}

static int new_huge_memfd(unsigned int page_size, unsigned long size)
{
	int fd = memfd_create("memfd_dmabuf test", MFD_ALLOW_SEALING |
			      MFD_CLOEXEC | MFD_HUGETLB | page_size);

	if (fd >= 0 && ftruncate(fd, size)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Address space for @size bytes, from a huge page boundary. */
static char *reserve(unsigned long size)
{
	char *area = mmap(NULL, size + HUGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *start;

	if (area == MAP_FAILED)
		return area;
	start = (char *)(((uintptr_t)area + HUGE - 1) & -HUGE);
	if (start > area)
		munmap(area, start - area);
	munmap(start + size, area + HUGE - start);
	return start;
}

static void fill_pages(char *map, unsigned long nr, unsigned int version)
{
	for (unsigned long p = 0; p < nr; p++)
		fill_page(map + p * PAGE, tag(1, p, version));
}

static long blocks(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? -1 : st.st_blocks;
}

/* The page frames of that many pages, 0 for one that is not mapped. */
static uint64_t *frames(const char *addr, unsigned long nr)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t *entries = calloc(nr, 8);

	if (pread(fd, entries, nr * 8, (uintptr_t)addr / PAGE * 8) != nr * 8)
		memset(entries, 0, nr * 8);
	for (unsigned long i = 0; i < nr; i++)
		entries[i] = entries[i] & PM_PRESENT ? PM_PFN(entries[i]) : 0;
	close(fd);
	return entries;
}

static uint64_t frame(const char *addr)
{
	uint64_t *entry = frames(addr, 1), found = *entry;

	free(entry);
	return found;
}

/* How a test touches its mapping. */
enum access { READ, WRITE, POPULATE_READ, POPULATE_WRITE, ACCESSES };

static int touch(char *map, unsigned long nr, enum access access)
{
	unsigned long i;

	switch (access) {
	case POPULATE_READ:
		return madvise(map, nr * PAGE, MADV_POPULATE_READ);
	case POPULATE_WRITE:
		return madvise(map, nr * PAGE, MADV_POPULATE_WRITE);
	case READ:
		for (i = 0; i < nr; i++)
			PEEK(map + i * PAGE);
		break;
	default:
		for (i = 0; i < nr; i++)
			POKE(map + i * PAGE, PEEK(map + i * PAGE));
	}
	return 0;
}

/* A buffer and its mapping: buffer page i is the page list[i] of the file. */
struct shown {
	int buf;
	char *map;
	unsigned long nr;
	const unsigned long *list;
};

static void show_at(struct __test_metadata *_metadata, struct shown *s, int dev,
		    int fd, unsigned int flags, const unsigned long *list,
		    unsigned long nr, char *addr)
{
	struct memfd_dmabuf_range *r = calloc(nr, sizeof(*r));
	int prot = PROT_READ;

	for (unsigned long i = 0; i < nr; i++)
		r[i] = range(fd, list[i], 1);
	s->list = list;
	s->nr = nr;
	s->buf = create_flags(dev, MEMFD_DMABUF_CLOEXEC | flags, r, nr);
	free(r);
	ASSERT_LE(0, s->buf);
	if (!(flags & MEMFD_DMABUF_RDONLY))
		prot |= PROT_WRITE;
	s->map = mmap(addr, nr * PAGE, prot, MAP_SHARED | (addr ? MAP_FIXED : 0),
		      s->buf, 0);
	ASSERT_NE(MAP_FAILED, s->map);
}

static void hide(struct shown *s)
{
	munmap(s->map, s->nr * PAGE);
	close(s->buf);
}

/*
 * No page is mapped that is not the file's page of that place. @file is the
 * owner's mapping.
 */
static void expect_frames(struct __test_metadata *_metadata,
			  const struct shown *s, char *file)
{
	unsigned long wrong, last = 0;
	uint64_t *here, *there, *again;
	bool moved;

	/* khugepaged and compaction may move pages between two looks */
	do {
		here = frames(s->map, s->nr);
		for (unsigned long i = 0; i < s->nr; i++) {
			if (here[i])
				PEEK(file + s->list[i] * PAGE);
			if (s->list[i] > last)
				last = s->list[i];
		}
		there = frames(file, last + 1);
		again = frames(s->map, s->nr);
		wrong = 0;
		for (unsigned long i = 0; i < s->nr; i++)
			wrong += here[i] && here[i] != there[s->list[i]];
		moved = memcmp(here, again, s->nr * sizeof(*here));
		free(here);
		free(there);
		free(again);
	} while (moved);
	EXPECT_EQ(0, wrong);
}

static void expect_version(struct __test_metadata *_metadata,
			   const struct shown *s, unsigned int version)
{
	unsigned long wrong = 0;

	for (unsigned long i = 0; i < s->nr; i++)
		wrong += !page_is(s->map + i * PAGE,
				  tag(1, s->list[i], version));
	EXPECT_EQ(0, wrong);
}

static unsigned long count_mapped(const struct shown *s)
{
	uint64_t *here = frames(s->map, s->nr);
	unsigned long nr = 0;

	for (unsigned long i = 0; i < s->nr; i++)
		nr += here[i] != 0;
	free(here);
	return nr;
}

/* hugetlb */

#define POOL_PAGES	8L
#define SCATTERED	192UL

FIXTURE(hugetlb) {
	int dev;
	int fd;
	char *owner;		/* the owner's mapping of the file */
	long nr_hugepages;
	struct pool before;
	long meminfo_free, meminfo_rsvd, meminfo_surp;
	/* of every layout: pages out of order, from all of the huge pages */
	unsigned long scattered[SCATTERED];
	unsigned long all[FILE_PAGES];
};

FIXTURE_VARIANT(hugetlb) {
	bool by_path;
	int mmap_flags;
};

FIXTURE_VARIANT_ADD(hugetlb, memfd) { false, 0 };
FIXTURE_VARIANT_ADD(hugetlb, memfd_noreserve) { false, MAP_NORESERVE };
FIXTURE_VARIANT_ADD(hugetlb, by_path) { true, 0 };
FIXTURE_VARIANT_ADD(hugetlb, by_path_noreserve) { true, MAP_NORESERVE };

static int new_hugetlb(bool by_path, unsigned long size)
{
	return by_path ? new_file("hugetlbfs", "pagesize=2M", size) :
			 new_huge_memfd(MFD_HUGE_2MB, size);
}

FIXTURE_SETUP(hugetlb)
{
	catch_sigbus();
	for (unsigned long i = 0; i < SCATTERED; i++)
		self->scattered[i] = (i * 397 + 5) % FILE_PAGES;
	for (unsigned long i = 0; i < FILE_PAGES; i++)
		self->all[i] = i;
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	self->nr_hugepages = read_number(POOL_2M, "nr_hugepages");
	ASSERT_EQ(0, write_number(POOL_2M, "nr_hugepages", POOL_PAGES));
	self->before = read_pool(POOL_2M);
	ASSERT_EQ(POOL_PAGES, self->before.free);
	self->meminfo_free = read_key("/proc/meminfo", "HugePages_Free:");
	self->meminfo_rsvd = read_key("/proc/meminfo", "HugePages_Rsvd:");
	self->meminfo_surp = read_key("/proc/meminfo", "HugePages_Surp:");
	self->fd = new_hugetlb(variant->by_path, FILE_SIZE);
	ASSERT_LE(0, self->fd);
	self->owner = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE,
			   MAP_SHARED | variant->mmap_flags, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->owner);
	/* both kinds of accounting are tested */
	ASSERT_EQ(variant->mmap_flags & MAP_NORESERVE ? 0 : FILE_HUGE,
		  read_number(POOL_2M, "resv_hugepages"));
}

FIXTURE_TEARDOWN(hugetlb)
{
	if (self->owner)
		munmap(self->owner, FILE_SIZE);
	if (self->fd >= 0)
		close(self->fd);
	/* nothing is lost, and nothing is left */
	expect_pool(self->before, read_pool(POOL_2M));
	EXPECT_EQ(self->meminfo_free,
		  read_key("/proc/meminfo", "HugePages_Free:"));
	EXPECT_EQ(self->meminfo_rsvd,
		  read_key("/proc/meminfo", "HugePages_Rsvd:"));
	EXPECT_EQ(self->meminfo_surp,
		  read_key("/proc/meminfo", "HugePages_Surp:"));
	EXPECT_EQ(0, write_number(POOL_2M, "nr_hugepages",
				  self->nr_hugepages));
	close(self->dev);
}

#define show(s, list, nr, flags) \
	show_at(_metadata, s, self->dev, self->fd, flags, list, nr, NULL)

/* Punch, truncate and the like take whole huge pages. */
static int punch_huge(int fd, unsigned long huge, unsigned long nr)
{
	return punch(fd, huge * PER_HUGE, nr * PER_HUGE);
}

/* In every order, and whichever page is touched first. */
TEST_F(hugetlb, coherent)
{
	unsigned long list[SCATTERED];

	fill_pages(self->owner, FILE_PAGES, 1);
	for (int layout = 0; layout < 5; layout++) {
		struct shown s;

		for (unsigned long i = 0; i < SCATTERED; i++) {
			switch (layout) {
			case 0: /* scattered */
				list[i] = self->scattered[i];
				break;
			case 1: /* backwards, over two boundaries */
				list[i] = 2 * PER_HUGE + 50 - i * 4;
				break;
			case 2: /* repeated, over a boundary */
				list[i] = PER_HUGE - 3 + i % 5;
				break;
			case 3: /* one run over a boundary */
				list[i] = PER_HUGE - SCATTERED / 2 + i;
				break;
			case 4: /* runs of three with gaps, the last first */
				list[i] = (SCATTERED - i) / 3 * 5 + i % 3 + 7;
				break;
			}
		}
		show(&s, list, SCATTERED, 0);
		/* one page, and what came along with it */
		PEEK(s.map + (SCATTERED / 2) * PAGE);
		EXPECT_TRUE(mapped(s.map + (SCATTERED / 2) * PAGE));
		expect_frames(_metadata, &s, self->owner);
		POKE(s.map + 3 * PAGE, PEEK(s.map + 3 * PAGE));
		expect_frames(_metadata, &s, self->owner);
		/* the owner's pages here */
		expect_version(_metadata, &s, 1);
		EXPECT_EQ(SCATTERED, count_mapped(&s));
		expect_frames(_metadata, &s, self->owner);
		/* what is written there */
		fill_pages(self->owner, FILE_PAGES, 2);
		expect_version(_metadata, &s, 2);
		/* what is written here, and nothing else */
		for (unsigned long i = 0; i < SCATTERED; i++)
			fill_page(s.map + i * PAGE, tag(1, list[i], 3));
		for (unsigned long p = 0; p < FILE_PAGES; p++) {
			unsigned int version = 2;

			for (unsigned long i = 0; i < SCATTERED; i++)
				if (list[i] == p)
					version = 3;
			EXPECT_TRUE(page_is(self->owner + p * PAGE,
					    tag(1, p, version)));
		}
		expect_version(_metadata, &s, 3);
		hide(&s);
		fill_pages(self->owner, FILE_PAGES, 1);
	}
}

TEST_F(hugetlb, ranges)
{
	struct memfd_dmabuf_range r;
	struct memfd_dmabuf_info info;
	int buf;

	/* base pages are fine, wherever they are */
	r = range(self->fd, 3, 1);
	buf = create(self->dev, &r, 1);
	ASSERT_LE(0, buf);
	close(buf);
	r = range(self->fd, PER_HUGE - 1, PER_HUGE + 2);
	buf = create(self->dev, &r, 1);
	ASSERT_LE(0, buf);
	info.fd = buf;
	ASSERT_EQ(0, ioctl(self->dev, MEMFD_DMABUF_INFO, &info));
	EXPECT_EQ((PER_HUGE + 2) * PAGE, info.size);
	EXPECT_EQ(1, info.runs);
	close(buf);
	r = range(self->fd, 0, FILE_PAGES);
	buf = create(self->dev, &r, 1);
	ASSERT_LE(0, buf);
	close(buf);

	r = range(self->fd, 1, 1);
	r.offset += 512;
	EXPECT_EQ(-EINVAL, create(self->dev, &r, 1));
	r = range(self->fd, 1, 1);
	r.size += 512;
	EXPECT_EQ(-EINVAL, create(self->dev, &r, 1));
	r = range(self->fd, FILE_PAGES - 1, 2);
	EXPECT_EQ(-EINVAL, create(self->dev, &r, 1));
	r = range(self->fd, FILE_PAGES, 1);
	EXPECT_EQ(-EINVAL, create(self->dev, &r, 1));
	ASSERT_EQ(0, ftruncate(self->fd, HUGE));
	r = range(self->fd, 0, PER_HUGE + 1);
	EXPECT_EQ(-EINVAL, create(self->dev, &r, 1));
	/* making buffers took no page */
	EXPECT_EQ(0, blocks(self->fd));
}

TEST_F(hugetlb, truncate_and_regrow)
{
	struct shown s;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	expect_version(_metadata, &s, 1);
	ASSERT_EQ(0, ftruncate(self->fd, HUGE));
	for (unsigned long i = 0; i < s.nr; i++) {
		char *addr = s.map + i * PAGE;

		if (s.list[i] < PER_HUGE) {
			EXPECT_TRUE(mapped(addr));
			EXPECT_TRUE(page_is(addr, tag(1, s.list[i], 1)));
		} else {
			EXPECT_FALSE(mapped(addr));
			EXPECT_TRUE(access_sigbus(addr + i, i % 2));
		}
	}
	ASSERT_EQ(0, ftruncate(self->fd, 0));
	EXPECT_EQ(0, count_mapped(&s));
	for (unsigned long i = 0; i < s.nr; i++) {
		EXPECT_TRUE(access_sigbus(s.map + i * PAGE, i % 2));
	}
	EXPECT_EQ(0, blocks(self->fd));
	ASSERT_EQ(0, ftruncate(self->fd, FILE_SIZE));
	for (unsigned long i = 0; i < s.nr; i++) {
		EXPECT_TRUE(page_is(s.map + i * PAGE, 0));
	}
	expect_frames(_metadata, &s, self->owner);
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &s, 2);
	hide(&s);
}

TEST_F(hugetlb, punch_whole)
{
	struct memfd_dmabuf_info info;
	struct shown s;
	uint64_t discards;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->all, FILE_PAGES, 0);
	expect_version(_metadata, &s, 1);
	info.fd = s.buf;
	ASSERT_EQ(0, ioctl(self->dev, MEMFD_DMABUF_INFO, &info));
	discards = info.discards;
	ASSERT_EQ(0, punch_huge(self->fd, 1, 1));
	ASSERT_EQ(0, ioctl(self->dev, MEMFD_DMABUF_INFO, &info));
	EXPECT_EQ(discards + 1, info.discards);
	EXPECT_EQ((FILE_HUGE - 1) * (HUGE / 512), blocks(self->fd));
	EXPECT_EQ(FILE_PAGES - PER_HUGE, count_mapped(&s));
	EXPECT_FALSE(mapped(s.map + HUGE));
	for (unsigned long p = 0; p < FILE_PAGES; p++) {
		EXPECT_TRUE(page_is(s.map + p * PAGE, p / PER_HUGE == 1 ? 0 :
				    tag(1, p, 1)));
	}
	expect_frames(_metadata, &s, self->owner);
	/* the new page is the owner's new page, whoever made it */
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &s, 2);
	ASSERT_EQ(0, madvise(self->owner, FILE_SIZE, MADV_REMOVE));
	EXPECT_EQ(0, count_mapped(&s));
	EXPECT_EQ(0, blocks(self->fd));
	fill_pages(self->owner, FILE_PAGES, 3);
	expect_version(_metadata, &s, 3);
	hide(&s);
}

/* Less than a huge page is zeroed in place: the page stays what it was. */
TEST_F(hugetlb, punch_partial)
{
	unsigned long first = PER_HUGE / 2, last = 3 * PER_HUGE - 7;
	uint64_t before;
	struct shown s;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->all, FILE_PAGES, 0);
	expect_version(_metadata, &s, 1);
	before = frame(self->owner);
	ASSERT_EQ(0, punch(self->fd, 3, 2));
	EXPECT_EQ(FILE_HUGE * (HUGE / 512), blocks(self->fd));
	/* from the middle of one to the middle of another, and one between */
	ASSERT_EQ(0, punch(self->fd, first, last - first));
	EXPECT_EQ((FILE_HUGE - 1) * (HUGE / 512), blocks(self->fd));
	for (unsigned long p = 0; p < FILE_PAGES; p++) {
		bool zero = p == 3 || p == 4 || (p >= first && p < last);

		EXPECT_TRUE(page_is(s.map + p * PAGE, zero ? 0 : tag(1, p, 1)));
	}
	PEEK(self->owner);
	EXPECT_EQ(before, frame(self->owner));
	expect_frames(_metadata, &s, self->owner);
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &s, 2);
	hide(&s);
}

/* The first access of all is the consumer's: the page is the file's, once. */
TEST_F(hugetlb, hole)
{
	struct pool pool;
	struct shown s;

	for (enum access a = READ; a < ACCESSES; a++) {
		show(&s, self->scattered, SCATTERED, 0);
		EXPECT_EQ(0, blocks(self->fd));
		pool = read_pool(POOL_2M);
		ASSERT_EQ(0, touch(s.map, 1, a));
		EXPECT_EQ(HUGE / 512, blocks(self->fd));
		EXPECT_EQ(pool.free - 1, read_number(POOL_2M, "free_hugepages"));
		/* from the owner's reservation, if there is one */
		EXPECT_EQ(pool.resv - !!pool.resv,
			  read_number(POOL_2M, "resv_hugepages"));
		ASSERT_EQ(0, touch(s.map, s.nr, a));
		EXPECT_EQ(FILE_SIZE / 512, blocks(self->fd));
		EXPECT_EQ(SCATTERED, count_mapped(&s));
		expect_frames(_metadata, &s, self->owner);
		for (unsigned long i = 0; i < s.nr; i++) {
			EXPECT_TRUE(page_is(s.map + i * PAGE, 0));
			fill_page(s.map + i * PAGE, i + 1);
			EXPECT_TRUE(page_is(self->owner + s.list[i] * PAGE,
					    i + 1));
		}
		hide(&s);
		ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	}
}

/* The buffer holds the file, with or without its owner. */
TEST_F(hugetlb, owner_gone)
{
	struct shown s;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	ASSERT_EQ(0, munmap(self->owner, FILE_SIZE));
	self->owner = NULL;
	expect_version(_metadata, &s, 1);
	ASSERT_EQ(0, punch_huge(self->fd, 2, 1));
	close(self->fd);
	self->fd = -1;
	for (unsigned long i = 0; i < s.nr; i++) {
		EXPECT_TRUE(page_is(s.map + i * PAGE,
				    s.list[i] / PER_HUGE == 2 ? 0 :
				    tag(1, s.list[i], 1)));
	}
	EXPECT_EQ(POOL_PAGES - FILE_HUGE,
		  read_number(POOL_2M, "free_hugepages"));
	close(s.buf);
	for (unsigned long i = 0; i < s.nr; i++)
		fill_page(s.map + i * PAGE, tag(1, s.list[i], 2));
	expect_version(_metadata, &s, 2);
	munmap(s.map, s.nr * PAGE);
	expect_pool(self->before, read_pool(POOL_2M));
}

TEST_F(hugetlb, rdonly)
{
	char path[64];
	struct shown s;
	int ro;

	/* a file that is not open for writing makes only such a buffer */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, ro);
	show_at(_metadata, &s, self->dev, ro, MEMFD_DMABUF_RDONLY,
		self->scattered, SCATTERED, NULL);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED, s.buf, 0));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(-1, mprotect(s.map, PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(EACCES, errno);
	/* a read of a hole */
	EXPECT_TRUE(page_is(s.map, 0));
	EXPECT_LT(0, blocks(self->fd));
	fill_pages(self->owner, FILE_PAGES, 1);
	expect_version(_metadata, &s, 1);
	EXPECT_EQ(-1, touch(s.map, 1, POPULATE_WRITE));
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &s, 2);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
	close(ro);
}

TEST_F(hugetlb, noalloc)
{
	struct pool pool = read_pool(POOL_2M);
	struct shown s;

	show(&s, self->scattered, SCATTERED, MEMFD_DMABUF_NOALLOC);
	for (unsigned long i = 0; i < s.nr; i++) {
		EXPECT_TRUE(access_sigbus(s.map + i * PAGE + i, i % 2));
	}
	EXPECT_EQ(0, blocks(self->fd));
	expect_pool(pool, read_pool(POOL_2M));
	/* one huge page is there, its neighbours are not */
	fill_page(self->owner + HUGE, 1);
	for (unsigned long i = 0; i < s.nr; i++) {
		if (s.list[i] / PER_HUGE == 1) {
			EXPECT_TRUE(page_is(s.map + i * PAGE,
					    s.list[i] == PER_HUGE));
			POKE(s.map + i * PAGE, 1);
		} else {
			EXPECT_TRUE(access_sigbus(s.map + i * PAGE, i % 2));
		}
	}
	EXPECT_EQ(HUGE / 512, blocks(self->fd));
	ASSERT_EQ(0, punch_huge(self->fd, 1, 1));
	for (unsigned long i = 0; i < s.nr; i++) {
		EXPECT_TRUE(access_sigbus(s.map + i * PAGE, i % 2));
	}
	EXPECT_EQ(0, blocks(self->fd));
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &s, 2);
	hide(&s);
}

/* The child inherits page tables that the parent's punch has to find. */
TEST_F(hugetlb, fork)
{
	int to_child[2], to_parent[2], status;
	struct shown s;
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(to_child));
	ASSERT_EQ(0, pipe(to_parent));
	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	expect_version(_metadata, &s, 1);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		expect_version(_metadata, &s, 1);
		(void)!write(to_parent[1], "1", 1);
		(void)!read(to_child[0], &c, 1);
		EXPECT_EQ(0, count_mapped(&s));
		expect_version(_metadata, &s, 2);
		for (unsigned long i = 0; i < s.nr; i++)
			fill_page(s.map + i * PAGE, tag(1, s.list[i], 3));
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(1, read(to_parent[0], &c, 1));
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	EXPECT_EQ(0, count_mapped(&s));
	fill_pages(self->owner, FILE_PAGES, 2);
	ASSERT_EQ(1, write(to_child[1], "2", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	expect_version(_metadata, &s, 3);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

TEST_F(hugetlb, mremap)
{
	struct shown s;
	char *new;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	expect_version(_metadata, &s, 1);
	/* past the end of the buffer it shows nothing, as a file's would */
	new = mremap(s.map, SCATTERED * PAGE, (SCATTERED + 1) * PAGE,
		     MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, new);
	s.map = new;
	EXPECT_TRUE(access_sigbus(new + SCATTERED * PAGE, false));
	EXPECT_TRUE(access_sigbus(new + SCATTERED * PAGE, true));
	ASSERT_EQ(0, munmap(new + SCATTERED * PAGE, PAGE));
	expect_version(_metadata, &s, 1);
	/* moved by a page more than a page table */
	new = reserve(HUGE + SCATTERED * PAGE + PAGE) + PAGE;
	ASSERT_EQ(new, mremap(s.map, SCATTERED * PAGE, SCATTERED * PAGE,
			      MREMAP_MAYMOVE | MREMAP_FIXED, new));
	s.map = new;
	EXPECT_EQ(SCATTERED, count_mapped(&s));
	expect_version(_metadata, &s, 1);
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	EXPECT_EQ(0, count_mapped(&s));
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &s, 2);
	/* shrunk, and grown again within the buffer */
	ASSERT_EQ(new, mremap(new, SCATTERED * PAGE, 5 * PAGE, 0));
	EXPECT_FALSE(mapped(new + 5 * PAGE));
	/* elsewhere: the kernel does not extend a mixed vma where it is */
	ASSERT_EQ(new + 5 * PAGE, mmap(new + 5 * PAGE, PAGE, PROT_NONE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				       -1, 0));
	new = mremap(new, 5 * PAGE, SCATTERED * PAGE, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, new);
	s.map = new;
	expect_version(_metadata, &s, 2);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

TEST_F(hugetlb, mprotect)
{
	struct shown s;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	expect_version(_metadata, &s, 1);
	ASSERT_EQ(0, mprotect(s.map, s.nr * PAGE, PROT_READ));
	expect_version(_metadata, &s, 1);
	/* a part of it writable again, of pages that are mapped read-only */
	ASSERT_EQ(0, mprotect(s.map + 10 * PAGE, 20 * PAGE,
			      PROT_READ | PROT_WRITE));
	for (unsigned long i = 10; i < 30; i++)
		fill_page(s.map + i * PAGE, tag(1, s.list[i], 2));
	for (unsigned long i = 0; i < s.nr; i++) {
		EXPECT_TRUE(page_is(self->owner + s.list[i] * PAGE,
				    tag(1, s.list[i], 1 + (i >= 10 && i < 30))));
	}
	ASSERT_EQ(0, mprotect(s.map, s.nr * PAGE, PROT_NONE));
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	fill_pages(self->owner, FILE_PAGES, 3);
	ASSERT_EQ(0, mprotect(s.map, s.nr * PAGE, PROT_READ | PROT_WRITE));
	expect_version(_metadata, &s, 3);
	for (unsigned long i = 0; i < s.nr; i++)
		fill_page(s.map + i * PAGE, tag(1, s.list[i], 4));
	expect_version(_metadata, &s, 4);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

TEST_F(hugetlb, partial_munmap)
{
	struct shown s;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->all, FILE_PAGES, 0);
	expect_version(_metadata, &s, 1);
	/* no boundary of a huge page: these are base pages */
	ASSERT_EQ(0, munmap(s.map + 5 * PAGE, (PER_HUGE + 9) * PAGE));
	EXPECT_EQ(FILE_PAGES - PER_HUGE - 9, count_mapped(&s));
	EXPECT_TRUE(page_is(s.map + 4 * PAGE, tag(1, 4, 1)));
	EXPECT_TRUE(page_is(s.map + (PER_HUGE + 14) * PAGE,
			    tag(1, PER_HUGE + 14, 1)));
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	EXPECT_EQ(0, count_mapped(&s));
	fill_pages(self->owner, FILE_PAGES, 2);
	ASSERT_EQ(s.map + 5 * PAGE,
		  mmap(s.map + 5 * PAGE, (PER_HUGE + 9) * PAGE, PROT_READ,
		       MAP_SHARED | MAP_FIXED, s.buf, 5 * PAGE));
	expect_version(_metadata, &s, 2);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

TEST_F(hugetlb, dontneed)
{
	struct shown s;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	expect_version(_metadata, &s, 1);
	ASSERT_EQ(0, madvise(s.map, s.nr * PAGE, MADV_DONTNEED));
	EXPECT_EQ(0, count_mapped(&s));
	expect_version(_metadata, &s, 1);
	/* the other way round */
	ASSERT_EQ(0, madvise(self->owner, FILE_SIZE, MADV_DONTNEED));
	EXPECT_EQ(s.nr, count_mapped(&s));
	expect_version(_metadata, &s, 1);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

/* What else madvise() says, and what it says of a mapping of the file. */
TEST_F(hugetlb, advice)
{
	static const struct {
		int advice, on_file, on_buffer;
	} advices[] = {
		{ MADV_DONTDUMP, 0, 0 },
		{ MADV_DODUMP, 0, EINVAL },
		{ MADV_COLD, EINVAL, 0 },
		{ MADV_PAGEOUT, EINVAL, 0 },
	};
	struct shown s;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	expect_version(_metadata, &s, 1);
	for (unsigned int i = 0; i < 4; i++) {
		errno = 0;
		madvise(self->owner, FILE_SIZE, advices[i].advice);
		EXPECT_EQ(advices[i].on_file, errno);
		errno = 0;
		madvise(s.map, s.nr * PAGE, advices[i].advice);
		EXPECT_EQ(advices[i].on_buffer, errno);
	}
	/* nothing has gone */
	EXPECT_EQ(s.nr, count_mapped(&s));
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

TEST_F(hugetlb, populate)
{
	struct shown s;
	char *map;

	show(&s, self->scattered, SCATTERED, 0);
	map = mmap(NULL, s.nr * PAGE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_POPULATE, s.buf, 0);
	ASSERT_NE(MAP_FAILED, map);
	munmap(s.map, s.nr * PAGE);
	s.map = map;
	EXPECT_EQ(s.nr, count_mapped(&s));
	EXPECT_EQ(FILE_SIZE / 512, blocks(self->fd));
	expect_frames(_metadata, &s, self->owner);
	fill_pages(self->owner, FILE_PAGES, 1);
	expect_version(_metadata, &s, 1);
	hide(&s);
}

/* Whether a page is there does not depend on who has mapped it. */
TEST_F(hugetlb, mincore)
{
	unsigned char vec[SCATTERED];
	unsigned long wrong = 0;
	struct shown s;

	show(&s, self->scattered, SCATTERED, 0);
	POKE(self->owner + HUGE, 1);
	/* it tells what is mapped, as of no file's page cache it knows */
	for (unsigned long i = 0; i < s.nr; i++)
		if (s.list[i] / PER_HUGE == 1)
			PEEK(s.map + i * PAGE);
	ASSERT_EQ(0, mincore(s.map, s.nr * PAGE, vec));
	for (unsigned long i = 0; i < s.nr; i++)
		wrong += (vec[i] & 1) != (s.list[i] / PER_HUGE == 1);
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(HUGE / 512, blocks(self->fd));
	hide(&s);
}

/* Read or write the memory of this process as a debugger does. */
static ssize_t proc_mem(char *addr, void *data, size_t len, bool write)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	ssize_t n;

	n = write ? pwrite(fd, data, len, (uintptr_t)addr) :
		    pread(fd, data, len, (uintptr_t)addr);
	if (n < 0)
		n = -errno;
	close(fd);
	return n;
}

TEST_F(hugetlb, proc_mem)
{
	static const int prots[] = {
		PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE,
	};
	uint64_t data[PAGE / 8], two[2];
	struct shown s;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	for (unsigned long i = 0; i < s.nr; i += 7) {
		/* half of them have been touched before */
		if (i % 2)
			PEEK(s.map + i * PAGE);
		EXPECT_EQ(PAGE, proc_mem(s.map + i * PAGE, data, PAGE, false));
		EXPECT_TRUE(page_is(data, tag(1, s.list[i], 1)));
		fill_page(data, tag(1, s.list[i], 2));
		EXPECT_EQ(PAGE, proc_mem(s.map + i * PAGE, data, PAGE, true));
		EXPECT_TRUE(page_is(s.map + i * PAGE, tag(1, s.list[i], 2)));
		EXPECT_TRUE(page_is(self->owner + s.list[i] * PAGE,
				    tag(1, s.list[i], 2)));
		fill_page(self->owner + s.list[i] * PAGE, tag(1, s.list[i], 1));
	}
	/* two pages that are neighbours here, and not in the file */
	EXPECT_EQ(16, proc_mem(s.map + PAGE - 8, two, 16, false));
	EXPECT_EQ(tag(1, s.list[0], 1), two[0]);
	EXPECT_EQ(tag(1, s.list[1], 1), two[1]);
	two[0] = 11;
	two[1] = 12;
	EXPECT_EQ(16, proc_mem(s.map + PAGE - 8, two, 16, true));
	EXPECT_EQ(11, *(uint64_t *)(self->owner + s.list[0] * PAGE + PAGE - 8));
	EXPECT_EQ(12, *(uint64_t *)(self->owner + s.list[1] * PAGE));

	/* no more is allowed than on the owner's mapping, and no less */
	for (int i = 0; i < 3; i++) {
		uint64_t here = 0, there = 0;

		ASSERT_EQ(0, mprotect(self->owner, FILE_SIZE, prots[i]));
		ASSERT_EQ(0, mprotect(s.map, s.nr * PAGE, prots[i]));
		EXPECT_EQ(proc_mem(self->owner + s.list[2] * PAGE, &there, 8,
				   false),
			  proc_mem(s.map + 2 * PAGE, &here, 8, false));
		EXPECT_EQ(there, here);
		EXPECT_EQ(proc_mem(self->owner + s.list[2] * PAGE, &there, 8,
				   true),
			  proc_mem(s.map + 2 * PAGE, &here, 8, true));
	}
	ASSERT_EQ(0, mprotect(self->owner, FILE_SIZE, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, mprotect(s.map, s.nr * PAGE, PROT_READ | PROT_WRITE));

	/* a hole is filled, and beyond the end there is nothing */
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	EXPECT_EQ(8, proc_mem(s.map, two, 8, false));
	EXPECT_EQ(0, two[0]);
	EXPECT_EQ(HUGE / 512, blocks(self->fd));
	ASSERT_EQ(0, ftruncate(self->fd, 0));
	EXPECT_EQ(-EIO, proc_mem(self->owner, two, 8, false));
	EXPECT_EQ(-EIO, proc_mem(s.map, two, 8, false));
	EXPECT_EQ(-EIO, proc_mem(s.map, two, 8, true));
	hide(&s);
}

/* Not even a debugger writes to a read-only buffer, or fills its holes. */
TEST_F(hugetlb, proc_mem_rdonly_noalloc)
{
	uint64_t value = 7;
	struct shown s;

	show(&s, self->scattered, SCATTERED,
	     MEMFD_DMABUF_RDONLY | MEMFD_DMABUF_NOALLOC);
	EXPECT_EQ(-EIO, proc_mem(s.map, &value, 8, false));
	EXPECT_EQ(-EIO, proc_mem(s.map, &value, 8, true));
	EXPECT_EQ(0, blocks(self->fd));
	fill_pages(self->owner, FILE_PAGES, 1);
	EXPECT_EQ(-EIO, proc_mem(s.map, &value, 8, true));
	EXPECT_EQ(8, proc_mem(s.map, &value, 8, false));
	EXPECT_EQ(tag(1, s.list[0], 1), value);
	value = 7;
	EXPECT_EQ(-EIO, proc_mem(s.map, &value, 8, true));
	expect_version(_metadata, &s, 1);
	hide(&s);
}

TEST_F(hugetlb, ptrace)
{
	struct shown s;
	int status;
	pid_t pid;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	PEEK(s.map);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(!page_is(s.map + PAGE + 8, 0) &&
		      *(uint64_t *)(s.map + PAGE + 8) != 99);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFSTOPPED(status));
	/* touched by the parent, and by nobody */
	for (int i = 0; i < 2; i++) {
		char *addr = s.map + i * PAGE + 8;

		errno = 0;
		EXPECT_EQ(tag(1, s.list[i], 1),
			  ptrace(PTRACE_PEEKDATA, pid, addr, NULL));
		EXPECT_EQ(0, errno);
		EXPECT_EQ(0, ptrace(PTRACE_POKEDATA, pid, addr, 99));
		EXPECT_EQ(99, *(uint64_t *)(self->owner + s.list[i] * PAGE + 8));
		EXPECT_EQ(99, *(uint64_t *)addr);
	}
	ASSERT_EQ(0, ptrace(PTRACE_CONT, pid, NULL, NULL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	hide(&s);
}

/*
 * Nobody can get a reference on these pages through the buffer: a reference
 * that does not come with a mapping of the huge page would keep it from being
 * migrated, and from going back to the pool. On the owner's mapping they can.
 */
TEST_F(hugetlb, get_user_pages)
{
	struct iovec local, remote;
	uint64_t data[PAGE / 8];
	struct shown s;
	int pipes[2];

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	for (int i = 0; i < 2; i++) {
		local = (struct iovec){ data, PAGE };
		remote = (struct iovec){ self->owner, PAGE };
		EXPECT_EQ(PAGE, process_vm_readv(getpid(), &local, 1, &remote,
						 1, 0));
		remote.iov_base = s.map;
		EXPECT_EQ(-1, process_vm_readv(getpid(), &local, 1, &remote, 1,
					       0));
		EXPECT_EQ(EFAULT, errno);
		EXPECT_EQ(-1, process_vm_writev(getpid(), &local, 1, &remote, 1,
						0));
		EXPECT_EQ(EFAULT, errno);
		ASSERT_EQ(0, pipe(pipes));
		EXPECT_EQ(-1, vmsplice(pipes[1], &remote, 1, 0));
		/* for those who do not translate get_user_pages()' error */
		EXPECT_TRUE(errno == EFAULT || errno == EEXIST);
		/* whoever copies does not mind */
		ASSERT_EQ(PAGE, write(pipes[1], s.map, PAGE));
		ASSERT_EQ(PAGE, read(pipes[0], data, PAGE));
		EXPECT_TRUE(page_is(data, tag(1, s.list[0], 1)));
		fill_page(data, tag(1, s.list[3], 1));
		ASSERT_EQ(PAGE, write(pipes[1], data, PAGE));
		ASSERT_EQ(PAGE, read(pipes[0], s.map + 3 * PAGE, PAGE));
		close(pipes[0]);
		close(pipes[1]);
		/* once more with all pages mapped */
		expect_version(_metadata, &s, 1);
	}
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	EXPECT_EQ(POOL_PAGES, read_number(POOL_2M, "free_hugepages"));
	hide(&s);
}

/* A huge page moves as a whole, mapped here or not, and keeps its contents. */
TEST_F(hugetlb, move_pages)
{
	struct shown s;

	ASSERT_EQ(0, access("/sys/devices/system/node/node1", F_OK))
		TH_LOG("this test needs two NUMA nodes");
	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	for (unsigned long h = 0; h < FILE_HUGE; h++) {
		char *addr = self->owner + h * HUGE;
		uint64_t old;
		int from;

		expect_version(_metadata, &s, 1);
		PEEK(addr);
		old = frame(addr);
		from = move_page(addr, -1);
		ASSERT_LE(0, from);
		ASSERT_EQ(!from, move_page(addr, !from));
		for (unsigned long i = 0; i < s.nr; i++) {
			if (s.list[i] / PER_HUGE == h) {
				EXPECT_FALSE(mapped(s.map + i * PAGE));
			}
		}
		PEEK(addr);
		EXPECT_NE(old, frame(addr));
		expect_version(_metadata, &s, 1);
		expect_frames(_metadata, &s, self->owner);
	}
	hide(&s);
}

/* Everything that counts huge pages, step by step. */
#define STEPS 12

static int account_steps(int dev, bool by_path, int owner_flags, bool buffer,
			 struct pool *steps, long *size)
{
	int fd = new_hugetlb(by_path, FILE_SIZE), n = 0, buf = -1;
	struct memfd_dmabuf_range r = range(fd, 0, FILE_PAGES);
	char *owner, *map;

#define step() do {							\
	size[n] = blocks(fd);						\
	steps[n++] = read_pool(POOL_2M);				\
} while (0)
	owner = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_SHARED | owner_flags, fd, 0);
	step();
	if (buffer) {
		buf = create(dev, &r, 1);
		map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			   buf, 0);
	} else {
		/* the plain mapping that makes no reservation of its own */
		map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_NORESERVE, fd, 0);
	}
	if (owner == MAP_FAILED || map == MAP_FAILED)
		return -1;
	step();
	PEEK(map + 5 * PAGE);
	step();
	POKE(map + HUGE, 1);
	step();
	POKE(owner + 2 * HUGE, 1);
	PEEK(map + 2 * HUGE);
	step();
	punch_huge(fd, 0, 2);
	step();
	POKE(owner, 1);
	step();
	POKE(map + HUGE, 1);
	step();
	if (ftruncate(fd, HUGE))
		return -1;
	step();
	if (ftruncate(fd, FILE_SIZE))
		return -1;
	POKE(map + 3 * HUGE, 1);
	step();
	munmap(owner, FILE_SIZE);
	POKE(map + 2 * HUGE, 1);
	step();
	munmap(map, FILE_SIZE);
	if (buf >= 0)
		close(buf);
	step();
#undef step
	close(fd);
	return n;
}

/* The pool sees no difference between a buffer and a mapping of the file. */
TEST_F(hugetlb, accounting)
{
	struct pool plain[STEPS], buffer[STEPS];
	long plain_size[STEPS], buffer_size[STEPS];

	munmap(self->owner, FILE_SIZE);
	self->owner = NULL;
	close(self->fd);
	self->fd = -1;
	ASSERT_EQ(STEPS, account_steps(self->dev, variant->by_path,
				       variant->mmap_flags, false, plain,
				       plain_size));
	ASSERT_EQ(STEPS, account_steps(self->dev, variant->by_path,
				       variant->mmap_flags, true, buffer,
				       buffer_size));
	for (int i = 0; i < STEPS; i++) {
		expect_pool(plain[i], buffer[i]);
		EXPECT_EQ(plain_size[i], buffer_size[i])
			TH_LOG("step %d", i);
	}
	/* or the steps have shown nothing */
	EXPECT_NE(plain[1].free, plain[2].free);
}

TEST_F(hugetlb, seals)
{
	struct memfd_dmabuf_range r = range(self->fd, 3, 1);
	struct shown s;
	int buf;

	if (variant->by_path) {
		EXPECT_EQ(-1, fcntl(self->fd, F_ADD_SEALS, F_SEAL_WRITE));
		EXPECT_EQ(EPERM, errno);
		return;
	}
	fill_pages(self->owner, FILE_PAGES, 1);
	/* only the buffers stand in the way */
	ASSERT_EQ(0, munmap(self->owner, FILE_SIZE));
	self->owner = NULL;
	show(&s, self->scattered, SCATTERED, 0);
	EXPECT_EQ(-1, fcntl(self->fd, F_ADD_SEALS, F_SEAL_WRITE));
	EXPECT_EQ(EBUSY, errno);
	/* it may shrink no more, and a punch is no shrinking */
	ASSERT_EQ(0, fcntl(self->fd, F_ADD_SEALS, F_SEAL_SHRINK));
	EXPECT_EQ(-1, ftruncate(self->fd, 0));
	EXPECT_EQ(EPERM, errno);
	expect_version(_metadata, &s, 1);
	/* what is mapped stays writable, what comes is not */
	ASSERT_EQ(0, fcntl(self->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
	fill_page(s.map, 5);
	EXPECT_TRUE(page_is(s.map, 5));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED, s.buf, 0));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(-EPERM, create(self->dev, &r, 1));
	fill_page(s.map, tag(1, s.list[0], 1));
	hide(&s);

	/* a read-only buffer, mapped and read, does not */
	show(&s, self->scattered, SCATTERED, MEMFD_DMABUF_RDONLY);
	expect_version(_metadata, &s, 1);
	EXPECT_EQ(0, fcntl(self->fd, F_ADD_SEALS, F_SEAL_WRITE));
	expect_version(_metadata, &s, 1);
	EXPECT_EQ(-1, punch_huge(self->fd, 0, 1));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(-EPERM, create(self->dev, &r, 1));
	buf = create_flags(self->dev, MEMFD_DMABUF_RDONLY, &r, 1);
	EXPECT_LE(0, buf);
	close(buf);
	hide(&s);
}

/* All that looks at page tables can look at these. */
TEST_F(hugetlb, looking_on)
{
	static const char * const files[] = {
		"/proc/self/smaps", "/proc/self/numa_maps", "/proc/self/maps",
		"/proc/self/smaps_rollup",
	};
	char text[4096];
	struct shown s;

	fill_pages(self->owner, FILE_PAGES, 1);
	show(&s, self->scattered, SCATTERED, 0);
	expect_version(_metadata, &s, 1);
	for (int i = 0; i < 4; i++) {
		int fd = open(files[i], O_RDONLY | O_CLOEXEC);
		ssize_t n;

		ASSERT_LE(0, fd);
		while ((n = read(fd, text, sizeof(text))) > 0)
			;
		EXPECT_EQ(0, n);
		close(fd);
	}
	/* writes are noticed again after this, and go through */
	ASSERT_EQ(0, write_file("/proc/self/clear_refs", "4"));
	for (unsigned long i = 0; i < s.nr; i++)
		fill_page(s.map + i * PAGE, tag(1, s.list[i], 2));
	expect_version(_metadata, &s, 2);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

/* The pool, where it is about to be empty */

FIXTURE(pool) {
	int dev;
	long nr_hugepages;
	long overcommit;
	struct pool before;
};

FIXTURE_SETUP(pool)
{
	catch_sigbus();
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	self->nr_hugepages = read_number(POOL_2M, "nr_hugepages");
	self->overcommit = read_number(POOL_2M, "nr_overcommit_hugepages");
	ASSERT_EQ(0, write_number(POOL_2M, "nr_overcommit_hugepages", 0));
	ASSERT_EQ(0, write_number(POOL_2M, "nr_hugepages", 2));
	self->before = read_pool(POOL_2M);
	ASSERT_EQ(2, self->before.free);
}

FIXTURE_TEARDOWN(pool)
{
	expect_pool(self->before, read_pool(POOL_2M));
	EXPECT_EQ(0, write_number(POOL_2M, "nr_hugepages",
				  self->nr_hugepages));
	EXPECT_EQ(0, write_number(POOL_2M, "nr_overcommit_hugepages",
				  self->overcommit));
	close(self->dev);
}

/* A mapping of a whole file: of itself without reservation, or of a buffer. */
static char *map_file(int dev, int fd, bool buffer)
{
	struct memfd_dmabuf_range r = range(fd, 0, FILE_PAGES);
	char *map;
	int buf;

	if (!buffer)
		return mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_NORESERVE, fd, 0);
	buf = create(dev, &r, 1);
	map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, buf, 0);
	close(buf);
	return map;
}

/* Which huge pages of it can be touched, as a bit mask. */
static unsigned int touchable(char *map, bool write)
{
	unsigned int mask = 0;

	for (unsigned long h = 0; h < FILE_HUGE; h++)
		if (!access_sigbus(map + h * HUGE + 3 * PAGE, write))
			mask |= 1 << h;
	return mask;
}

TEST_F(pool, empty)
{
	for (int buffer = 0; buffer < 2; buffer++) {
		int fd = new_huge_memfd(MFD_HUGE_2MB, FILE_SIZE);
		char *map = map_file(self->dev, fd, buffer);

		ASSERT_NE(MAP_FAILED, map);
		EXPECT_EQ(1 | 2, touchable(map, true));
		EXPECT_EQ(1 | 2, touchable(map, false));
		EXPECT_EQ(0, read_number(POOL_2M, "free_hugepages"));
		ASSERT_EQ(0, punch_huge(fd, 0, 1));
		EXPECT_FALSE(access_sigbus(map + 3 * HUGE, true));
		EXPECT_EQ(2 | 8, touchable(map, true));
		munmap(map, FILE_SIZE);
		close(fd);
		expect_pool(self->before, read_pool(POOL_2M));
	}
}

/* What somebody else has reserved is not there for consumers. */
TEST_F(pool, reserved)
{
	int other = new_huge_memfd(MFD_HUGE_2MB, HUGE);
	char *theirs = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    other, 0);

	ASSERT_NE(MAP_FAILED, theirs);
	for (int buffer = 0; buffer < 2; buffer++) {
		int fd = new_huge_memfd(MFD_HUGE_2MB, FILE_SIZE);
		char *map = map_file(self->dev, fd, buffer);

		ASSERT_NE(MAP_FAILED, map);
		EXPECT_EQ(1, touchable(map, true));
		EXPECT_EQ(1, read_number(POOL_2M, "free_hugepages"));
		EXPECT_EQ(1, read_number(POOL_2M, "resv_hugepages"));
		munmap(map, FILE_SIZE);
		close(fd);
	}
	EXPECT_FALSE(access_sigbus(theirs, true));
	munmap(theirs, HUGE);
	close(other);
}

/* Pages beyond the pool, if the administrator allows, go where they came from. */
TEST_F(pool, surplus)
{
	ASSERT_EQ(0, write_number(POOL_2M, "nr_overcommit_hugepages", 1));
	for (int buffer = 0; buffer < 2; buffer++) {
		int fd = new_huge_memfd(MFD_HUGE_2MB, FILE_SIZE);
		char *map = map_file(self->dev, fd, buffer);

		ASSERT_NE(MAP_FAILED, map);
		EXPECT_EQ(1 | 2 | 4, touchable(map, true));
		EXPECT_EQ(1, read_number(POOL_2M, "surplus_hugepages"));
		ASSERT_EQ(0, punch_huge(fd, 0, FILE_HUGE));
		EXPECT_EQ(0, read_number(POOL_2M, "surplus_hugepages"));
		munmap(map, FILE_SIZE);
		close(fd);
		expect_pool(self->before, read_pool(POOL_2M));
	}
}

static long free_blocks(int fd)
{
	struct statfs st;

	return fstatfs(fd, &st) ? -1 : st.f_bfree;
}

/* The limit of a mount, below that of the pool. */
TEST_F(pool, mount_size)
{
	for (int buffer = 0; buffer < 2; buffer++) {
		int fd = new_file("hugetlbfs", "pagesize=2M,size=2M", FILE_SIZE);
		char *map = map_file(self->dev, fd, buffer);

		ASSERT_NE(MAP_FAILED, map);
		EXPECT_EQ(1, free_blocks(fd));
		EXPECT_EQ(1, touchable(map, true));
		EXPECT_EQ(0, free_blocks(fd));
		EXPECT_EQ(1, read_number(POOL_2M, "free_hugepages"));
		ASSERT_EQ(0, punch_huge(fd, 0, 1));
		EXPECT_EQ(1, free_blocks(fd));
		EXPECT_FALSE(access_sigbus(map + 3 * HUGE, false));
		EXPECT_EQ(8, touchable(map, false));
		ASSERT_EQ(0, ftruncate(fd, 0));
		EXPECT_EQ(1, free_blocks(fd));
		munmap(map, FILE_SIZE);
		close(fd);
		expect_pool(self->before, read_pool(POOL_2M));
	}
}

/* A mount that has reserved pages for itself hands them out, and takes them. */
TEST_F(pool, mount_min_size)
{
	for (int buffer = 0; buffer < 2; buffer++) {
		int fd = new_file("hugetlbfs",
				  "pagesize=2M,size=8M,min_size=2M", FILE_SIZE);
		char *map = map_file(self->dev, fd, buffer);

		ASSERT_NE(MAP_FAILED, map);
		EXPECT_EQ(1, read_number(POOL_2M, "resv_hugepages"));
		EXPECT_FALSE(access_sigbus(map, true));
		EXPECT_EQ(0, read_number(POOL_2M, "resv_hugepages"));
		EXPECT_EQ(1, read_number(POOL_2M, "free_hugepages"));
		EXPECT_EQ(3, free_blocks(fd));
		EXPECT_EQ(1 | 2, touchable(map, true));
		EXPECT_EQ(2, free_blocks(fd));
		ASSERT_EQ(0, punch_huge(fd, 0, 1));
		EXPECT_EQ(3, free_blocks(fd));
		ASSERT_EQ(0, punch_huge(fd, 0, FILE_HUGE));
		EXPECT_EQ(1, read_number(POOL_2M, "resv_hugepages"));
		EXPECT_EQ(2, read_number(POOL_2M, "free_hugepages"));
		munmap(map, FILE_SIZE);
		close(fd);
		expect_pool(self->before, read_pool(POOL_2M));
	}
}

static int enter_cgroup(const char *dir)
{
	return write_number(dir, "cgroup.procs", getpid()) < 0 ? -1 : 0;
}

/*
 * Who faults a page in pays for it, in the cgroup of that process; a
 * reservation remains with the one who made it.
 */
TEST_F(pool, cgroup)
{
	static const char * const dirs[] = {
		CGROUP "memfd_dmabuf.owner/", CGROUP "memfd_dmabuf.consumer/",
	};
	enum { STAGES = 5 };
	long seen[2][2][STAGES][2][2];

	ASSERT_EQ(0, write_file(CGROUP "cgroup.subtree_control", "+hugetlb"));
	for (int i = 0; i < 2; i++) {
		ASSERT_TRUE(!mkdir(dirs[i], 0755) || errno == EEXIST);
	}
	for (int reserve = 0; reserve < 2; reserve++) {
		for (int buffer = 0; buffer < 2; buffer++) {
			int stage = 0, fd;
			char *owner, *map;

#define note() do {							\
	for (int _d = 0; _d < 2; _d++) {				\
		long *_s = seen[reserve][buffer][stage][_d];		\
									\
		_s[0] = read_number(dirs[_d], "hugetlb.2MB.current");	\
		_s[1] = read_number(dirs[_d],				\
				    "hugetlb.2MB.rsvd.current");	\
	}								\
	stage++;							\
} while (0)
			ASSERT_EQ(0, enter_cgroup(dirs[0]));
			fd = new_huge_memfd(MFD_HUGE_2MB, 2 * HUGE);
			owner = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE,
				     MAP_SHARED | (reserve ? 0 : MAP_NORESERVE),
				     fd, 0);
			ASSERT_NE(MAP_FAILED, owner);
			ASSERT_EQ(0, ftruncate(fd, FILE_SIZE));
			ASSERT_EQ(0, enter_cgroup(dirs[1]));
			map = map_file(self->dev, fd, buffer);
			ASSERT_NE(MAP_FAILED, map);
			note();
			POKE(map + PAGE, 1);
			note();
			EXPECT_EQ(HUGE, seen[reserve][buffer][1][1][0]);
			EXPECT_EQ(0, seen[reserve][buffer][1][0][0]);
			ASSERT_EQ(0, enter_cgroup(dirs[0]));
			POKE(owner + HUGE, 1);
			PEEK(map + HUGE);
			note();
			ASSERT_EQ(0, punch_huge(fd, 0, 1));
			note();
			munmap(map, FILE_SIZE);
			munmap(owner, 2 * HUGE);
			close(fd);
			note();
			for (int d = 0; d < 2; d++) {
				EXPECT_EQ(0, seen[reserve][buffer][4][d][0]);
				EXPECT_EQ(0, seen[reserve][buffer][4][d][1]);
			}
#undef note
		}
		EXPECT_EQ(0, memcmp(seen[reserve][0], seen[reserve][1],
				    sizeof(seen[reserve][0])));
	}
	ASSERT_EQ(0, enter_cgroup(CGROUP));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(0, rmdir(dirs[i]));
	}
}

/* A cgroup's limit: SIGBUS for whoever is at it, and for nobody else. */
TEST_F(pool, cgroup_limit)
{
	const char *dir = CGROUP "memfd_dmabuf.limited/";

	ASSERT_EQ(0, write_file(CGROUP "cgroup.subtree_control", "+hugetlb"));
	ASSERT_TRUE(!mkdir(dir, 0755) || errno == EEXIST);
	ASSERT_EQ(0, write_file(CGROUP "memfd_dmabuf.limited/hugetlb.2MB.max",
				"2M"));
	for (int buffer = 0; buffer < 2; buffer++) {
		int fd = new_huge_memfd(MFD_HUGE_2MB, FILE_SIZE);
		char *map = map_file(self->dev, fd, buffer);

		ASSERT_NE(MAP_FAILED, map);
		ASSERT_EQ(0, enter_cgroup(dir));
		EXPECT_EQ(1, touchable(map, true));
		EXPECT_EQ(1, read_number(POOL_2M, "free_hugepages"));
		ASSERT_EQ(0, enter_cgroup(CGROUP));
		EXPECT_FALSE(access_sigbus(map + HUGE, true));
		ASSERT_EQ(0, enter_cgroup(dir));
		EXPECT_EQ(1 | 2, touchable(map, true));
		ASSERT_EQ(0, enter_cgroup(CGROUP));
		munmap(map, FILE_SIZE);
		close(fd);
		expect_pool(self->before, read_pool(POOL_2M));
	}
	EXPECT_EQ(0, rmdir(dir));
}

/* Pages of a gigabyte */

#define GIGA		(512 * HUGE)

FIXTURE(gigantic) {
	int dev;
	long nr_hugepages;
	struct pool before;
};

static bool cpu_has(const char *flag)
{
	char line[8192];
	bool found = false;
	FILE *f = fopen("/proc/cpuinfo", "re");

	while (f && !found && fgets(line, sizeof(line), f))
		found = !strncmp(line, "flags", 5) && strstr(line, flag);
	if (f)
		fclose(f);
	return found;
}

FIXTURE_SETUP(gigantic)
{
	catch_sigbus();
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	self->nr_hugepages = read_number(POOL_1G, "nr_hugepages");
	if (!cpu_has(" pdpe1gb"))
		SKIP(return, "the processor has no pages of 1 GiB");
	ASSERT_LE(0, self->nr_hugepages);
	ASSERT_EQ(0, write_number(POOL_1G, "nr_hugepages",
				  self->nr_hugepages ?: 1));
	self->before = read_pool(POOL_1G);
	if (!self->before.free)
		SKIP(return, "no 1 GiB of contiguous memory to be had");
}

FIXTURE_TEARDOWN(gigantic)
{
	expect_pool(self->before, read_pool(POOL_1G));
	EXPECT_EQ(0, write_number(POOL_1G, "nr_hugepages",
				  self->nr_hugepages));
	close(self->dev);
}

TEST_F_TIMEOUT(gigantic, all, 240)
{
	enum { NR = 200 };
	unsigned long list[NR];
	struct shown s;
	char *owner;
	int fd;

	/* over all of the gigabyte, in no order, the ends included */
	for (unsigned long i = 0; i < NR; i++)
		list[i] = i * 104729 % (GIGA / PAGE);
	list[NR / 2] = GIGA / PAGE - 1;
	fd = new_huge_memfd(MFD_HUGE_1GB, GIGA);
	ASSERT_LE(0, fd);
	owner = mmap(NULL, GIGA, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, owner);
	show_at(_metadata, &s, self->dev, fd, MEMFD_DMABUF_NOALLOC, list, NR,
		NULL);
	EXPECT_TRUE(access_sigbus(s.map + 7 * PAGE, false));
	for (unsigned long i = 0; i < NR; i++)
		fill_page(owner + list[i] * PAGE, tag(1, list[i], 1));
	PEEK(s.map + 9 * PAGE);
	expect_frames(_metadata, &s, owner);
	expect_version(_metadata, &s, 1);
	EXPECT_EQ(NR, count_mapped(&s));
	expect_frames(_metadata, &s, owner);
	for (unsigned long i = 0; i < NR; i++)
		fill_page(s.map + i * PAGE, tag(1, list[i], 2));
	for (unsigned long i = 0; i < NR; i++) {
		EXPECT_TRUE(page_is(owner + list[i] * PAGE, tag(1, list[i], 2)));
	}
	/* zeroed in place */
	ASSERT_EQ(0, punch(fd, list[5], 1));
	EXPECT_TRUE(page_is(s.map + 5 * PAGE, 0));
	fill_page(owner + list[5] * PAGE, tag(1, list[5], 2));
	expect_version(_metadata, &s, 2);
	/* given back to the pool */
	ASSERT_EQ(0, punch(fd, 0, GIGA / PAGE));
	EXPECT_EQ(0, count_mapped(&s));
	EXPECT_EQ(self->before.free, read_number(POOL_1G, "free_hugepages"));
	EXPECT_TRUE(access_sigbus(s.map, false));
	hide(&s);
	/* a consumer's fault makes it anew */
	show_at(_metadata, &s, self->dev, fd, 0, list, NR, NULL);
	POKE(s.map + 3 * PAGE, 3);
	EXPECT_EQ(3, PEEK(owner + list[3] * PAGE));
	EXPECT_EQ(self->before.free - 1,
		  read_number(POOL_1G, "free_hugepages"));
	ASSERT_EQ(0, ftruncate(fd, 0));
	EXPECT_EQ(0, count_mapped(&s));
	EXPECT_TRUE(access_sigbus(s.map + 3 * PAGE, true));
	munmap(owner, GIGA);
	hide(&s);
	close(fd);
}

/* Large folios of shmem */

/* How many huge pages are mapped as such in the vmas of this area? */
static long pmd_mapped(const char *addr, unsigned long size)
{
	unsigned long start, end, kb, sum = 0;
	bool inside = false;
	char line[512];
	FILE *f = fopen("/proc/self/smaps", "re");

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start < (uintptr_t)addr + size &&
				 end > (uintptr_t)addr;
		else if (inside && sscanf(line, "ShmemPmdMapped: %lu", &kb) == 1)
			sum += kb;
	}
	fclose(f);
	return sum / (HUGE >> 10);
}

#define KPF_COMPOUND_HEAD 15
#define KPF_COMPOUND_TAIL 16

static bool is_large(const char *addr)
{
	int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	uint64_t flags = 0;

	if (pread(fd, &flags, 8, frame(addr) * 8) != 8)
		flags = 0;
	close(fd);
	return flags & (1 << KPF_COMPOUND_HEAD | 1 << KPF_COMPOUND_TAIL);
}

FIXTURE(thp) {
	int dev;
	int fd;
	char *owner;
	char *area;			/* for the buffer, with room around */
	unsigned long all[FILE_PAGES];
	char enabled[64];		/* as it was */
};

FIXTURE_VARIANT(thp) {
	const char *huge;		/* of a tmpfs mount, or NULL */
	const char *mthp;		/* size to enable for memfds, or NULL */
	bool advise;			/* it takes MADV_HUGEPAGE */
	bool pmd;			/* folios are huge pages */
};

FIXTURE_VARIANT_ADD(thp, tmpfs_always)
{ "huge=always", NULL, false, true };

FIXTURE_VARIANT_ADD(thp, tmpfs_within_size)
{ "huge=within_size", NULL, false, true };

FIXTURE_VARIANT_ADD(thp, tmpfs_advise)
{ "huge=advise", NULL, true, true };

FIXTURE_VARIANT_ADD(thp, memfd_2m)
{ NULL, "hugepages-2048kB", false, true };

FIXTURE_VARIANT_ADD(thp, memfd_512k)
{ NULL, "hugepages-512kB", false, false };

FIXTURE_VARIANT_ADD(thp, memfd_64k)
{ NULL, "hugepages-64kB", false, false };

/* A file, a mapping of it, and all of it in folios of the right size. */
static void make_thp_file(struct __test_metadata *_metadata, const char *huge,
			  const char *mthp, bool advise, int *fd, char **owner)
{
	char path[128], old[64], defrag[64];
	unsigned long large = 0;

	ASSERT_TRUE(choose(THP_DIR "defrag", "always", defrag));
	if (mthp) {
		snprintf(path, sizeof(path), THP_DIR "%s/shmem_enabled", mthp);
		ASSERT_TRUE(choose(path, "always", old));
	}
	*fd = huge ? new_file("tmpfs", huge, FILE_SIZE) : new_memfd(FILE_PAGES);
	ASSERT_LE(0, *fd);
	*owner = reserve(FILE_SIZE);
	ASSERT_EQ(*owner, mmap(*owner, FILE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_FIXED, *fd, 0));
	if (advise) {
		ASSERT_EQ(0, madvise(*owner, FILE_SIZE, MADV_HUGEPAGE));
	}
	fill_pages(*owner, FILE_PAGES, 1);
	if (mthp) {
		ASSERT_EQ(0, write_file(path, old));
	}
	ASSERT_EQ(0, write_file(THP_DIR "defrag", defrag));
	/* or else the tests prove nothing */
	for (unsigned long p = 0; p < FILE_PAGES; p += 16)
		large += is_large(*owner + p * PAGE);
	ASSERT_LT(FILE_PAGES / 16 / 2, large);
	if (large < FILE_PAGES / 16)
		TH_LOG("only %lu of %lu are large", large, FILE_PAGES / 16);
}

FIXTURE_SETUP(thp)
{
	catch_sigbus();
	for (unsigned long i = 0; i < FILE_PAGES; i++)
		self->all[i] = i;
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	/*
	 * Stops khugepaged: page tables are looked at that it would change.
	 * Files have settings of their own.
	 */
	ASSERT_TRUE(choose(THP_DIR "enabled", "never", self->enabled));
	make_thp_file(_metadata, variant->huge, variant->mthp, variant->advise,
		      &self->fd, &self->owner);
	ASSERT_EQ(variant->pmd ? FILE_HUGE : 0,
		  pmd_mapped(self->owner, FILE_SIZE));
	self->area = reserve(FILE_SIZE + 2 * HUGE);
	ASSERT_NE(MAP_FAILED, self->area);
}

FIXTURE_TEARDOWN(thp)
{
	munmap(self->owner, FILE_SIZE);
	close(self->fd);
	close(self->dev);
	write_file(THP_DIR "enabled", self->enabled);
}

#define pmds(n) (variant->pmd ? (n) : 0)

/* Touch every page first, or one in each huge page, then look at all. */
static void check_thp(struct __test_metadata *_metadata, int dev, int fd,
		      char *owner, const unsigned long *list, unsigned long nr,
		      char *addr, long want)
{
	for (enum access a = READ; a < ACCESSES; a++) {
		struct shown s;

		show_at(_metadata, &s, dev, fd, 0, list, nr, addr);
		if (a == READ || a == WRITE) {
			for (unsigned long i = 0; i < nr; i += PER_HUGE)
				touch(s.map + i * PAGE, 1, a);
			/* and at the end, and where no huge page begins */
			touch(s.map + nr / 2 * PAGE, 1, a);
			touch(s.map + (nr - 1) * PAGE, 1, a);
		} else {
			ASSERT_EQ(0, touch(s.map, nr, a));
			EXPECT_EQ(nr, count_mapped(&s));
		}
		if (want >= 0) {
			EXPECT_EQ(want, pmd_mapped(s.map, nr * PAGE))
				TH_LOG("access %d", a);
		}
		expect_frames(_metadata, &s, owner);
		expect_version(_metadata, &s, 1);
		EXPECT_EQ(nr, count_mapped(&s));
		if (want >= 0) {
			EXPECT_EQ(want, pmd_mapped(s.map, nr * PAGE));
		}
		hide(&s);
	}
}

#define check_list(list, nr, addr, want) \
	check_thp(_metadata, self->dev, self->fd, self->owner, list, nr, addr, \
		  want)

TEST_F(thp, whole_file)
{
	/* wherever the kernel puts it: it knows what is best */
	check_list(self->all, FILE_PAGES, NULL, pmds(FILE_HUGE));
}

TEST_F(thp, one_of_them)
{
	check_list(self->all + PER_HUGE, PER_HUGE, self->area, pmds(1));
}

/* Huge pages in another order than in the file, and one of them twice. */
TEST_F(thp, shuffled)
{
	static const unsigned long order[] = { 2, 0, 2, 3 };
	unsigned long list[FILE_PAGES];

	for (unsigned long i = 0; i < FILE_PAGES; i++)
		list[i] = order[i / PER_HUGE] * PER_HUGE + i % PER_HUGE;
	check_list(list, FILE_PAGES, self->area, pmds(4));
}

/* A whole huge page between pieces of others. */
TEST_F(thp, middle)
{
	/* as many pages before it as there are in the file: 100 are missing */
	check_list(self->all + 100, 2 * PER_HUGE, self->area + 100 * PAGE, -1);
	/* at the wrong address */
	check_list(self->all + 100, 2 * PER_HUGE, self->area, 0);
}

TEST_F(thp, address_disagrees)
{
	check_list(self->all, FILE_PAGES, self->area + PAGE, 0);
}

TEST_F(thp, all_but_one)
{
	unsigned long list[PER_HUGE];

	/* the last, the first, one in the middle is another */
	for (unsigned long odd = 0; odd < PER_HUGE; odd += PER_HUGE / 2 - 1) {
		memcpy(list, self->all + PER_HUGE, sizeof(list));
		list[odd] = 7;
		check_list(list, PER_HUGE, self->area, 0);
	}
	/* or not there at all */
	check_list(self->all + PER_HUGE, PER_HUGE - 1, self->area, 0);
}

TEST_F(thp, shifted_by_one)
{
	check_list(self->all + 1, FILE_PAGES - 1, self->area, 0);
}

TEST_F(thp, buffer_offset)
{
	unsigned long list[PER_HUGE + 1];

	list[0] = 7;
	memcpy(list + 1, self->all + PER_HUGE, PER_HUGE * sizeof(*list));
	check_list(list, PER_HUGE + 1, self->area, 0);
	/* here it would fit, if the kernel likes */
	check_list(list, PER_HUGE + 1, self->area + HUGE - PAGE, -1);
}

/* A mapping of a part, which has to leave the rest out. */
TEST_F(thp, part_of_buffer)
{
	struct memfd_dmabuf_range r = range(self->fd, 0, FILE_PAGES);
	int buf = create(self->dev, &r, 1);
	unsigned long first = 100, nr = FILE_PAGES - 200;
	char *map = self->area + first * PAGE;
	struct shown s = { buf, map, nr, self->all + first };

	ASSERT_LE(0, buf);
	ASSERT_EQ(map, mmap(map, nr * PAGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_FIXED, buf, first * PAGE));
	touch(map, nr, READ);
	EXPECT_EQ(pmds(FILE_HUGE - 2), pmd_mapped(map, nr * PAGE));
	EXPECT_FALSE(mapped(map - PAGE));
	EXPECT_FALSE(mapped(map + nr * PAGE));
	expect_frames(_metadata, &s, self->owner);
	expect_version(_metadata, &s, 1);
	hide(&s);
}

/* The whole file, mapped where it fits, all of it touched. */
#define show_all(s, flags) do {						\
	show_at(_metadata, s, self->dev, self->fd, flags, self->all,	\
		FILE_PAGES, self->area);				\
	touch((s)->map, FILE_PAGES, READ);				\
	ASSERT_EQ(pmds(FILE_HUGE), pmd_mapped((s)->map, FILE_SIZE));	\
} while (0)

TEST_F(thp, both_ways)
{
	struct shown s;

	show_all(&s, 0);
	fill_pages(s.map, FILE_PAGES, 2);
	EXPECT_EQ(pmds(FILE_HUGE), pmd_mapped(s.map, FILE_SIZE));
	for (unsigned long p = 0; p < FILE_PAGES; p++) {
		EXPECT_TRUE(page_is(self->owner + p * PAGE, tag(1, p, 2)));
	}
	fill_pages(self->owner, FILE_PAGES, 3);
	expect_version(_metadata, &s, 3);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

TEST_F(thp, rdonly)
{
	struct shown s;

	show_all(&s, MEMFD_DMABUF_RDONLY);
	EXPECT_EQ(-1, mprotect(s.map, HUGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(-1, touch(s.map, 1, POPULATE_WRITE));
	expect_version(_metadata, &s, 1);
	hide(&s);
}

/* A punched page is given back: the folio is split, mapped or not. */
TEST_F(thp, partial_punch)
{
	unsigned long hole = PER_HUGE + 77;
	struct shown s;
	long before;

	show_all(&s, 0);
	before = blocks(self->fd);
	ASSERT_EQ(0, punch(self->fd, hole, 3));
	EXPECT_EQ(before - 3 * (PAGE / 512), blocks(self->fd));
	EXPECT_EQ(pmds(FILE_HUGE - 1), pmd_mapped(s.map, FILE_SIZE));
	for (unsigned long p = 0; p < FILE_PAGES; p++) {
		bool zero = p >= hole && p < hole + 3;

		EXPECT_TRUE(page_is(s.map + p * PAGE, zero ? 0 : tag(1, p, 1)));
	}
	expect_frames(_metadata, &s, self->owner);
	EXPECT_EQ(pmds(FILE_HUGE - 1), pmd_mapped(s.map, FILE_SIZE));
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &s, 2);
	hide(&s);
}

TEST_F(thp, whole_punch)
{
	struct shown s;

	show_all(&s, 0);
	ASSERT_EQ(0, punch_huge(self->fd, 1, 1));
	EXPECT_EQ(FILE_PAGES - PER_HUGE, count_mapped(&s));
	EXPECT_EQ(pmds(FILE_HUGE - 1), pmd_mapped(s.map, FILE_SIZE));
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	EXPECT_EQ(0, count_mapped(&s));
	EXPECT_EQ(0, blocks(self->fd));
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &s, 2);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

TEST_F(thp, truncate)
{
	unsigned long left = PER_HUGE + 100;
	struct shown s;

	show_all(&s, 0);
	/* in the middle of a folio, and in the middle of a page */
	ASSERT_EQ(0, ftruncate(self->fd, left * PAGE - 8));
	for (unsigned long p = 0; p < left - 1; p++) {
		EXPECT_TRUE(page_is(s.map + p * PAGE, tag(1, p, 1)));
	}
	for (unsigned long p = left; p < FILE_PAGES; p += 29) {
		EXPECT_TRUE(access_sigbus(s.map + p * PAGE, p % 2));
	}
	PEEK(s.map + (left - 1) * PAGE);
	EXPECT_EQ(left, count_mapped(&s));
	ASSERT_EQ(0, ftruncate(self->fd, FILE_SIZE));
	for (unsigned long p = left; p < FILE_PAGES; p++) {
		EXPECT_TRUE(page_is(s.map + p * PAGE, 0));
	}
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &s, 2);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

/* Split where it is: asked for at the owner's address, and at the buffer's. */
TEST_F(thp, split)
{
	struct shown s;
	char text[128];

	show_all(&s, 0);
	for (int buffer = 0; buffer < 2; buffer++) {
		char *addr = (buffer ? s.map : self->owner) + buffer * HUGE;

		snprintf(text, sizeof(text), "%d,0x%lx,0x%lx,0", getpid(),
			 (long)addr, (long)(addr + HUGE));
		ASSERT_EQ(0, write_file("/sys/kernel/debug/split_huge_pages",
					text));
		PEEK(self->owner + buffer * HUGE);
		EXPECT_FALSE(is_large(self->owner + buffer * HUGE));
		EXPECT_EQ(pmds(FILE_HUGE - 1 - buffer),
			  pmd_mapped(s.map, FILE_SIZE));
		expect_version(_metadata, &s, 1);
		touch(self->owner, FILE_PAGES, READ);
		expect_frames(_metadata, &s, self->owner);
	}
	fill_pages(s.map, FILE_PAGES, 2);
	for (unsigned long p = 0; p < FILE_PAGES; p++) {
		EXPECT_TRUE(page_is(self->owner + p * PAGE, tag(1, p, 2)));
	}
	hide(&s);
}

/* Pages that a buffer has mapped one by one become a huge page. */
TEST_F(thp, collapse)
{
	struct shown s, other;
	char text[128];

	/* small folios, whatever they were */
	snprintf(text, sizeof(text), "%d,0x%lx,0x%lx,0", getpid(),
		 (long)self->owner, (long)(self->owner + FILE_SIZE));
	ASSERT_EQ(0, write_file("/sys/kernel/debug/split_huge_pages", text));
	show_at(_metadata, &s, self->dev, self->fd, 0, self->all, FILE_PAGES,
		self->area);
	expect_version(_metadata, &s, 1);
	ASSERT_EQ(0, pmd_mapped(s.map, FILE_SIZE));
	ASSERT_EQ(FILE_PAGES, count_mapped(&s));

	ASSERT_EQ(0, collapse(self->owner, FILE_SIZE));
	touch(self->owner, FILE_PAGES, READ);
	ASSERT_EQ(FILE_HUGE, pmd_mapped(self->owner, FILE_SIZE));
	expect_version(_metadata, &s, 1);
	expect_frames(_metadata, &s, self->owner);
	/* a mapping that has no page tables there yet shows it as one */
	show_at(_metadata, &other, self->dev, self->fd, 0, self->all,
		FILE_PAGES, NULL);
	touch(other.map, FILE_PAGES, WRITE);
	EXPECT_EQ(FILE_HUGE, pmd_mapped(other.map, FILE_SIZE));
	expect_version(_metadata, &other, 1);
	hide(&other);
	hide(&s);
}

TEST_F(thp, partial_munmap)
{
	struct shown s;

	show_all(&s, 0);
	ASSERT_EQ(0, munmap(s.map + (PER_HUGE + 5) * PAGE, 9 * PAGE));
	EXPECT_EQ(pmds(FILE_HUGE - 1), pmd_mapped(s.map, FILE_SIZE));
	for (unsigned long p = 0; p < FILE_PAGES; p++) {
		if (p < PER_HUGE + 5 || p >= PER_HUGE + 14) {
			EXPECT_TRUE(page_is(s.map + p * PAGE, tag(1, p, 1)));
		} else {
			EXPECT_FALSE(mapped(s.map + p * PAGE));
		}
	}
	EXPECT_EQ(pmds(FILE_HUGE - 1), pmd_mapped(s.map, FILE_SIZE));
	/* the owner's mapping is not concerned */
	EXPECT_EQ(pmds(FILE_HUGE), pmd_mapped(self->owner, FILE_SIZE));
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	EXPECT_EQ(0, count_mapped(&s));
	fill_pages(self->owner, FILE_PAGES, 2);
	EXPECT_TRUE(page_is(s.map + (PER_HUGE + 4) * PAGE,
			    tag(1, PER_HUGE + 4, 2)));
	hide(&s);
}

TEST_F(thp, mprotect)
{
	struct shown s;

	show_all(&s, 0);
	/* the whole of a huge page, to and fro */
	ASSERT_EQ(0, mprotect(s.map, HUGE, PROT_READ));
	EXPECT_EQ(pmds(FILE_HUGE), pmd_mapped(s.map, FILE_SIZE));
	ASSERT_EQ(0, mprotect(s.map, HUGE, PROT_READ | PROT_WRITE));
	for (unsigned long p = 0; p < PER_HUGE; p++)
		fill_page(s.map + p * PAGE, tag(1, p, 2));
	for (unsigned long p = 0; p < FILE_PAGES; p++) {
		EXPECT_TRUE(page_is(self->owner + p * PAGE,
				    tag(1, p, p < PER_HUGE ? 2 : 1)));
	}
	/* a part of one */
	ASSERT_EQ(0, mprotect(s.map + HUGE + 5 * PAGE, 9 * PAGE, PROT_READ));
	for (unsigned long p = 0; p < FILE_PAGES; p++) {
		if (p < PER_HUGE + 5 || p >= PER_HUGE + 14)
			fill_page(s.map + p * PAGE, tag(1, p, 3));
		else
			fill_page(self->owner + p * PAGE, tag(1, p, 3));
	}
	EXPECT_EQ(pmds(FILE_HUGE - 1), pmd_mapped(s.map, FILE_SIZE));
	EXPECT_EQ(-1, touch(s.map + HUGE + 5 * PAGE, 1, POPULATE_WRITE));
	expect_version(_metadata, &s, 3);
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

TEST_F(thp, mremap)
{
	unsigned long half = PER_HUGE / 2 * PAGE;
	struct shown s, moved;
	char *new;

	show_all(&s, 0);
	/* a whole one, to where it fits: still one */
	new = self->area + FILE_SIZE + HUGE;
	ASSERT_EQ(new, mremap(s.map + 3 * HUGE, HUGE, HUGE,
			      MREMAP_MAYMOVE | MREMAP_FIXED, new));
	moved = (struct shown){ s.buf, new, PER_HUGE, self->all + 3 * PER_HUGE };
	EXPECT_EQ(pmds(1), pmd_mapped(new, HUGE));
	expect_version(_metadata, &moved, 1);
	expect_frames(_metadata, &moved, self->owner);
	/* to where it does not */
	ASSERT_EQ(new - PAGE, mremap(new, HUGE - PAGE, HUGE - PAGE,
				     MREMAP_MAYMOVE | MREMAP_FIXED,
				     new - PAGE - HUGE) + HUGE);
	moved = (struct shown){
		s.buf, new - PAGE - HUGE, PER_HUGE - 1, self->all + 3 * PER_HUGE
	};
	expect_version(_metadata, &moved, 1);
	expect_frames(_metadata, &moved, self->owner);
	munmap(moved.map, HUGE);
	munmap(new, HUGE);
	/* half of one, to where the other half is missing */
	ASSERT_EQ(new, mremap(s.map + HUGE, half, half,
			      MREMAP_MAYMOVE | MREMAP_FIXED, new));
	moved = (struct shown){
		s.buf, new, PER_HUGE / 2, self->all + PER_HUGE
	};
	expect_version(_metadata, &moved, 1);
	expect_frames(_metadata, &moved, self->owner);
	EXPECT_EQ(0, pmd_mapped(new, half));
	EXPECT_FALSE(mapped(new + half));
	EXPECT_TRUE(page_is(s.map + HUGE + half, tag(1, PER_HUGE * 3 / 2, 1)));
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	EXPECT_EQ(0, count_mapped(&moved));
	EXPECT_EQ(0, count_mapped(&s));
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &moved, 2);
	hide(&s);
	munmap(new, half);
}

TEST_F(thp, fork)
{
	int to_child[2], to_parent[2], status;
	struct shown s;
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(to_child));
	ASSERT_EQ(0, pipe(to_parent));
	show_all(&s, 0);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		expect_version(_metadata, &s, 1);
		EXPECT_EQ(pmds(FILE_HUGE), pmd_mapped(s.map, FILE_SIZE));
		(void)!write(to_parent[1], "1", 1);
		(void)!read(to_child[0], &c, 1);
		EXPECT_EQ(0, count_mapped(&s));
		expect_version(_metadata, &s, 2);
		fill_pages(s.map, FILE_PAGES, 3);
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(1, read(to_parent[0], &c, 1));
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	EXPECT_EQ(0, count_mapped(&s));
	fill_pages(self->owner, FILE_PAGES, 2);
	ASSERT_EQ(1, write(to_child[1], "2", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	expect_version(_metadata, &s, 3);
	hide(&s);
}

TEST_F(thp, move_pages)
{
	struct shown s;

	ASSERT_EQ(0, access("/sys/devices/system/node/node1", F_OK))
		TH_LOG("this test needs two NUMA nodes");
	show_all(&s, 0);
	for (unsigned long h = 0; h < FILE_HUGE; h++) {
		char *here = s.map + h * HUGE, *there = self->owner + h * HUGE;
		int from = move_page(there, -1);

		ASSERT_LE(0, from);
		/* asked for at either mapping */
		PEEK(here);
		PEEK(there);
		EXPECT_EQ(!from, move_page(h % 2 ? here : there, !from));
		/* as every mapping of the file */
		EXPECT_TRUE(mapped(here));
		expect_version(_metadata, &s, 1);
		touch(self->owner, FILE_PAGES, READ);
		expect_frames(_metadata, &s, self->owner);
	}
	EXPECT_EQ(pmds(FILE_HUGE), pmd_mapped(s.map, FILE_SIZE));
	hide(&s);
}

/* A fault through the buffer finds no huge page, and makes one if it may. */
TEST_F(thp, hole)
{
	bool always = variant->pmd && !variant->mthp && !variant->advise;
	unsigned long half = FILE_HUGE / 2;

	for (enum access a = READ; a < ACCESSES; a++) {
		struct shown s;

		ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
		show_at(_metadata, &s, self->dev, self->fd, 0, self->all,
			FILE_PAGES, self->area);
		/* all of the first half, one page of the other */
		ASSERT_EQ(0, touch(s.map, half * PER_HUGE, a));
		touch(s.map + half * HUGE + 9 * PAGE, 1, a);
		EXPECT_EQ(always ? half + 1 : 0, pmd_mapped(s.map, FILE_SIZE));
		if (!always) {
			EXPECT_EQ((half * PER_HUGE + 1) * (PAGE / 512),
				  blocks(self->fd));
		}
		for (unsigned long p = 0; p < half * PER_HUGE; p++) {
			EXPECT_TRUE(page_is(s.map + p * PAGE, 0));
		}
		fill_pages(self->owner, FILE_PAGES, 2);
		expect_version(_metadata, &s, 2);
		expect_frames(_metadata, &s, self->owner);
		hide(&s);
	}
}

/* And a buffer that must not make pages makes no huge ones either. */
TEST_F(thp, noalloc)
{
	struct shown s;

	show_all(&s, MEMFD_DMABUF_NOALLOC);
	ASSERT_EQ(0, punch_huge(self->fd, 0, FILE_HUGE));
	for (unsigned long p = 0; p < FILE_PAGES; p += 37) {
		EXPECT_TRUE(access_sigbus(s.map + p * PAGE, p % 2));
	}
	EXPECT_EQ(0, blocks(self->fd));
	fill_pages(self->owner, FILE_PAGES, 2);
	expect_version(_metadata, &s, 2);
	/* the page tables of the holes may stand in the way of huge pages */
	expect_frames(_metadata, &s, self->owner);
	hide(&s);
}

/* Both kinds, and small pages, in one buffer */

#define SMALL_PAGES	64UL

FIXTURE(mixed) {
	int dev;
	int small, thp, hugetlb;
	char *owner_small, *owner_thp, *owner_hugetlb;
	long nr_hugepages;
	struct pool before;
};

FIXTURE_SETUP(mixed)
{
	catch_sigbus();
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	self->nr_hugepages = read_number(POOL_2M, "nr_hugepages");
	ASSERT_EQ(0, write_number(POOL_2M, "nr_hugepages", FILE_HUGE));
	self->before = read_pool(POOL_2M);
	ASSERT_EQ(FILE_HUGE, self->before.free);
	self->small = new_memfd(SMALL_PAGES);
	ASSERT_LE(0, self->small);
	self->owner_small = map_shared(self->small, SMALL_PAGES);
	ASSERT_NE(MAP_FAILED, self->owner_small);
	make_thp_file(_metadata, "huge=always", NULL, false, &self->thp,
		      &self->owner_thp);
	self->hugetlb = new_huge_memfd(MFD_HUGE_2MB, FILE_SIZE);
	ASSERT_LE(0, self->hugetlb);
	self->owner_hugetlb = map_shared(self->hugetlb, FILE_PAGES);
	ASSERT_NE(MAP_FAILED, self->owner_hugetlb);
}

FIXTURE_TEARDOWN(mixed)
{
	munmap(self->owner_hugetlb, FILE_SIZE);
	close(self->hugetlb);
	munmap(self->owner_thp, FILE_SIZE);
	close(self->thp);
	munmap(self->owner_small, SMALL_PAGES * PAGE);
	close(self->small);
	expect_pool(self->before, read_pool(POOL_2M));
	EXPECT_EQ(0, write_number(POOL_2M, "nr_hugepages",
				  self->nr_hugepages));
	close(self->dev);
}

/* The buffer: a huge page of shmem, a piece of hugetlb, small pages, and again. */
#define PIECES 6

struct piece {
	int file;		/* 0 small, 1 shmem huge page, 2 hugetlb */
	unsigned long first, nr;
};

static const struct piece pieces[PIECES] = {
	{ 1, 0, PER_HUGE },
	{ 2, 100, PER_HUGE - 40 },
	{ 0, 3, 40 },
	{ 1, PER_HUGE, 2 * PER_HUGE },
	{ 2, 3 * PER_HUGE, PER_HUGE },
	{ 1, 3 * PER_HUGE + 1, 100 },
};

/* Every page, each of the version that its file has; 0 is for zeros. */
static void expect_pieces(struct __test_metadata *_metadata, char *map,
			  char **owners, const unsigned int *versions)
{
	unsigned long wrong = 0, strange = 0;

	for (int i = 0; i < PIECES; i++) {
		const struct piece *piece = &pieces[i];
		unsigned int version = versions[piece->file];
		char *file = owners[piece->file] + piece->first * PAGE;
		uint64_t *here, *there;

		for (unsigned long p = 0; p < piece->nr; p++) {
			uint64_t want = tag(1, piece->first + p, version);

			wrong += !page_is(map + p * PAGE, version ? want : 0);
			PEEK(file + p * PAGE);
		}
		here = frames(map, piece->nr);
		there = frames(file, piece->nr);
		for (unsigned long p = 0; p < piece->nr; p++)
			strange += !here[p] || here[p] != there[p];
		free(here);
		free(there);
		map += piece->nr * PAGE;
	}
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(0, strange);
}

TEST_F(mixed, all)
{
	int fds[] = { self->small, self->thp, self->hugetlb };
	char *owners[3] = {
		self->owner_small, self->owner_thp, self->owner_hugetlb,
	};
	unsigned long file_pages[] = { SMALL_PAGES, FILE_PAGES, FILE_PAGES };
	unsigned int versions[] = { 1, 1, 1 };
	struct memfd_dmabuf_range r[PIECES];
	unsigned long nr = 0;
	char *area, *map;
	int buf;

	for (int i = 0; i < PIECES; i++) {
		r[i] = range(fds[pieces[i].file], pieces[i].first,
			     pieces[i].nr);
		nr += pieces[i].nr;
	}
	buf = create(self->dev, r, PIECES);
	ASSERT_LE(0, buf);
	for (int f = 0; f < 3; f++)
		fill_pages(owners[f], file_pages[f], 1);
	/* the first piece fits, and so it would be mapped as one */
	area = reserve(nr * PAGE);
	map = mmap(area, nr * PAGE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_FIXED, buf, 0);
	ASSERT_EQ(area, map);
	POKE(map + 9 * PAGE, PEEK(map + 9 * PAGE));
	expect_pieces(_metadata, map, owners, versions);
	/* it is not: nobody could tell whose references to drop */
	EXPECT_EQ(0, pmd_mapped(map, nr * PAGE));

	for (int f = 0; f < 3; f++) {
		ASSERT_EQ(0, punch(fds[f], 0, file_pages[f]));
		versions[f] = 0;
		expect_pieces(_metadata, map, owners, versions);
		fill_pages(owners[f], file_pages[f], 2);
		versions[f] = 2;
		expect_pieces(_metadata, map, owners, versions);
	}
	EXPECT_EQ(0, pmd_mapped(map, nr * PAGE));
	/* written here */
	for (int i = 0, at = 0; i < PIECES; at += pieces[i++].nr)
		for (unsigned long p = 0; p < pieces[i].nr; p++)
			fill_page(map + (at + p) * PAGE,
				  tag(1, pieces[i].first + p, 3));
	for (int f = 0; f < 3; f++)
		versions[f] = 3;
	expect_pieces(_metadata, map, owners, versions);
	/* one after the other is truncated */
	for (int f = 0; f < 3; f++) {
		char *addr = map;

		ASSERT_EQ(0, ftruncate(fds[f], 0));
		for (int i = 0; i < PIECES; i++) {
			for (unsigned long p = 0; p < pieces[i].nr;
			     p += 13) {
				EXPECT_EQ(pieces[i].file <= f,
					  access_sigbus(addr + p * PAGE, false));
			}
			addr += pieces[i].nr * PAGE;
		}
	}
	for (int f = 0; f < 3; f++) {
		ASSERT_EQ(0, ftruncate(fds[f], file_pages[f] * PAGE));
		fill_pages(owners[f], file_pages[f], 4);
		versions[f] = 4;
	}
	expect_pieces(_metadata, map, owners, versions);
	munmap(map, nr * PAGE);
	close(buf);
}

/* Two files of huge pages in turns, page by page. */
TEST_F(mixed, in_turns)
{
	enum { NR = 400 };
	struct memfd_dmabuf_range r[NR];
	int buf, status;
	char *map;
	pid_t pid;

	for (int i = 0; i < NR; i++)
		r[i] = range(i % 2 ? self->hugetlb : self->thp, i * 5, 1);
	buf = create(self->dev, r, NR);
	ASSERT_LE(0, buf);
	map = map_shared(buf, NR);
	ASSERT_NE(MAP_FAILED, map);
	fill_pages(self->owner_thp, FILE_PAGES, 1);
	fill_pages(self->owner_hugetlb, FILE_PAGES, 2);
	for (int i = 0; i < NR; i++) {
		EXPECT_TRUE(page_is(map + i * PAGE, tag(1, i * 5, 1 + i % 2)));
	}
	/* a mixed vma's page tables are copied */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		for (int i = 0; i < NR; i++) {
			EXPECT_TRUE(mapped(map + i * PAGE));
			EXPECT_TRUE(page_is(map + i * PAGE,
					    tag(1, i * 5, 1 + i % 2)));
		}
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	ASSERT_EQ(0, punch(self->hugetlb, 0, FILE_PAGES));
	for (int i = 0; i < NR; i++) {
		EXPECT_EQ(i % 2 == 0, mapped(map + i * PAGE));
	}
	fill_pages(self->owner_hugetlb, FILE_PAGES, 3);
	ASSERT_EQ(0, punch(self->thp, 0, FILE_PAGES));
	for (int i = 0; i < NR; i++) {
		EXPECT_TRUE(page_is(map + i * PAGE,
				    i % 2 ? tag(1, i * 5, 3) : 0));
	}
	munmap(map, NR * PAGE);
	close(buf);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/*
 * With large folios in the file, no page that the buffer does not list can be
 * reached through it: neither a neighbour of a page in its folio, nor one next
 * to it in the page tables.
 */
#include "common.h"

#include "harness.h"

#define THP_DIR		"/sys/kernel/mm/transparent_hugepage/"
#define FILE_PAGES	2048UL	/* four huge pages */

#define KPF_COMPOUND_HEAD 15
#define KPF_COMPOUND_TAIL 16

static bool page_is_compound(uint64_t pfn)
{
	int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	uint64_t flags = 0;

	if (pread(fd, &flags, 8, pfn * 8) != 8)
		flags = 0;
	close(fd);
	return flags & (1 << KPF_COMPOUND_HEAD | 1 << KPF_COMPOUND_TAIL);
}

/* Address space for @pages, from a huge page boundary. */
static char *reserve(unsigned long pages)
{
	char *area = mmap(NULL, pages * PAGE + (2 << 20), PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *start;

	if (area == MAP_FAILED)
		return area;
	start = (char *)(((uintptr_t)area + (2 << 20) - 1) & -(2UL << 20));
	if (start > area)
		munmap(area, start - area);
	munmap(start + pages * PAGE, area + (2 << 20) - start);
	return start;
}

FIXTURE(leak) {
	char enabled[64];	/* as it was */
	int dev;
	int memfd;
	char *file;
};

FIXTURE_VARIANT(leak) {
	const char *shmem_enabled;	/* for all sizes */
	const char *mthp;		/* folder of a size to enable, or NULL */
};

FIXTURE_VARIANT_ADD(leak, small_pages) { "never", NULL };
FIXTURE_VARIANT_ADD(leak, huge_always) { "always", NULL };
FIXTURE_VARIANT_ADD(leak, mthp_64k) { "never", "hugepages-64kB" };

FIXTURE_SETUP(leak)
{
	unsigned long large = 0;
	char path[128];

	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	/* khugepaged would fill holes, and collapses what has large folios */
	ASSERT_TRUE(choose(THP_DIR "enabled", "never", self->enabled));
	ASSERT_EQ(0, write_file(THP_DIR "shmem_enabled",
				variant->shmem_enabled));
	if (variant->mthp) {
		snprintf(path, sizeof(path), THP_DIR "%s/shmem_enabled",
			 variant->mthp);
		ASSERT_EQ(0, write_file(path, "always"));
	}
	self->memfd = new_memfd(FILE_PAGES);
	ASSERT_LE(0, self->memfd);
	/* by touching an aligned mapping: mTHP sizes are for those only */
	self->file = reserve(FILE_PAGES);
	ASSERT_EQ(self->file, mmap(self->file, FILE_PAGES * PAGE,
				   PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_FIXED, self->memfd, 0));
	for (unsigned long p = 0; p < FILE_PAGES; p++) {
		fill_page(self->file + p * PAGE, tag(1, p, 1));
		large += page_is_compound(PM_PFN(pagemap_entry(self->file + p * PAGE)));
	}
	/* or else the test proves nothing */
	if (variant->mthp || !strcmp(variant->shmem_enabled, "always")) {
		ASSERT_LT(FILE_PAGES / 2, large);
	} else {
		ASSERT_EQ(0, large);
	}
	if (variant->mthp) {
		ASSERT_EQ(0, write_file(path, "never"));
	}
	ASSERT_EQ(0, write_file(THP_DIR "shmem_enabled", "never"));
}

FIXTURE_TEARDOWN(leak)
{
	write_file(THP_DIR "enabled", self->enabled);
	munmap(self->file, FILE_PAGES * PAGE);
	close(self->memfd);
	close(self->dev);
}

/* How a test touches its mapping. */
enum access { READ, WRITE, POPULATE_READ, POPULATE_WRITE };

static void touch(char *map, unsigned long nr, enum access access)
{
	unsigned long i;

	switch (access) {
	case READ:
		for (i = 0; i < nr; i++)
			PEEK(map + i * PAGE);
		break;
	case WRITE:
		for (i = 0; i < nr; i++)
			POKE(map + i * PAGE, PEEK(map + i * PAGE));
		break;
	case POPULATE_READ:
		madvise(map, nr * PAGE, MADV_POPULATE_READ);
		break;
	case POPULATE_WRITE:
		madvise(map, nr * PAGE, MADV_POPULATE_WRITE);
		break;
	}
}

/* Map the pages listed, and compare each page frame with the file's. */
static void check_list(struct __test_metadata *_metadata, int dev, int memfd,
		       char *file, const unsigned long *list, unsigned long nr,
		       enum access access)
{
	struct memfd_dmabuf_range *r = calloc(nr, sizeof(*r));
	unsigned long i, wrong = 0, missing = 0;
	char *map;
	int buf;

	for (i = 0; i < nr; i++)
		r[i] = range(memfd, list[i], 1);
	buf = create(dev, r, nr);
	ASSERT_LE(0, buf);
	free(r);

	/* at a huge page boundary: the most tempting place for a huge pmd */
	map = reserve(nr);
	ASSERT_EQ(map, mmap(map, nr * PAGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_FIXED, buf, 0));

	touch(map, nr, access);
	for (i = 0; i < nr; i++) {
		uint64_t here = pagemap_entry(map + i * PAGE);
		uint64_t there = pagemap_entry(file + list[i] * PAGE);

		if (!(here & PM_PRESENT))
			missing++;
		else if (PM_PFN(here) != PM_PFN(there) || !PM_PFN(here))
			wrong++;
		if (!page_is(map + i * PAGE, tag(1, list[i], 1)))
			wrong++;
	}
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(0, missing);
	munmap(map, nr * PAGE);
	close(buf);
}

#define check_all_accesses(list, nr) do {				\
	for (enum access _a = READ; _a <= POPULATE_WRITE; _a++) {				\
		/* everything is mapped in the file's mapping */	\
		touch(self->file, FILE_PAGES, READ);			\
		check_list(_metadata, self->dev, self->memfd,		\
			   self->file, list, nr, _a);			\
	}								\
} while (0)

/* One page of every huge page, at the same place in the buffer's page table. */
TEST_F_TIMEOUT(leak, single_pages, 300)
{
	unsigned long list[] = { 0, 513, 1026, 1539 };

	check_all_accesses(list, 4);
}

TEST_F_TIMEOUT(leak, every_third_page, 300)
{
	unsigned long list[FILE_PAGES / 3], i;

	for (i = 0; i < FILE_PAGES / 3; i++)
		list[i] = i * 3;
	check_all_accesses(list, FILE_PAGES / 3);
}

TEST_F_TIMEOUT(leak, backwards, 300)
{
	unsigned long list[FILE_PAGES], i;

	for (i = 0; i < FILE_PAGES; i++)
		list[i] = FILE_PAGES - 1 - i;
	check_all_accesses(list, FILE_PAGES);
}

/* Whole and aligned: linear, and yet the neighbour is not the buffer's. */
TEST_F_TIMEOUT(leak, one_huge_page, 300)
{
	unsigned long list[512], i;

	for (i = 0; i < 512; i++)
		list[i] = 512 + i;
	check_all_accesses(list, 512);
}

TEST_F_TIMEOUT(leak, almost_one_huge_page, 300)
{
	unsigned long list[512], i;

	for (i = 0; i < 512; i++)
		list[i] = 512 + i;
	list[300] = 7;
	check_all_accesses(list, 512);
}

TEST_F_TIMEOUT(leak, shifted_by_one, 300)
{
	unsigned long list[FILE_PAGES - 1], i;

	for (i = 0; i < FILE_PAGES - 1; i++)
		list[i] = i + 1;
	check_all_accesses(list, FILE_PAGES - 1);
}

/* Runs of 1, 2, 3 ... pages with gaps, the last one first. */
TEST_F_TIMEOUT(leak, mixed_runs, 300)
{
	unsigned long list[FILE_PAGES], nr = 0, len = 1, p = 5;

	for (; p + len < FILE_PAGES; p += len + 3)
		len++;
	for (; len; len--, p -= len + 3)
		for (unsigned long i = 0; i < len && p + i < FILE_PAGES; i++)
			list[nr++] = p + i;
	check_all_accesses(list, nr);
}

/* After a partial punch of a large folio, which splits it or zeroes in place. */
TEST_F_TIMEOUT(leak, after_partial_punch, 300)
{
	unsigned long list[FILE_PAGES / 2], i;

	for (i = 0; i < FILE_PAGES / 2; i++)
		list[i] = i * 2;
	for (i = 1; i < FILE_PAGES; i += 64) {
		ASSERT_EQ(0, punch(self->memfd, i, 1));
	}
	check_all_accesses(list, FILE_PAGES / 2);
}

/* A buffer of every second page, all of it mapped. */
#define map_every_second(buf, map) do {					\
	struct memfd_dmabuf_range *_r = calloc(FILE_PAGES / 2, sizeof(*_r)); \
									\
	for (unsigned long _i = 0; _i < FILE_PAGES / 2; _i++)		\
		_r[_i] = range(self->memfd, _i * 2, 1);			\
	(buf) = create(self->dev, _r, FILE_PAGES / 2);			\
	free(_r);							\
	ASSERT_LE(0, (buf));						\
	(map) = map_shared((buf), FILE_PAGES / 2);			\
	ASSERT_NE(MAP_FAILED, (map));					\
	touch((map), FILE_PAGES / 2, READ);				\
} while (0)

/* The same page frames in the buffer as in the file, and the right contents. */
#define expect_every_second(map) do {					\
	unsigned long _i, _wrong = 0;					\
									\
	touch(self->file, FILE_PAGES, READ);				\
	for (_i = 0; _i < FILE_PAGES / 2; _i++) {			\
		char *_a = (map) + _i * PAGE;				\
									\
		_wrong += !page_is(_a, tag(1, _i * 2, 1));		\
		_wrong += PM_PFN(pagemap_entry(_a)) !=			\
			PM_PFN(pagemap_entry(self->file + _i * 2 * PAGE)); \
	}								\
	EXPECT_EQ(0, _wrong);						\
} while (0)

/*
 * A mapped large folio can be split: a punched page is given back, and not just
 * zeroed in a folio that stays large because somebody else has it mapped.
 */
TEST_F_TIMEOUT(leak, split_while_mapped, 300)
{
	struct stat before, after;
	char *map;
	int buf;

	map_every_second(buf, map);
	ASSERT_EQ(0, fstat(self->memfd, &before));
	for (unsigned long p = 101; p < FILE_PAGES; p += 512)
		ASSERT_EQ(0, punch(self->memfd, p, 1));
	ASSERT_EQ(0, fstat(self->memfd, &after));
	EXPECT_EQ(FILE_PAGES / 512 * (PAGE / 512),
		  before.st_blocks - after.st_blocks);
	expect_every_second(map);
	munmap(map, FILE_PAGES / 2 * PAGE);
	close(buf);
}

/* And mapped small folios can be collapsed into a large one. */
TEST_F_TIMEOUT(leak, collapse_while_mapped, 300)
{
	uint64_t first;
	char *map;
	int buf;

	map_every_second(buf, map);
	ASSERT_EQ(0, collapse(self->file, FILE_PAGES * PAGE));
	PEEK(self->file);
	first = PM_PFN(pagemap_entry(self->file));
	EXPECT_EQ(0, first % 512);
	EXPECT_TRUE(page_is_compound(first));
	expect_every_second(map);
	munmap(map, FILE_PAGES / 2 * PAGE);
	close(buf);
}

TEST_HARNESS_MAIN

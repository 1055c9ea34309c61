// SPDX-License-Identifier: GPL-2.0
/*
 * A device that does DMA: QEMU's "edu", through the test driver of the same
 * name. It copies what the memory has, both ways; it is kept out of memory that
 * it may not write or no longer has mapped; and it learns, or the owner of the
 * memory does, when pages are thrown away.
 *
 * The guest needs "-device edu" and either "-device intel-iommu" and the kernel
 * parameters "intel_iommu=on iommu.strict=1", or the parameters "swiotlb=force
 * memfd_dmabuf_edu.dma_bits=32" and "-device edu,dma_mask=0xffffffff".
 */
#include "common.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <linux/dma-buf.h>
#include "../../../../drivers/dma-buf/memfd_dmabuf_edu.h"
#include "harness.h"

#define FILE_PAGES	32
#define BUF_PAGES	6
#define WORDS		(EDU_SIZE / 8)

#define SYS_EDU		"/sys/class/misc/memfd_dmabuf_edu"

/* The buffer's page i is the file's page file_page(i): scattered. */
static unsigned int file_page(unsigned int i)
{
	return i * 5 + 1;
}

/* The test driver's ioctls; they return 0 or -errno. */

static int attach(int edu, int fd, unsigned int flags)
{
	struct edu_attach arg = { .fd = fd, .flags = flags };

	return ioctl(edu, EDU_ATTACH, &arg) ? -errno : 0;
}

static int detach(int edu)
{
	return ioctl(edu, EDU_DETACH) ? -errno : 0;
}

static int map(int edu, unsigned int direction)
{
	return ioctl(edu, EDU_MAP, &direction) ? -errno : 0;
}

static int unmap(int edu)
{
	return ioctl(edu, EDU_UNMAP) ? -errno : 0;
}

/* What fails, pinning or mapping, depends on the kind of importer. */
static int attach_and_map(int edu, int fd, unsigned int flags,
			  unsigned int direction)
{
	int ret = attach(edu, fd, flags);

	if (ret)
		return ret;
	ret = map(edu, direction);
	if (ret)
		detach(edu);
	return ret;
}

static int copy(int edu, uint64_t address, unsigned int device,
		unsigned int length, unsigned int flags)
{
	struct edu_copy arg = {
		.address = address,
		.length = length,
		.device = device,
		.flags = flags,
	};

	return ioctl(edu, EDU_COPY, &arg) ? -errno : 0;
}

/* All but the last word of a page of the buffer. */
static int page_to_device(int edu, unsigned int page)
{
	return copy(edu, page * PAGE, 0, EDU_SIZE, 0);
}

static int device_to_page(int edu, unsigned int page)
{
	return copy(edu, page * PAGE, 0, EDU_SIZE, EDU_TO_MEMORY);
}

static int copy_page(int edu, unsigned int from, unsigned int to)
{
	int ret = page_to_device(edu, from);

	return ret ? ret : device_to_page(edu, to);
}

static struct edu_stats stats(int edu)
{
	struct edu_stats stats;

	if (ioctl(edu, EDU_STATS, &stats))
		memset(&stats, 0xff, sizeof(stats));
	return stats;
}

static struct memfd_dmabuf_info info(int dev, int buf)
{
	struct memfd_dmabuf_info info = { .fd = buf };

	if (ioctl(dev, MEMFD_DMABUF_INFO, &info))
		memset(&info, 0xff, sizeof(info));
	return info;
}

static int sync_buf(int buf, unsigned long flags)
{
	struct dma_buf_sync arg = { .flags = flags };

	return ioctl(buf, DMA_BUF_IOCTL_SYNC, &arg) ? -errno : 0;
}

#define begin_read(buf) \
	ASSERT_EQ(0, sync_buf(buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ))
#define end_read(buf) \
	ASSERT_EQ(0, sync_buf(buf, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ))
#define begin_write(buf) \
	ASSERT_EQ(0, sync_buf(buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW))
#define end_write(buf) \
	ASSERT_EQ(0, sync_buf(buf, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW))

/* A page that the device has written, all but the last word. */
static bool copy_is(const void *addr, uint64_t copied, uint64_t own)
{
	const uint64_t *words = addr;

	for (unsigned int i = 0; i < WORDS; i++)
		if (PEEK(&words[i]) != copied)
			return false;
	return PEEK(&words[WORDS]) == own;
}

/* The machine */

static bool has_iommu(void)
{
	DIR *dir = opendir("/sys/class/iommu");
	struct dirent *entry;
	bool found = false;

	if (!dir)
		return false;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			found = true;
	closedir(dir);
	return found;
}

static bool is_swiotlb_forced(void)
{
	char line[4096] = "", *word, *rest = line;
	FILE *f = fopen("/proc/cmdline", "re");

	if (!f)
		return false;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	while ((word = strsep(&rest, "\n ")))
		if (!strcmp(word, "swiotlb=force"))
			return true;
	return false;
}

/* Does the device have copies of the pages, instead of the pages? */
static bool has_bounce_buffers(void)
{
	return !has_iommu() && is_swiotlb_forced();
}

/* A file, a buffer of pages scattered over it, and the device. */
struct bench {
	int dev;
	int edu;
	int memfd;
	int buf;
	char *file;	/* mapping of the memfd */
};

static void bench_open(struct __test_metadata *_metadata, struct bench *b,
		       unsigned int flags)
{
	struct memfd_dmabuf_range r[BUF_PAGES];

	ASSERT_TRUE(has_iommu() || is_swiotlb_forced())
		TH_LOG("no IOMMU: is there -device intel-iommu, intel_iommu=on?");
	b->dev = open_device();
	ASSERT_LE(0, b->dev);
	b->edu = open("/dev/memfd_dmabuf_edu", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, b->edu)
		TH_LOG("no edu: CONFIG_MEMFD_DMABUF_EDU_TEST, -device edu?");
	b->memfd = new_memfd(FILE_PAGES);
	ASSERT_LE(0, b->memfd);
	b->file = map_shared(b->memfd, FILE_PAGES);
	ASSERT_NE(MAP_FAILED, b->file);
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		r[i] = range(b->memfd, file_page(i), 1);
	b->buf = create_flags(b->dev, flags | MEMFD_DMABUF_CLOEXEC, r,
			      BUF_PAGES);
	ASSERT_LE(0, b->buf);
}

/* Nothing is left, even if the importer goes without a word. */
static void bench_close(struct __test_metadata *_metadata, struct bench *b)
{
	close(b->edu);
	if (b->buf >= 0) {
		EXPECT_EQ(0, info(b->dev, b->buf).pinned_pages);
		EXPECT_EQ(0, info(b->dev, b->buf).stale_pages);
		close(b->buf);
	}
	munmap(b->file, FILE_PAGES * PAGE);
	EXPECT_EQ(0, fcntl(b->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	close(b->memfd);
	close(b->dev);
}

static char *in_file(const struct bench *b, unsigned int i)
{
	return b->file + file_page(i) * PAGE;
}

static uint64_t own(unsigned int i, unsigned int version)
{
	return tag(1, file_page(i), version);
}

/* Fill all of the file. */
static void fill(struct __test_metadata *_metadata, struct bench *b,
		 unsigned int version)
{
	begin_write(b->buf);
	for (unsigned int p = 0; p < FILE_PAGES; p++)
		fill_page(b->file + p * PAGE, tag(1, p, version));
	end_write(b->buf);
}

/* The buffer's page @i, as a CPU sees it, is untouched. */
#define expect_own(b, i, version) do {					\
	begin_read((b)->buf);						\
	EXPECT_TRUE(page_is(in_file(b, i), own(i, version)));		\
	end_read((b)->buf);						\
} while (0)

/* The device has copied @value there, the last word is its own. */
#define expect_copy(b, i, value, version) do {				\
	begin_read((b)->buf);						\
	EXPECT_TRUE(copy_is(in_file(b, i), value, own(i, version)));	\
	end_read((b)->buf);						\
} while (0)

/* What all kinds of importers have in common. */

FIXTURE(kinds) {
	struct bench b;
};

FIXTURE_VARIANT(kinds) {
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(kinds, static) { .flags = 0 };
FIXTURE_VARIANT_ADD(kinds, dynamic) { .flags = EDU_DYNAMIC };
FIXTURE_VARIANT_ADD(kinds, pinned) { .flags = EDU_DYNAMIC | EDU_PIN };

FIXTURE_SETUP(kinds)
{
	bench_open(_metadata, &self->b, 0);
}

FIXTURE_TEARDOWN(kinds)
{
	bench_close(_metadata, &self->b);
}

TEST_F(kinds, both_ways)
{
	struct bench *b = &self->b;

	fill(_metadata, b, 1);
	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
				    EDU_BIDIRECTIONAL));
	for (unsigned int i = 0; i < 3; i++) {
		ASSERT_EQ(0, copy_page(b->edu, i, 5 - i));
	}
	begin_read(b->buf);
	for (unsigned int i = 0; i < 3; i++) {
		EXPECT_TRUE(page_is(in_file(b, i), own(i, 1)));
		EXPECT_TRUE(copy_is(in_file(b, 5 - i), own(i, 1),
				    own(5 - i, 1)));
	}
	/* nothing else has been written */
	for (unsigned int p = 0; p < FILE_PAGES; p++) {
		if (p % 5 != 1) {
			EXPECT_TRUE(page_is(b->file + p * PAGE, tag(1, p, 1)));
		}
	}
	end_read(b->buf);
	/* what the CPU writes while it is mapped */
	fill(_metadata, b, 2);
	ASSERT_EQ(0, copy_page(b->edu, 5, 0));
	expect_own(b, 5, 2);
	expect_copy(b, 0, own(5, 2), 2);
	EXPECT_EQ(0, stats(b->edu).moves);
	EXPECT_EQ(1, stats(b->edu).maps);
}

TEST_F(kinds, one_way)
{
	struct bench *b = &self->b;

	fill(_metadata, b, 1);
	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
				    EDU_TO_DEVICE));
	ASSERT_EQ(0, page_to_device(b->edu, 1));
	/* the test driver's own refusal */
	EXPECT_EQ(-EACCES, device_to_page(b->edu, 4));
	ASSERT_EQ(0, unmap(b->edu));
	ASSERT_EQ(0, map(b->edu, EDU_FROM_DEVICE));
	ASSERT_EQ(0, device_to_page(b->edu, 4));
	EXPECT_EQ(-EACCES, page_to_device(b->edu, 1));
	ASSERT_EQ(0, unmap(b->edu));
	ASSERT_EQ(0, detach(b->edu));
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		if (i != 4) {
			expect_own(b, i, 1);
		}
	}
	expect_copy(b, 4, own(1, 1), 1);
}

/* A part of a page: exactly these bytes. */
TEST_F(kinds, part_of_page)
{
	struct bench *b = &self->b;
	char *to = in_file(b, 3);

	fill(_metadata, b, 1);
	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
				    EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, copy(b->edu, 2 * PAGE + 96, 200, 64, 0));
	ASSERT_EQ(0, copy(b->edu, 3 * PAGE + 4000, 200, 64, EDU_TO_MEMORY));
	begin_read(b->buf);
	for (unsigned int i = 0; i < PAGE; i += 8) {
		bool copied = i >= 4000 && i < 4064;

		EXPECT_EQ(own(copied ? 2 : 3, 1), *(uint64_t *)(to + i));
	}
	end_read(b->buf);
	/* past the end of the buffer */
	EXPECT_EQ(-EINVAL, copy(b->edu, BUF_PAGES * PAGE, 0, 8, 0));
	EXPECT_EQ(-EINVAL, copy(b->edu, BUF_PAGES * PAGE - 8, 0, 16, 0));
}

/* Pages are pinned for those who cannot do without, and for no longer. */
TEST_F(kinds, pins)
{
	struct bench *b = &self->b;
	unsigned int want = variant->flags == EDU_DYNAMIC ? 0 : BUF_PAGES;
	long before;

	fill(_metadata, b, 1);
	before = pinned_pages();
	ASSERT_LE(0, before);
	for (unsigned int i = 0; i < 3; i++) {
		ASSERT_EQ(0, attach(b->edu, b->buf, variant->flags));
		EXPECT_EQ(want, info(b->dev, b->buf).pinned_pages);
		ASSERT_EQ(0, map(b->edu, EDU_BIDIRECTIONAL));
		EXPECT_EQ(want, info(b->dev, b->buf).pinned_pages);
		EXPECT_EQ(want, pinned_pages() - before);
		ASSERT_EQ(0, unmap(b->edu));
		EXPECT_EQ(want, info(b->dev, b->buf).pinned_pages);
		/* with and without a mapping */
		if (i) {
			ASSERT_EQ(0, map(b->edu, EDU_TO_DEVICE));
		}
		ASSERT_EQ(0, detach(b->edu));
		EXPECT_EQ(0, info(b->dev, b->buf).pinned_pages);
		EXPECT_EQ(0, pinned_pages() - before);
	}
	/* and when the importer is closed */
	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
				    EDU_BIDIRECTIONAL));
	close(b->edu);
	b->edu = -1;
	EXPECT_EQ(0, info(b->dev, b->buf).pinned_pages);
	EXPECT_EQ(0, pinned_pages() - before);
}

/* An importer keeps the buffer when its descriptor is closed. */
TEST_F(kinds, outlives_descriptor)
{
	struct bench *b = &self->b;

	fill(_metadata, b, 1);
	ASSERT_EQ(0, attach(b->edu, b->buf, variant->flags));
	close(b->buf);
	b->buf = -1;
	ASSERT_EQ(0, map(b->edu, EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, copy_page(b->edu, 0, 1));
	/* unmapping does what DMA_BUF_IOCTL_SYNC no longer can */
	ASSERT_EQ(0, unmap(b->edu));
	ASSERT_EQ(0, detach(b->edu));
	EXPECT_TRUE(copy_is(in_file(b, 1), own(0, 1), own(1, 1)));
}

/* More than the device takes in one segment, and pages of two files. */
TEST_F(kinds, long_runs)
{
	enum { NR = 40 };
	struct bench *b = &self->b;
	int fds[2] = { new_memfd(NR), new_memfd(NR) };
	struct memfd_dmabuf_range r[] = {
		range(fds[0], 0, NR), range(fds[1], 1, NR - 1),
	};
	int buf = create(b->dev, r, 2);
	uint64_t data[PAGE / 8];

	ASSERT_LE(0, buf);
	for (unsigned int f = 0; f < 2; f++) {
		for (unsigned int p = 0; p < NR; p++) {
			ASSERT_TRUE(write_page(fds[f], p, tag(f, p, 1)));
		}
	}
	ASSERT_EQ(0, attach_and_map(b->edu, buf, variant->flags,
				    EDU_BIDIRECTIONAL));
	/* 79 pages in segments of up to 16 */
	EXPECT_LE(5, stats(b->edu).segments);
	ASSERT_EQ(0, copy_page(b->edu, 39, 78));
	ASSERT_EQ(0, copy_page(b->edu, 40, 0));
	begin_read(buf);
	ASSERT_EQ(PAGE, pread(fds[1], data, PAGE, 39 * PAGE));
	EXPECT_TRUE(copy_is(data, tag(0, 39, 1), tag(1, 39, 1)));
	ASSERT_EQ(PAGE, pread(fds[0], data, PAGE, 0));
	EXPECT_TRUE(copy_is(data, tag(1, 1, 1), tag(0, 0, 1)));
	for (unsigned int p = 1; p < NR; p++) {
		ASSERT_EQ(PAGE, pread(fds[0], data, PAGE, p * PAGE));
		EXPECT_TRUE(page_is(data, tag(0, p, 1)));
	}
	end_read(buf);
	ASSERT_EQ(0, detach(b->edu));
	close(buf);
	close(fds[0]);
	close(fds[1]);
}

TEST_F(kinds, rdonly)
{
	struct bench *b = &self->b, ro;

	bench_open(_metadata, &ro, MEMFD_DMABUF_RDONLY);
	fill(_metadata, b, 1);
	begin_read(ro.buf);
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		fill_page(in_file(&ro, i), own(i, 7));
	end_read(ro.buf);

	EXPECT_EQ(-EACCES, attach_and_map(ro.edu, ro.buf, variant->flags,
					  EDU_BIDIRECTIONAL));
	EXPECT_EQ(-EACCES, attach_and_map(ro.edu, ro.buf, variant->flags,
					  EDU_FROM_DEVICE));
	EXPECT_EQ(0, info(ro.dev, ro.buf).pinned_pages);
	if (!variant->flags) {
		/* mapped when it is attached, for both ways */
		EXPECT_EQ(-EACCES, attach(ro.edu, ro.buf, 0));
	} else {
		ASSERT_EQ(0, attach_and_map(ro.edu, ro.buf, variant->flags,
					    EDU_TO_DEVICE));
		ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
					    EDU_FROM_DEVICE));
		ASSERT_EQ(0, page_to_device(ro.edu, 3));
		ASSERT_EQ(0, device_to_page(b->edu, 2));
		expect_copy(b, 2, own(3, 7), 1);
	}
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(page_is(in_file(&ro, i), own(i, 7)));
	}
	bench_close(_metadata, &ro);
}

/* A hole is filled, so that the device and the CPU have the same page. */
TEST_F(kinds, holes)
{
	struct bench *b = &self->b;

	EXPECT_EQ(0, resident(b->memfd, FILE_PAGES));
	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
				    EDU_BIDIRECTIONAL));
	EXPECT_EQ(BUF_PAGES, resident(b->memfd, FILE_PAGES));
	begin_write(b->buf);
	EXPECT_TRUE(page_is(in_file(b, 0), 0));
	fill_page(in_file(b, 0), own(0, 1));
	end_write(b->buf);
	ASSERT_EQ(0, copy_page(b->edu, 0, 1));
	begin_read(b->buf);
	EXPECT_TRUE(copy_is(in_file(b, 1), own(0, 1), 0));
	end_read(b->buf);
}

/* What a CPU would get SIGBUS for, a device does not get either. */
TEST_F(kinds, no_page)
{
	struct bench *b = &self->b, noalloc;

	bench_open(_metadata, &noalloc, MEMFD_DMABUF_NOALLOC);
	fill(_metadata, &noalloc, 1);
	ASSERT_EQ(0, punch(noalloc.memfd, file_page(4), 1));
	EXPECT_EQ(-EFAULT, attach_and_map(noalloc.edu, noalloc.buf,
					  variant->flags, EDU_TO_DEVICE));
	EXPECT_EQ(FILE_PAGES - 1, resident(noalloc.memfd, FILE_PAGES));
	EXPECT_EQ(0, info(noalloc.dev, noalloc.buf).pinned_pages);
	fill(_metadata, &noalloc, 2);
	EXPECT_EQ(0, attach_and_map(noalloc.edu, noalloc.buf, variant->flags,
				    EDU_TO_DEVICE));
	bench_close(_metadata, &noalloc);

	fill(_metadata, b, 1);
	ASSERT_EQ(0, ftruncate(b->memfd, file_page(4) * PAGE));
	EXPECT_EQ(-EFAULT, attach_and_map(b->edu, b->buf, variant->flags,
					  EDU_TO_DEVICE));
	EXPECT_EQ(0, info(b->dev, b->buf).pinned_pages);
	ASSERT_EQ(0, ftruncate(b->memfd, FILE_PAGES * PAGE));
	EXPECT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
				    EDU_TO_DEVICE));
}

/* Importers that can be told */

/* Two importers that write, whichever of them came first. */

FIXTURE(two) {
	struct bench b;
	int writer;
	int other;
};

FIXTURE_VARIANT(two) {
	unsigned int flags;
	bool writer_is_last;
};

FIXTURE_VARIANT_ADD(two, first_writes) { .writer_is_last = false };
FIXTURE_VARIANT_ADD(two, last_writes) { .writer_is_last = true };
FIXTURE_VARIANT_ADD(two, dynamic_first_writes) { .flags = EDU_DYNAMIC };
FIXTURE_VARIANT_ADD(two, dynamic_last_writes)
{
	.flags = EDU_DYNAMIC,
	.writer_is_last = true,
};

FIXTURE_SETUP(two)
{
	struct bench *b = &self->b;
	int last;

	if (has_bounce_buffers())
		SKIP(return, "bounce buffers: there can be one that writes");
	bench_open(_metadata, b, 0);
	fill(_metadata, b, 1);
	last = open("/dev/memfd_dmabuf_edu", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, last);
	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
				    EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, attach_and_map(last, b->buf, variant->flags,
				    EDU_BIDIRECTIONAL));
	self->writer = variant->writer_is_last ? last : b->edu;
	self->other = variant->writer_is_last ? b->edu : last;
}

FIXTURE_TEARDOWN(two)
{
	close(self->b.edu == self->writer ? self->other : self->writer);
	bench_close(_metadata, &self->b);
}

TEST_F(two, one_writes)
{
	struct bench *b = &self->b;

	ASSERT_EQ(0, copy_page(self->writer, 0, 1));
	expect_copy(b, 1, own(0, 1), 1);
	/* and again, as often as anybody looks */
	expect_copy(b, 1, own(0, 1), 1);
	ASSERT_EQ(0, copy_page(self->writer, 2, 1));
	expect_copy(b, 1, own(2, 1), 1);
	/* what it has been given by the CPU it has not written */
	fill(_metadata, b, 2);
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		expect_own(b, i, 2);
	}
	/* nor does the end of a mapping bring it back */
	ASSERT_EQ(0, copy_page(self->writer, 0, 1));
	ASSERT_EQ(0, unmap(self->writer));
	ASSERT_EQ(0, unmap(self->other));
	expect_copy(b, 1, own(0, 2), 2);
}

TEST_F(two, both_write)
{
	struct bench *b = &self->b;

	/* other pages, and other bytes of one page */
	ASSERT_EQ(0, copy_page(self->writer, 0, 1));
	ASSERT_EQ(0, copy_page(self->other, 2, 3));
	ASSERT_EQ(0, page_to_device(self->writer, 0));
	ASSERT_EQ(0, copy(self->writer, 4 * PAGE, 0, 1024, EDU_TO_MEMORY));
	ASSERT_EQ(0, page_to_device(self->other, 2));
	ASSERT_EQ(0, copy(self->other, 4 * PAGE + 1024, 0, 1024,
			  EDU_TO_MEMORY));
	begin_read(b->buf);
	EXPECT_TRUE(copy_is(in_file(b, 1), own(0, 1), own(1, 1)));
	EXPECT_TRUE(copy_is(in_file(b, 3), own(2, 1), own(3, 1)));
	for (unsigned int i = 0; i < PAGE / 8; i++) {
		uint64_t *words = (uint64_t *)in_file(b, 4);

		EXPECT_EQ(i < 128 ? own(0, 1) : i < 256 ? own(2, 1) : own(4, 1),
			  PEEK(&words[i]));
	}
	end_read(b->buf);

	/* one after the other, and what the CPU has seen is from then on old */
	ASSERT_EQ(0, copy_page(self->other, 0, 5));
	expect_copy(b, 5, own(0, 1), 1);
	ASSERT_EQ(0, copy_page(self->writer, 2, 5));
	expect_copy(b, 5, own(2, 1), 1);
	ASSERT_EQ(0, unmap(self->other));
	expect_copy(b, 5, own(2, 1), 1);
	ASSERT_EQ(0, unmap(self->writer));
	expect_copy(b, 5, own(2, 1), 1);
}

/* Somebody writes to the memory without telling anybody. */
TEST_F(two, cpu_writes)
{
	struct bench *b = &self->b;

	fill_page(in_file(b, 2), own(2, 3));
	ASSERT_EQ(0, copy_page(self->writer, 0, 1));
	expect_own(b, 2, 3);
	expect_copy(b, 1, own(0, 1), 1);
	fill_page(in_file(b, 3), own(3, 3));
	ASSERT_EQ(0, unmap(self->writer));
	ASSERT_EQ(0, unmap(self->other));
	expect_own(b, 2, 3);
	expect_own(b, 3, 3);
	expect_copy(b, 1, own(0, 1), 1);
}

struct guest {
	uint64_t *word;
	bool stop;
	bool lost;
};

static void *guest_writes(void *arg)
{
	struct guest *guest = arg;

	for (uint64_t i = 1; !__atomic_load_n(&guest->stop, __ATOMIC_RELAXED);
	     i++) {
		POKE(guest->word, i);
		for (int n = 0; n < 20; n++)
			guest->lost |= PEEK(guest->word) != i;
	}
	return NULL;
}

/* Nobody can take back what a guest writes who knows nothing of dma-bufs. */
TEST_F_TIMEOUT(two, guest_writes, 60)
{
	struct bench *b = &self->b;
	struct guest guest = { .word = (uint64_t *)in_file(b, 4) };
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, guest_writes, &guest));
	for (int i = 0; i < 300; i++) {
		begin_write(b->buf);
		end_write(b->buf);
	}
	ASSERT_EQ(0, unmap(self->writer));
	ASSERT_EQ(0, map(self->writer, EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, unmap(self->other));
	__atomic_store_n(&guest.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	EXPECT_FALSE(guest.lost);
}

/* A page that is in the buffer twice: either place will do. */
TEST_F(kinds, repeated_page)
{
	struct bench *b = &self->b;
	struct memfd_dmabuf_range r[] = {
		range(b->memfd, 3, 1), range(b->memfd, 7, 1),
		range(b->memfd, 3, 1),
	};
	uint64_t *words = (uint64_t *)(b->file + 3 * PAGE);

	fill(_metadata, b, 1);
	close(b->buf);
	b->buf = create(b->dev, r, 3);
	ASSERT_LE(0, b->buf);
	if (has_bounce_buffers()) {
		/* two copies of it: which would be the right one? */
		EXPECT_EQ(-EOPNOTSUPP, attach_and_map(b->edu, b->buf,
						      variant->flags,
						      EDU_BIDIRECTIONAL));
		if (!variant->flags)
			return;
		EXPECT_EQ(-EOPNOTSUPP, attach_and_map(b->edu, b->buf,
						      variant->flags,
						      EDU_FROM_DEVICE));
		/* to read they are as good as each other */
		ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
					    EDU_TO_DEVICE));
		EXPECT_EQ(0, page_to_device(b->edu, 2));
		return;
	}
	for (unsigned int place = 0; place < 3; place += 2) {
		ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
					    EDU_BIDIRECTIONAL));
		ASSERT_EQ(0, page_to_device(b->edu, 1));
		ASSERT_EQ(0, copy(b->edu, place * PAGE, 0, 512, EDU_TO_MEMORY));
		begin_read(b->buf);
		EXPECT_EQ(tag(1, 7, 1), PEEK(&words[0]));
		EXPECT_EQ(tag(1, 7, 1), PEEK(&words[63]));
		EXPECT_EQ(tag(1, 3, 1), PEEK(&words[64]));
		end_read(b->buf);
		ASSERT_EQ(0, unmap(b->edu));
		ASSERT_EQ(0, detach(b->edu));
		EXPECT_EQ(tag(1, 7, 1), PEEK(&words[0]));
		fill(_metadata, b, 1);
	}
}

/*
 * Devices that have bounce buffers. Each is copied as a whole: what one has
 * written would be overwritten by what the other has not touched.
 */

FIXTURE(bounce) {
	struct bench b;
	int writer;
	int readers[2];
};

FIXTURE_VARIANT(bounce) {
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(bounce, static) { .flags = 0 };
FIXTURE_VARIANT_ADD(bounce, dynamic) { .flags = EDU_DYNAMIC };
FIXTURE_VARIANT_ADD(bounce, pinned) { .flags = EDU_DYNAMIC | EDU_PIN };

FIXTURE_SETUP(bounce)
{
	struct bench *b = &self->b;

	if (!has_bounce_buffers())
		SKIP(return, "an IOMMU: no bounce buffers");
	bench_open(_metadata, b, 0);
	fill(_metadata, b, 1);
	self->writer = b->edu;
	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
				    EDU_BIDIRECTIONAL));
	for (unsigned int i = 0; i < 2; i++) {
		self->readers[i] = open("/dev/memfd_dmabuf_edu",
					O_RDWR | O_CLOEXEC);
		ASSERT_LE(0, self->readers[i]);
	}
}

FIXTURE_TEARDOWN(bounce)
{
	close(self->readers[0]);
	close(self->readers[1]);
	bench_close(_metadata, &self->b);
}

TEST_F(bounce, second_writer)
{
	struct bench *b = &self->b;
	int other = self->readers[0];

	EXPECT_EQ(-EBUSY, attach_and_map(other, b->buf, variant->flags,
					 EDU_BIDIRECTIONAL));
	EXPECT_EQ(-EBUSY, attach_and_map(other, b->buf, EDU_DYNAMIC,
					 EDU_BIDIRECTIONAL));
	EXPECT_EQ(-EBUSY, attach_and_map(other, b->buf, EDU_DYNAMIC,
					 EDU_FROM_DEVICE));
	/* who has been refused has changed nothing */
	ASSERT_EQ(0, copy_page(self->writer, 0, 1));
	expect_copy(b, 1, own(0, 1), 1);

	/* one after the other */
	ASSERT_EQ(0, unmap(self->writer));
	ASSERT_EQ(0, detach(self->writer));
	ASSERT_EQ(0, attach_and_map(other, b->buf, variant->flags,
				    EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, attach(self->writer, b->buf, EDU_DYNAMIC));
	EXPECT_EQ(-EBUSY, map(self->writer, EDU_BIDIRECTIONAL));
	EXPECT_EQ(0, map(self->writer, EDU_TO_DEVICE));
	ASSERT_EQ(0, copy_page(other, 1, 2));
	expect_copy(b, 2, own(0, 1), 1);
}

/* Also a value that the page has had before, and readers have it as well. */
TEST_F(bounce, readers)
{
	struct bench *b = &self->b;

	for (unsigned int i = 0; i < 2; i++)
		ASSERT_EQ(0, attach_and_map(self->readers[i], b->buf,
					    EDU_DYNAMIC, EDU_TO_DEVICE));
	for (unsigned int round = 0; round < 4; round++) {
		unsigned int from = round % 2 ? 2 : 0;

		ASSERT_EQ(0, copy_page(self->writer, from, 4));
		expect_copy(b, 4, own(from, 1), 1);
		for (unsigned int i = 0; i < 2; i++) {
			ASSERT_EQ(0, page_to_device(self->readers[i], 4));
			/* the device that they all are takes it back */
			ASSERT_EQ(0, device_to_page(self->writer, 5));
			expect_copy(b, 5, own(from, 1), 1);
			ASSERT_EQ(0, copy_page(self->writer, 1, 5));
		}
	}
	/* what nobody has written has not changed */
	expect_own(b, 0, 1);
	expect_own(b, 3, 1);
}

/* What the device has written is taken before the CPU's is given to it. */
TEST_F(bounce, both_write)
{
	struct bench *b = &self->b;

	ASSERT_EQ(0, copy_page(self->writer, 0, 1));
	begin_write(b->buf);
	fill_page(in_file(b, 2), own(2, 2));
	end_write(b->buf);
	expect_copy(b, 1, own(0, 1), 1);
	expect_own(b, 2, 2);
	ASSERT_EQ(0, copy_page(self->writer, 2, 3));
	/* who only reads gives it nothing */
	begin_read(b->buf);
	ASSERT_EQ(0, copy_page(self->writer, 1, 4));
	end_read(b->buf);
	expect_copy(b, 3, own(2, 2), 1);
	begin_read(b->buf);
	EXPECT_EQ(own(0, 1), PEEK((uint64_t *)in_file(b, 4)));
	end_read(b->buf);
}

/* A device that only writes: what the CPU writes beside that stays. */
TEST_F(bounce, from_device)
{
	struct bench *b = &self->b;

	ASSERT_EQ(0, page_to_device(self->writer, 0));
	ASSERT_EQ(0, unmap(self->writer));
	ASSERT_EQ(0, detach(self->writer));
	ASSERT_EQ(0, attach_and_map(self->writer, b->buf, variant->flags,
				    EDU_FROM_DEVICE));
	fill(_metadata, b, 2);
	ASSERT_EQ(0, device_to_page(self->writer, 1));
	expect_copy(b, 1, own(0, 1), 2);
	for (unsigned int i = 2; i < BUF_PAGES; i++) {
		expect_own(b, i, 2);
	}
	ASSERT_EQ(0, unmap(self->writer));
	expect_copy(b, 1, own(0, 1), 2);
	expect_own(b, 5, 2);
}

FIXTURE(dynamic) {
	struct bench b;
};

FIXTURE_SETUP(dynamic)
{
	struct bench *b = &self->b;

	bench_open(_metadata, b, 0);
	fill(_metadata, b, 1);
	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, EDU_DYNAMIC,
				    EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, stats(b->edu).moves);
	ASSERT_EQ(0, info(b->dev, b->buf).pinned_pages)
		TH_LOG("the kernel has no CONFIG_DMABUF_MOVE_NOTIFY");
}

FIXTURE_TEARDOWN(dynamic)
{
	bench_close(_metadata, &self->b);
}

/* When fallocate() returns the importer knows, and next it has the new page. */
TEST_F(dynamic, punch)
{
	struct bench *b = &self->b;

	ASSERT_EQ(0, copy_page(b->edu, 2, 4));
	expect_copy(b, 4, own(2, 1), 1);

	ASSERT_EQ(0, punch(b->memfd, file_page(2), 1));
	EXPECT_EQ(1, stats(b->edu).moves);
	EXPECT_EQ(1, stats(b->edu).mapped);
	EXPECT_EQ(0, stats(b->edu).valid);
	EXPECT_EQ(1, info(b->dev, b->buf).discards);
	EXPECT_EQ(0, info(b->dev, b->buf).stale_pages);
	begin_write(b->buf);
	EXPECT_TRUE(page_is(in_file(b, 2), 0));
	fill_page(in_file(b, 2), own(2, 2));
	end_write(b->buf);

	ASSERT_EQ(0, copy_page(b->edu, 2, 4));
	EXPECT_EQ(2, stats(b->edu).maps);
	EXPECT_EQ(1, stats(b->edu).valid);
	expect_copy(b, 4, own(2, 2), 1);
	/* and back */
	ASSERT_EQ(0, copy_page(b->edu, 1, 2));
	expect_copy(b, 2, own(1, 1), 2);
	EXPECT_EQ(2, stats(b->edu).maps);
	EXPECT_EQ(1, stats(b->edu).moves);
}

/* What is not the buffer's is not the importer's business. */
TEST_F(dynamic, punch_elsewhere)
{
	struct bench *b = &self->b;

	ASSERT_EQ(0, punch(b->memfd, file_page(2) + 1, 4));
	ASSERT_EQ(0, punch(b->memfd, 0, 1));
	ASSERT_EQ(0, ftruncate(b->memfd, (file_page(5) + 1) * PAGE));
	/* a part of a page stays in the file */
	ASSERT_EQ(0, fallocate(b->memfd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       file_page(2) * PAGE, PAGE - 8));
	EXPECT_EQ(0, stats(b->edu).moves);
	EXPECT_EQ(1, stats(b->edu).valid);
	EXPECT_EQ(0, info(b->dev, b->buf).discards);
}

TEST_F(dynamic, truncate)
{
	struct bench *b = &self->b;

	ASSERT_EQ(0, ftruncate(b->memfd, file_page(3) * PAGE));
	EXPECT_LE(1, stats(b->edu).moves);
	EXPECT_EQ(0, stats(b->edu).valid);
	/* all of the buffer is mapped or nothing */
	EXPECT_EQ(-EFAULT, page_to_device(b->edu, 0));
	EXPECT_EQ(0, stats(b->edu).mapped);
	EXPECT_EQ(-EFAULT, map(b->edu, EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, ftruncate(b->memfd, FILE_PAGES * PAGE));
	fill(_metadata, b, 2);
	ASSERT_EQ(0, map(b->edu, EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, copy_page(b->edu, 4, 0));
	expect_copy(b, 0, own(4, 2), 2);
}

/* Wait until move_notify has been called more often than that. */
static bool wait_for_moves(int edu, uint64_t moves)
{
	struct timespec now, start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		if (stats(edu).moves > moves)
			return true;
		sched_yield();
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < start.tv_sec + 20);
	return false;
}

/*
 * A page that the device may be using does not move. But the importer is told,
 * and the page moves once he has let go of it.
 */
TEST_F(dynamic, move_pages)
{
	struct bench *b = &self->b;
	int from;

	ASSERT_EQ(0, access("/sys/devices/system/node/node1", F_OK))
		TH_LOG("this test needs two NUMA nodes");
	from = move_page(in_file(b, 3), -1);
	ASSERT_LE(0, from);
	for (unsigned int i = 1; i < 3; i++) {
		struct edu_stats before = stats(b->edu);

		move_page(in_file(b, 3), !from);
		EXPECT_TRUE(wait_for_moves(b->edu, before.moves))
			TH_LOG("move_notify has not been called");
		PEEK(in_file(b, 3));
		EXPECT_EQ(from, move_page(in_file(b, 3), -1));
		/* mapped anew, where it is */
		ASSERT_EQ(0, copy_page(b->edu, 3, i));
		EXPECT_LT(before.maps, stats(b->edu).maps);
		expect_copy(b, i, own(3, 1), 1);
	}

	ASSERT_EQ(0, unmap(b->edu));
	PEEK(in_file(b, 3));
	EXPECT_EQ(!from, move_page(in_file(b, 3), !from));
	EXPECT_EQ(!from, move_page(in_file(b, 3), -1));
	expect_own(b, 3, 1);
	ASSERT_EQ(0, map(b->edu, EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, copy_page(b->edu, 3, 4));
	expect_copy(b, 4, own(3, 1), 1);
	ASSERT_EQ(0, copy_page(b->edu, 0, 3));
	expect_copy(b, 3, own(0, 1), 1);
}

/* A buffer that keeps its pages does so for pins only. */
TEST_F(dynamic, no_pin_no_veto)
{
	struct bench deny;

	bench_open(_metadata, &deny, MEMFD_DMABUF_DENY_DISCARD);
	fill(_metadata, &deny, 1);
	ASSERT_EQ(0, attach_and_map(deny.edu, deny.buf, EDU_DYNAMIC,
				    EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, punch(deny.memfd, file_page(2), 1));
	EXPECT_EQ(1, stats(deny.edu).moves);
	bench_close(_metadata, &deny);
}

/* Importers that cannot be told, or do not want to be */

FIXTURE(pinned) {
	struct bench b;
};

FIXTURE_VARIANT(pinned) {
	unsigned int flags;
	unsigned int deny;
};

FIXTURE_VARIANT_ADD(pinned, static) { .flags = 0 };
FIXTURE_VARIANT_ADD(pinned, dynamic) { .flags = EDU_DYNAMIC | EDU_PIN };
FIXTURE_VARIANT_ADD(pinned, static_deny)
{
	.flags = 0,
	.deny = MEMFD_DMABUF_DENY_DISCARD,
};

FIXTURE_VARIANT_ADD(pinned, dynamic_deny)
{
	.flags = EDU_DYNAMIC | EDU_PIN,
	.deny = MEMFD_DMABUF_DENY_DISCARD,
};

FIXTURE_SETUP(pinned)
{
	struct bench *b = &self->b;

	bench_open(_metadata, b, variant->deny);
	fill(_metadata, b, 1);
	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, variant->flags,
				    EDU_BIDIRECTIONAL));
	ASSERT_EQ(BUF_PAGES, info(b->dev, b->buf).pinned_pages);
}

FIXTURE_TEARDOWN(pinned)
{
	bench_close(_metadata, &self->b);
}

/* The device has the old page until it is attached anew. */
static void goes_stale(struct __test_metadata *_metadata, struct bench *b,
		       unsigned int flags)
{
	ASSERT_EQ(0, punch(b->memfd, file_page(2), 1));
	EXPECT_EQ(1, info(b->dev, b->buf).stale_pages);
	EXPECT_EQ(1, info(b->dev, b->buf).discards);
	EXPECT_EQ(0, stats(b->edu).moves);
	begin_write(b->buf);
	EXPECT_TRUE(page_is(in_file(b, 2), 0));
	fill_page(in_file(b, 2), own(2, 2));
	end_write(b->buf);
	/* also once there is a new page */
	EXPECT_EQ(1, info(b->dev, b->buf).stale_pages);

	ASSERT_EQ(0, copy_page(b->edu, 2, 4));
	expect_copy(b, 4, own(2, 1), 1);
	ASSERT_EQ(0, copy_page(b->edu, 0, 2));
	expect_own(b, 2, 2);
	/* mapping anew is not enough */
	ASSERT_EQ(0, unmap(b->edu));
	ASSERT_EQ(0, map(b->edu, EDU_BIDIRECTIONAL));
	ASSERT_EQ(0, copy_page(b->edu, 2, 5));
	expect_copy(b, 5, own(0, 1), 1);
	EXPECT_EQ(1, info(b->dev, b->buf).stale_pages);

	ASSERT_EQ(0, detach(b->edu));
	EXPECT_EQ(0, info(b->dev, b->buf).stale_pages);
	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, flags, EDU_BIDIRECTIONAL));
	EXPECT_EQ(0, info(b->dev, b->buf).stale_pages);
	ASSERT_EQ(0, copy_page(b->edu, 2, 4));
	expect_copy(b, 4, own(2, 2), 1);
}

static void denies(struct __test_metadata *_metadata, struct bench *b)
{
	EXPECT_EQ(-1, punch(b->memfd, file_page(2), 1));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(-1, punch(b->memfd, 0, FILE_PAGES));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(-1, madvise(b->file, FILE_PAGES * PAGE, MADV_REMOVE));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(-1, ftruncate(b->memfd, file_page(5) * PAGE));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(-1, ftruncate(b->memfd, 0));
	EXPECT_EQ(EBUSY, errno);

	/* nothing has changed */
	EXPECT_EQ(0, info(b->dev, b->buf).discards);
	EXPECT_EQ(0, info(b->dev, b->buf).stale_pages);
	EXPECT_EQ(FILE_PAGES * PAGE, lseek(b->memfd, 0, SEEK_END));
	EXPECT_EQ(FILE_PAGES, resident(b->memfd, FILE_PAGES));
	for (unsigned int p = 0; p < FILE_PAGES; p++) {
		EXPECT_TRUE(page_is(b->file + p * PAGE, tag(1, p, 1)));
	}
	ASSERT_EQ(0, copy_page(b->edu, 2, 4));
	expect_copy(b, 4, own(2, 1), 1);

	/* what is not the buffer's may go, and the file may grow */
	EXPECT_EQ(0, punch(b->memfd, file_page(2) + 1, 4));
	EXPECT_EQ(0, ftruncate(b->memfd, (file_page(5) + 1) * PAGE));
	EXPECT_EQ(0, ftruncate(b->memfd, FILE_PAGES * PAGE));
	EXPECT_EQ(0, info(b->dev, b->buf).discards);

	/* without the pin all may go */
	ASSERT_EQ(0, detach(b->edu));
	EXPECT_EQ(0, punch(b->memfd, file_page(2), 1));
	EXPECT_EQ(0, ftruncate(b->memfd, 0));
	EXPECT_EQ(2, info(b->dev, b->buf).discards);
}

TEST_F(pinned, discard)
{
	if (variant->deny)
		denies(_metadata, &self->b);
	else
		goes_stale(_metadata, &self->b, variant->flags);
}

/* Pinned pages stay where they are. */
TEST_F(pinned, move_pages)
{
	struct bench *b = &self->b;
	int from = move_page(in_file(b, 3), -1);

	ASSERT_EQ(0, access("/sys/devices/system/node/node1", F_OK))
		TH_LOG("this test needs two NUMA nodes");
	ASSERT_LE(0, from);
	move_page(in_file(b, 3), !from);
	PEEK(in_file(b, 3));
	EXPECT_EQ(from, move_page(in_file(b, 3), -1));
	EXPECT_EQ(0, info(b->dev, b->buf).stale_pages);
	ASSERT_EQ(0, copy_page(b->edu, 0, 3));
	expect_copy(b, 3, own(0, 1), 1);

	ASSERT_EQ(0, detach(b->edu));
	PEEK(in_file(b, 3));
	EXPECT_EQ(!from, move_page(in_file(b, 3), !from));
	expect_copy(b, 3, own(0, 1), 1);
}

/* With an IOMMU that keeps the device to what is mapped */

/* Where the IOMMU's driver tells of faults, and what it calls the device. */
struct reports {
	int kmsg;
	char name[64];
};

FIXTURE(iommu) {
	struct bench b;
	struct reports reports;
};

FIXTURE_SETUP(iommu)
{
	struct reports *reports = &self->reports;
	struct bench *b = &self->b;
	char link[256] = "", type[32] = "", *name;
	FILE *f;

	if (has_bounce_buffers())
		SKIP(return, "swiotlb=force, and no IOMMU");
	bench_open(_metadata, b, 0);
	f = fopen(SYS_EDU "/device/iommu_group/type", "re");
	ASSERT_NE(NULL, f) TH_LOG("the IOMMU does not have the edu device");
	ASSERT_NE(NULL, fgets(type, sizeof(type), f));
	fclose(f);
	ASSERT_STREQ("DMA\n", type) TH_LOG("boot with iommu.strict=1");

	/* ...0000:00:04.0 */
	ASSERT_LT(0, readlink(SYS_EDU "/device", link, sizeof(link) - 1));
	name = strrchr(link, '/');
	ASSERT_NE(NULL, name);
	name = strchr(name, ':');
	ASSERT_NE(NULL, name);
	snprintf(reports->name, sizeof(reports->name), "[%.40s]", name + 1);

	fill(_metadata, b, 1);
	reports->kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ASSERT_LE(0, reports->kmsg);
	ASSERT_LE(0, lseek(reports->kmsg, 0, SEEK_END));
}

FIXTURE_TEARDOWN(iommu)
{
	close(self->reports.kmsg);
	bench_close(_metadata, &self->b);
}

/* Wait for the report that the device has been kept out of @address. */
static bool has_fault(const struct reports *reports, uint64_t address)
{
	char line[1024], want[64];
	struct pollfd pfd = { .fd = reports->kmsg, .events = POLLIN };

	snprintf(want, sizeof(want), "fault addr 0x%llx ",
		 (unsigned long long)address & ~(PAGE - 1));
	while (poll(&pfd, 1, 6000) > 0) {
		ssize_t n = read(reports->kmsg, line, sizeof(line) - 1);

		if (n < 0 && errno == EPIPE)
			continue;	/* overwritten: go on with the next */
		if (n < 0)
			return false;
		line[n] = 0;
		if (strstr(line, "DMAR: [DMA Write") &&
		    strstr(line, reports->name) && strstr(line, want))
			return true;
	}
	return false;
}

static uint64_t dma_address(int edu, unsigned int page)
{
	struct edu_address arg = { .offset = page * PAGE };

	return ioctl(edu, EDU_ADDRESS, &arg) ? 0 : arg.address;
}

static int raw_write(int edu, uint64_t address)
{
	return copy(edu, address, 0, EDU_SIZE, EDU_RAW | EDU_TO_MEMORY);
}

/* The address works; then it does not, whatever is done in between. */
#define expect_works(i, value) do {					\
	ASSERT_EQ(0, raw_write(b->edu, address));			\
	expect_copy(b, i, value, 1);					\
	fill(_metadata, b, 1);						\
} while (0)

/* Again if need be: the kernel reports no more than three in five seconds. */
static bool is_refused(int edu, uint64_t address, const struct reports *reports)
{
	for (unsigned int i = 0; i < 3; i++) {
		if (raw_write(edu, address))
			return false;
		if (has_fault(reports, address))
			return true;
	}
	return false;
}

TEST_F_TIMEOUT(iommu, after_unmap, 60)
{
	struct bench *b = &self->b;
	uint64_t address;

	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, EDU_DYNAMIC,
				    EDU_BIDIRECTIONAL));
	address = dma_address(b->edu, 3);
	ASSERT_NE(0, address);
	ASSERT_EQ(0, page_to_device(b->edu, 0));
	expect_works(3, own(0, 1));
	ASSERT_EQ(0, unmap(b->edu));
	EXPECT_TRUE(is_refused(b->edu, address, &self->reports));
	expect_own(b, 3, 1);
	ASSERT_EQ(0, detach(b->edu));
	EXPECT_TRUE(is_refused(b->edu, address, &self->reports));
	expect_own(b, 3, 1);
}

/* A static importer is unmapped when it is detached. */
TEST_F_TIMEOUT(iommu, after_detach, 60)
{
	struct bench *b = &self->b;
	uint64_t address;

	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, 0, EDU_BIDIRECTIONAL));
	address = dma_address(b->edu, 3);
	ASSERT_NE(0, address);
	ASSERT_EQ(0, page_to_device(b->edu, 0));
	ASSERT_EQ(0, unmap(b->edu));
	expect_works(3, own(0, 1));
	ASSERT_EQ(0, detach(b->edu));
	EXPECT_TRUE(is_refused(b->edu, address, &self->reports));
	expect_own(b, 3, 1);
}

/* Closing the importer is as good. */
TEST_F_TIMEOUT(iommu, after_close, 60)
{
	struct bench *b = &self->b;
	uint64_t address;

	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, EDU_DYNAMIC | EDU_PIN,
				    EDU_BIDIRECTIONAL));
	address = dma_address(b->edu, 3);
	ASSERT_NE(0, address);
	ASSERT_EQ(0, page_to_device(b->edu, 0));
	expect_works(3, own(0, 1));
	close(b->edu);
	b->edu = open("/dev/memfd_dmabuf_edu", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, b->edu);
	EXPECT_TRUE(is_refused(b->edu, address, &self->reports));
	expect_own(b, 3, 1);
}

/* A page that has been thrown away is not written once it is mapped anew. */
TEST_F_TIMEOUT(iommu, after_punch, 60)
{
	struct bench *b = &self->b;
	uint64_t address;

	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, EDU_DYNAMIC,
				    EDU_BIDIRECTIONAL));
	address = dma_address(b->edu, 3);
	ASSERT_NE(0, address);
	ASSERT_EQ(0, page_to_device(b->edu, 0));
	expect_works(3, own(0, 1));
	ASSERT_EQ(0, ftruncate(b->memfd, file_page(3) * PAGE));
	ASSERT_EQ(-EFAULT, page_to_device(b->edu, 0));
	ASSERT_EQ(0, ftruncate(b->memfd, FILE_PAGES * PAGE));
	fill(_metadata, b, 1);
	EXPECT_TRUE(is_refused(b->edu, address, &self->reports));
	expect_own(b, 3, 1);
}

/* The direction of a mapping is the device's permission. */
TEST_F_TIMEOUT(iommu, to_device, 60)
{
	struct bench *b = &self->b, ro;
	uint64_t address;

	ASSERT_EQ(0, attach_and_map(b->edu, b->buf, EDU_DYNAMIC,
				    EDU_TO_DEVICE));
	address = dma_address(b->edu, 3);
	ASSERT_NE(0, address);
	ASSERT_EQ(0, page_to_device(b->edu, 0));
	EXPECT_TRUE(is_refused(b->edu, address, &self->reports));
	expect_own(b, 3, 1);
	ASSERT_EQ(0, detach(b->edu));

	/* so nobody writes to a read-only buffer */
	bench_open(_metadata, &ro, MEMFD_DMABUF_RDONLY);
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		fill_page(in_file(&ro, i), own(i, 7));
	ASSERT_EQ(0, attach_and_map(ro.edu, ro.buf, EDU_DYNAMIC,
				    EDU_TO_DEVICE));
	address = dma_address(ro.edu, 3);
	ASSERT_NE(0, address);
	ASSERT_EQ(0, page_to_device(ro.edu, 0));
	EXPECT_TRUE(is_refused(ro.edu, address, &self->reports));
	EXPECT_TRUE(page_is(in_file(&ro, 3), own(3, 7)));
	bench_close(_metadata, &ro);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/udmabuf, as memfd_dmabuf serves it: what differs from udmabuf, and that
 * bad calls leave nothing behind. What is the same, udmabuf_calls compares.
 */
#include "udmabuf.h"

#include <linux/dma-buf.h>
#include "harness.h"

#define NR 16

FIXTURE(udmabuf) {
	int ours;		/* /dev/memfd_dmabuf */
	int dev;
	int memfd;
	char *file;
};

FIXTURE_SETUP(udmabuf)
{
	catch_sigbus();
	self->ours = open_device();
	ASSERT_LE(0, self->ours);
	self->dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->dev);
	self->memfd = new_memfd(NR);
	ASSERT_LE(0, self->memfd);
	ASSERT_EQ(0, fcntl(self->memfd, F_ADD_SEALS, F_SEAL_SHRINK));
	self->file = map_shared(self->memfd, NR);
	ASSERT_NE(MAP_FAILED, self->file);
}

FIXTURE_TEARDOWN(udmabuf)
{
	munmap(self->file, NR * PAGE);
	close(self->memfd);
	close(self->dev);
	close(self->ours);
}

static int create_range(int fd, unsigned long page, unsigned long nr)
{
	struct memfd_dmabuf_range r = range(fd, page, nr);

	return create_udmabuf(&r, 1);
}

static struct memfd_dmabuf_info info(struct __test_metadata *_metadata, int dev,
				     int buf)
{
	struct memfd_dmabuf_info info = { .fd = buf };

	ASSERT_EQ(0, ioctl(dev, MEMFD_DMABUF_INFO, &info));
	return info;
}

static int reopen(int fd, int mode)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, mode | O_CLOEXEC);
}

static unsigned long blocks(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? -1UL : st.st_blocks;
}

TEST_F(udmabuf, follows_the_file)
{
	int buf = create_range(self->memfd, 0, NR);
	char *map;

	ASSERT_LE(0, buf);
	/* nothing is allocated for it */
	EXPECT_EQ(0, blocks(self->memfd));
	map = map_shared(buf, NR);
	ASSERT_NE(MAP_FAILED, map);
	for (int version = 1; version < 4; version++) {
		for (unsigned int i = 0; i < NR; i++)
			fill_page(self->file + i * PAGE, tag(0, i, version));
		for (unsigned int i = 0; i < NR; i++)
			EXPECT_TRUE(page_is(map + i * PAGE, tag(0, i, version)));
		EXPECT_EQ(0, info(_metadata, self->ours, buf).pinned_pages);
		EXPECT_EQ(0, punch(self->memfd, 0, NR));
		EXPECT_EQ(0, blocks(self->memfd));
	}
	EXPECT_TRUE(page_is(map, 0));
	munmap(map, NR * PAGE);
	close(buf);
}

TEST_F(udmabuf, both_ioctls)
{
	struct udmabuf_create one = {
		.memfd = self->memfd,
		.flags = UDMABUF_FLAGS_CLOEXEC,
		.offset = 3 * PAGE,
		.size = 2 * PAGE,
	};
	struct {
		struct udmabuf_create_list head;
		struct udmabuf_create_item items[2];
	} list = {
		{ .count = 2 },
		{
			{ self->memfd, -1, 5 * PAGE, PAGE },
			{ self->memfd, 77, 1 * PAGE, 2 * PAGE },
		},
	};
	static const unsigned int want[2][3] = { { 3, 4 }, { 5, 1, 2 } };
	int bufs[2];

	bufs[0] = ioctl(self->dev, UDMABUF_CREATE, &one);
	bufs[1] = ioctl(self->dev, UDMABUF_CREATE_LIST, &list);
	for (unsigned int i = 0; i < NR; i++)
		fill_page(self->file + i * PAGE, tag(0, i, 1));
	for (int i = 0; i < 2; i++) {
		char *map;

		ASSERT_LE(0, bufs[i]);
		EXPECT_EQ(i ? 0 : FD_CLOEXEC, fcntl(bufs[i], F_GETFD));
		EXPECT_EQ(i + 2, lseek(bufs[i], 0, SEEK_END) / PAGE);
		EXPECT_EQ(0, info(_metadata, self->ours, bufs[i]).flags);
		map = map_shared(bufs[i], i + 2);
		ASSERT_NE(MAP_FAILED, map);
		for (int p = 0; p < i + 2; p++)
			EXPECT_TRUE(page_is(map + p * PAGE,
					    tag(0, want[i][p], 1)));
		munmap(map, (i + 2) * PAGE);
		close(bufs[i]);
	}
	EXPECT_EQ(-1, ioctl(self->dev, MEMFD_DMABUF_INFO, NULL));
	EXPECT_EQ(ENOTTY, errno);
}

/* udmabuf would let the holder of such a descriptor write to the file. */
TEST_F(udmabuf, file_is_read_only)
{
	int rdonly = reopen(self->memfd, O_RDONLY);
	struct memfd_dmabuf_range r[2] = {
		range(self->memfd, 0, 1), range(rdonly, 1, 1),
	};
	int buf = create_udmabuf(r, 2);
	char *map;

	ASSERT_LE(0, buf);
	EXPECT_EQ(MEMFD_DMABUF_RDONLY, info(_metadata, self->ours, buf).flags);
	EXPECT_EQ(MAP_FAILED, map_shared(buf, 2));
	EXPECT_EQ(EACCES, errno);
	map = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, buf, 0);
	ASSERT_NE(MAP_FAILED, map);
	fill_page(self->file + PAGE, tag(0, 1, 1));
	EXPECT_TRUE(page_is(map + PAGE, tag(0, 1, 1)));
	EXPECT_EQ(-1, mprotect(map, PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(EACCES, errno);
	munmap(map, 2 * PAGE);
	close(buf);
	close(rdonly);
}

/* With udmabuf its holder could read the file. */
TEST_F(udmabuf, file_is_write_only)
{
	int wronly = reopen(self->memfd, O_WRONLY);

	ASSERT_LE(0, wronly);
	EXPECT_EQ(-EACCES, create_range(wronly, 0, 1));
	close(wronly);
}

TEST_F(udmabuf, page_cannot_be_had)
{
	int memfd = memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING);
	int buf;
	char *map;

	ASSERT_LE(0, memfd);
	ASSERT_EQ(0, ftruncate(memfd, 1L << 40));
	ASSERT_EQ(0, fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
	/* more of it than there is memory */
	buf = create_range(memfd, (1L << 40) / PAGE - NR, NR);
	ASSERT_LE(0, buf);
	map = map_shared(buf, NR);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_TRUE(access_sigbus(map, false));
	munmap(map, NR * PAGE);
	close(buf);
	close(memfd);
}

struct parameter {
	const char *path;
	char was[16];
};

static void set(struct __test_metadata *_metadata, struct parameter *p,
		const char *value)
{
	FILE *f;

	if (!*p->was) {
		f = fopen(p->path, "re");
		ASSERT_NE(NULL, f);
		ASSERT_EQ(1, fscanf(f, "%15s", p->was));
		fclose(f);
	}
	ASSERT_EQ(0, write_file(p->path, value));
}

TEST_F(udmabuf, many_ranges)
{
	struct parameter limit = { UDMABUF_PARAMETERS "list_limit" };
	struct memfd_dmabuf_range *r = calloc(65537, sizeof(*r));
	int memfd = new_memfd(2 * 65537), buf;

	ASSERT_EQ(0, fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
	for (unsigned int i = 0; i < 65537; i++)
		r[i] = range(memfd, i * 2, 1);
	/* out of the box */
	set(_metadata, &limit, "65536");
	EXPECT_STREQ("65536", limit.was);
	EXPECT_EQ(-EINVAL, create_udmabuf(r, 65537));
	buf = create_udmabuf(r, 65536);
	ASSERT_LE(0, buf);
	EXPECT_EQ(65536, info(_metadata, self->ours, buf).runs);
	close(buf);
	set(_metadata, &limit, "3");
	EXPECT_EQ(-EINVAL, create_udmabuf(r, 4));
	buf = create_udmabuf(r, 3);
	EXPECT_LE(0, buf);
	close(buf);
	set(_metadata, &limit, limit.was);
	close(memfd);
	free(r);
}

TEST_F(udmabuf, size)
{
	struct parameter limit = { UDMABUF_PARAMETERS "size_limit_mb" };
	struct memfd_dmabuf_range r[2];
	int memfd = new_memfd(65 * 256), buf;

	ASSERT_LE(0, memfd);
	ASSERT_EQ(0, fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
	/* no limit, as the newest udmabuf */
	r[0] = range(memfd, 0, 65 * 256);
	buf = create_udmabuf(r, 1);
	EXPECT_LE(0, buf);
	close(buf);
	set(_metadata, &limit, "64");
	EXPECT_STREQ("2147483647", limit.was);
	r[0] = range(memfd, 0, 64 * 256);
	r[1] = range(memfd, 0, 1);
	EXPECT_EQ(-EINVAL, create_udmabuf(r, 2));
	buf = create_udmabuf(r, 1);
	EXPECT_LE(0, buf);
	close(buf);
	set(_metadata, &limit, "65");
	buf = create_udmabuf(r, 2);
	EXPECT_LE(0, buf);
	close(buf);
	set(_metadata, &limit, limit.was);
	close(memfd);
}

static int new_sealed(int seals)
{
	int fd = new_memfd(NR);

	return fcntl(fd, F_ADD_SEALS, seals) ? -1 : fd;
}

/* Errors, in udmabuf's order; the good range before them leaves no trace. */
TEST_F(udmabuf, errors)
{
	int shm = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int other = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int unsealed = new_memfd(NR);
	int no_write = new_sealed(F_SEAL_SHRINK | F_SEAL_WRITE);
	int no_future = new_sealed(F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE);
	int odd = new_sealed(F_SEAL_SHRINK);
	const struct {
		struct memfd_dmabuf_range range;
		int error;
	} cases[] = {
		{ range(-1, 0, 1), EBADFD },
		{ range(1 << 20, 0, 1), EBADFD },
		{ range(other, 0, 1), EBADFD },
		{ range(self->dev, 0, 1), EBADFD },
		{ range(-1, 0, 0), EBADFD },
		{ range(-1, NR, 1), EBADFD },
		{ range(shm, 0, 1), EINVAL },
		{ range(unsealed, 0, 1), EINVAL },
		{ range(no_write, 0, 1), EINVAL },
		{ range(no_future, 0, 1), EINVAL },
		{ range(self->memfd, 0, 0), EINVAL },
		{ range(self->memfd, NR, 1), EINVAL },
		{ range(self->memfd, 0, NR + 1), EINVAL },
		{ { .fd = -1, .offset = 1, .size = PAGE }, EINVAL },
		{ { .fd = -1, .size = PAGE + 1 }, EINVAL },
		{ { .fd = self->memfd, .offset = -PAGE, .size = PAGE }, EINVAL },
		{ { .fd = self->memfd, .offset = 1ULL << 63, .size = PAGE }, EINVAL },
		{ { .fd = -1, .size = -PAGE }, EINVAL },
		/* only the part of its last page that there is */
		{ range(odd, 0, NR + 1), EINVAL },
	};
	struct memfd_dmabuf_range r[2] = { range(self->memfd, 0, 1) };

	ASSERT_EQ(0, ftruncate(odd, NR * PAGE + 100));
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		r[1] = cases[i].range;
		EXPECT_EQ(-cases[i].error, create_udmabuf(r, 2))
			TH_LOG("case %u", i);
		/* nothing at all comes first */
		if (!r[1].size)
			continue;
		EXPECT_EQ(-cases[i].error, create_udmabuf(r + 1, 1))
			TH_LOG("case %u alone", i);
	}
	EXPECT_EQ(-EINVAL, create_udmabuf(r, 0));
	EXPECT_EQ(-1, ioctl(self->dev, UDMABUF_CREATE, NULL));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->dev, UDMABUF_CREATE_LIST, NULL));
	EXPECT_EQ(EFAULT, errno);

	/* No buffer is left that could write to it. */
	munmap(self->file, NR * PAGE);
	EXPECT_EQ(0, fcntl(self->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	close(odd);
	close(no_future);
	close(no_write);
	close(unsealed);
	close(other);
	close(shm);
}

TEST_HARNESS_MAIN

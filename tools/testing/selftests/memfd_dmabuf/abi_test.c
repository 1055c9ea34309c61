// SPDX-License-Identifier: GPL-2.0
/*
 * The ABI of /dev/memfd_dmabuf: what is accepted, what is refused and how, and
 * that nothing is left behind either way.
 */
#include "common.h"

#include <dirent.h>
#include <linux/fs.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include "harness.h"

#define PAGES 16

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int nr = 0;

	while (readdir(dir))
		nr++;
	closedir(dir);
	return nr;
}

static void set_param(struct __test_metadata *_metadata, const char *name,
		      const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/module/memfd_dmabuf/parameters/%s",
		 name);
	ASSERT_EQ(0, write_file(path, value));
}

static struct memfd_dmabuf_info info(struct __test_metadata *_metadata, int dev,
				     int fd)
{
	struct memfd_dmabuf_info info = { .fd = fd };

	memset((char *)&info + 4, 0xff, sizeof(info) - 4);
	ASSERT_EQ(0, ioctl(dev, MEMFD_DMABUF_INFO, &info));
	ASSERT_EQ(fd, info.fd);
	return info;
}

FIXTURE(abi) {
	int dev;
	int memfd;
	int fds;
};

FIXTURE_SETUP(abi)
{
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	self->memfd = new_memfd(PAGES);
	ASSERT_LE(0, self->memfd);
	self->fds = count_fds();
}

/* Whatever the test did: no fd is left, and the file is its owner's alone. */
FIXTURE_TEARDOWN(abi)
{
	EXPECT_EQ(self->fds, count_fds());
	EXPECT_EQ(0, fcntl(self->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	close(self->memfd);
	close(self->dev);
}

#define EXPECT_CREATE(error, ...) do {					\
	struct memfd_dmabuf_range _r[] = { __VA_ARGS__ };		\
	EXPECT_EQ(-(error), create(self->dev, _r, sizeof(_r) / sizeof(*_r))); \
} while (0)

TEST_F(abi, bad_fd)
{
	EXPECT_CREATE(EBADF, range(-1, 0, 1));
	EXPECT_CREATE(EBADF, range(1 << 20, 0, 1));
	/* also behind a good one */
	EXPECT_CREATE(EBADF, range(self->memfd, 0, 1), range(-1, 0, 1));
}

TEST_F(abi, path_fd)
{
	int fd = open("/dev/shm", O_PATH);

	ASSERT_LE(0, fd);
	EXPECT_CREATE(EBADF, range(fd, 0, 1));
	close(fd);
}

TEST_F(abi, not_shmem)
{
	struct memfd_dmabuf_range r = range(self->memfd, 0, 1);
	int pipefd[2], buf;
	int exe = open("/proc/self/exe", O_RDONLY);
	int dir = open("/dev/shm", O_RDONLY | O_DIRECTORY);

	ASSERT_EQ(0, pipe(pipefd));
	ASSERT_LE(0, exe);
	ASSERT_LE(0, dir);
	EXPECT_CREATE(EBADFD, range(pipefd[0], 0, 1));
	EXPECT_CREATE(EBADFD, range(exe, 0, 1));
	EXPECT_CREATE(EBADFD, range(dir, 0, 1));
	EXPECT_CREATE(EBADFD, range(self->dev, 0, 1));
	/* not even one of our own */
	buf = create(self->dev, &r, 1);
	ASSERT_LE(0, buf);
	EXPECT_CREATE(EBADFD, range(buf, 0, 1));
	close(buf);
	close(pipefd[0]);
	close(pipefd[1]);
	close(exe);
	close(dir);
}

TEST_F(abi, hugetlb)
{
	int fd = memfd_create("huge", MFD_HUGETLB | MFD_HUGE_2MB);
	struct memfd_dmabuf_range r = range(fd, 1, 1);
	int buf;

	/* in pages of the system, and without reserving or allocating any */
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 2 << 20));
	buf = create(self->dev, &r, 1);
	EXPECT_LE(0, buf);
	close(buf);
	EXPECT_CREATE(EINVAL, range(fd, 511, 2));
	EXPECT_CREATE(EINVAL, range(fd, 512, 1));
	close(fd);
}

TEST_F(abi, bad_range)
{
	struct memfd_dmabuf_range r;

	/* zero */
	EXPECT_CREATE(EINVAL, range(self->memfd, 0, 0));
	/* unaligned */
	r = range(self->memfd, 0, 1);
	r.offset = 1;
	EXPECT_CREATE(EINVAL, r);
	r = range(self->memfd, 0, 1);
	r.size = PAGE + 512;
	EXPECT_CREATE(EINVAL, r);
	/* past the end */
	EXPECT_CREATE(EINVAL, range(self->memfd, PAGES, 1));
	EXPECT_CREATE(EINVAL, range(self->memfd, 0, PAGES + 1));
	EXPECT_CREATE(EINVAL, range(self->memfd, 1UL << 40, 1));
	/* overflowing */
	r = range(self->memfd, 1, 1);
	r.size = -PAGE;
	EXPECT_CREATE(EINVAL, r);
	r = range(self->memfd, 0, 1);
	r.offset = -PAGE;
	EXPECT_CREATE(EINVAL, r);
	/* reserved */
	r = range(self->memfd, 0, 1);
	r.reserved = 1;
	EXPECT_CREATE(EINVAL, r);
	/* the last of many */
	EXPECT_CREATE(EINVAL, range(self->memfd, 0, 1),
		      range(self->memfd, 4, 1), range(self->memfd, PAGES, 1));
}

/* As in an mmap of the file, its last, partial page is there. */
TEST_F(abi, partial_last_page)
{
	struct memfd_dmabuf_range r = range(self->memfd, 2, 1);
	int buf;

	ASSERT_EQ(0, ftruncate(self->memfd, 2 * PAGE + 1));
	buf = create(self->dev, &r, 1);
	EXPECT_LE(0, buf);
	close(buf);
	EXPECT_CREATE(EINVAL, range(self->memfd, 3, 1));
}

TEST_F(abi, bad_flags_and_count)
{
	struct memfd_dmabuf_range r = range(self->memfd, 0, 1);

	for (unsigned int bit = 4; bit < 32; bit++) {
		EXPECT_EQ(-EINVAL, create_flags(self->dev, 1u << bit, &r, 1));
	}
	EXPECT_EQ(-EINVAL, create(self->dev, &r, 0));
}

TEST_F(abi, bad_pointer)
{
	char *hole = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct memfd_dmabuf_range *r;

	ASSERT_NE(MAP_FAILED, hole);
	ASSERT_EQ(0, munmap(hole + PAGE, PAGE));
	/* the second range is not there */
	r = (void *)(hole + PAGE - sizeof(*r));
	*r = range(self->memfd, 0, 1);
	EXPECT_EQ(-EFAULT, create(self->dev, r, 2));
	EXPECT_EQ(-EFAULT, create(self->dev, (void *)8, 1));
	EXPECT_EQ(-1, ioctl(self->dev, MEMFD_DMABUF_CREATE, hole + PAGE));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->dev, MEMFD_DMABUF_INFO, hole + PAGE));
	EXPECT_EQ(EFAULT, errno);
	munmap(hole, PAGE);
}

TEST_F(abi, unknown_ioctl)
{
	EXPECT_EQ(-1, ioctl(self->dev, _IO('u', 0x52)));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(-1, ioctl(self->dev, _IOW('u', 0x50, int)));
	EXPECT_EQ(ENOTTY, errno);
}

TEST_F(abi, list_limit)
{
	unsigned int nr = 65536;
	struct memfd_dmabuf_range *r = calloc(nr + 1, sizeof(*r));
	int buf;

	/* so that nothing merges */
	ASSERT_EQ(0, ftruncate(self->memfd, 2 * (nr + 1) * PAGE));
	for (unsigned int i = 0; i <= nr; i++)
		r[i] = range(self->memfd, i * 2, 1);
	EXPECT_EQ(-E2BIG, create(self->dev, r, nr + 1));
	EXPECT_EQ(-E2BIG, create(self->dev, r, UINT32_MAX));
	buf = create(self->dev, r, nr);
	ASSERT_LE(0, buf);
	EXPECT_EQ(nr, info(_metadata, self->dev, buf).runs);
	close(buf);

	set_param(_metadata, "list_limit", "3");
	EXPECT_EQ(-E2BIG, create(self->dev, r, 4));
	buf = create(self->dev, r, 3);
	EXPECT_LE(0, buf);
	close(buf);
	set_param(_metadata, "list_limit", "65536");
	free(r);
}

TEST_F(abi, size_limit)
{
	struct memfd_dmabuf_range r[2];
	int buf;

	ASSERT_EQ(0, ftruncate(self->memfd, 16 << 20));
	r[0] = range(self->memfd, 0, 2048);
	r[1] = range(self->memfd, 0, 2048);
	set_param(_metadata, "size_limit_mb", "15");
	EXPECT_EQ(-E2BIG, create(self->dev, r, 2));
	set_param(_metadata, "size_limit_mb", "16");
	buf = create(self->dev, r, 2);
	EXPECT_LE(0, buf);
	close(buf);
	r[1].size += PAGE;
	EXPECT_EQ(-E2BIG, create(self->dev, r, 2));
	set_param(_metadata, "size_limit_mb", "65536");
}

/* A file that is not open for writing makes read-only buffers only. */
TEST_F(abi, access_mode)
{
	struct memfd_dmabuf_range r;
	char path[64];
	int fd, buf;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->memfd);
	fd = open(path, O_RDONLY);
	ASSERT_LE(0, fd);
	r = range(fd, 0, 1);
	EXPECT_EQ(-EACCES, create(self->dev, &r, 1));
	/* nor if the same file is there open for writing as well */
	EXPECT_CREATE(EACCES, range(self->memfd, 0, 1), r);
	buf = create_flags(self->dev, MEMFD_DMABUF_RDONLY, &r, 1);
	EXPECT_LE(0, buf);
	close(buf);
	/* who may not punch cannot keep others from it */
	EXPECT_EQ(-EACCES, create_flags(self->dev, MEMFD_DMABUF_RDONLY |
					MEMFD_DMABUF_DENY_DISCARD, &r, 1));
	close(fd);
	r = range(self->memfd, 0, 1);
	buf = create_flags(self->dev, MEMFD_DMABUF_RDONLY |
			   MEMFD_DMABUF_DENY_DISCARD, &r, 1);
	ASSERT_LE(0, buf);
	EXPECT_EQ(MEMFD_DMABUF_RDONLY | MEMFD_DMABUF_DENY_DISCARD,
		  info(_metadata, self->dev, buf).flags);
	close(buf);

	fd = open(path, O_WRONLY);
	ASSERT_LE(0, fd);
	r = range(fd, 0, 1);
	EXPECT_EQ(-EACCES, create(self->dev, &r, 1));
	EXPECT_EQ(-EACCES, create_flags(self->dev, MEMFD_DMABUF_RDONLY, &r, 1));
	close(fd);
}

/*
 * What mincore() tells about a file, and madvise() does to it, is for those who
 * may write it: making a buffer of it changes nothing.
 */
TEST_F(abi, not_for_others)
{
	static const char name[] = "/dev/shm/memfd_dmabuf.others";
	struct memfd_dmabuf_range r;
	unsigned char in_core[2];
	struct stat st;
	int fd, buf;
	char *map;

	fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0644);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 2 * PAGE));
	ASSERT_EQ(1, pwrite(fd, "x", 1, 0));
	close(fd);
	fd = open(name, O_RDONLY);
	ASSERT_EQ(0, unlink(name));
	ASSERT_LE(0, fd);
	r = range(fd, 0, 2);

	/* the owner: the second page is a hole */
	buf = create_flags(self->dev, MEMFD_DMABUF_RDONLY, &r, 1);
	ASSERT_LE(0, buf);
	map = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, buf, 0);
	ASSERT_NE(MAP_FAILED, map);
	PEEK(map);
	ASSERT_EQ(0, mincore(map, 2 * PAGE, in_core));
	EXPECT_EQ(1, in_core[0] & 1);
	EXPECT_EQ(0, in_core[1] & 1);
	munmap(map, 2 * PAGE);
	close(buf);

	/* somebody else, who is told nothing */
	ASSERT_EQ(0, setresuid(65534, 65534, 65534));
	buf = create_flags(self->dev, MEMFD_DMABUF_RDONLY, &r, 1);
	ASSERT_LE(0, buf);
	ASSERT_EQ(0, fstat(buf, &st));
	EXPECT_EQ(0, st.st_uid);
	map = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, buf, 0);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, mincore(map, 2 * PAGE, in_core));
	EXPECT_EQ(1, in_core[0] & 1);
	EXPECT_EQ(1, in_core[1] & 1);
	munmap(map, 2 * PAGE);
	close(buf);
	close(fd);
}

TEST_F(abi, sealed_before)
{
	const int seals[] = { F_SEAL_WRITE, F_SEAL_FUTURE_WRITE };

	for (int i = 0; i < 2; i++) {
		int fd = new_memfd(1), buf;
		struct memfd_dmabuf_range r = range(fd, 0, 1);

		ASSERT_EQ(0, fcntl(fd, F_ADD_SEALS, seals[i]));
		EXPECT_EQ(-EPERM, create(self->dev, &r, 1));
		buf = create_flags(self->dev, MEMFD_DMABUF_RDONLY, &r, 1);
		EXPECT_LE(0, buf);
		close(buf);
		close(fd);
	}
}

TEST_F(abi, seals_that_do_not_matter)
{
	struct memfd_dmabuf_range r;
	int fd = new_memfd(1), buf;

	ASSERT_EQ(0, fcntl(fd, F_ADD_SEALS,
			   F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	r = range(fd, 0, 1);
	buf = create(self->dev, &r, 1);
	EXPECT_LE(0, buf);
	close(buf);
	close(fd);
}

/* F_SEAL_WRITE is refused exactly while a writable buffer lives. */
TEST_F(abi, sealed_while_alive)
{
	struct memfd_dmabuf_range r[] = {
		range(self->memfd, 0, 1),
		range(self->memfd, 4, 1),
	};
	int rw = create(self->dev, r, 2);
	int ro = create_flags(self->dev, MEMFD_DMABUF_RDONLY, r, 2);
	char *map;

	ASSERT_LE(0, rw);
	ASSERT_LE(0, ro);
	EXPECT_EQ(-1, fcntl(self->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	EXPECT_EQ(EBUSY, errno);

	/* a mapping keeps the buffer alive */
	map = map_shared(rw, 1);
	ASSERT_NE(MAP_FAILED, map);
	close(rw);
	map[0] = 1;
	EXPECT_EQ(-1, fcntl(self->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	EXPECT_EQ(EBUSY, errno);
	munmap(map, PAGE);

	/* a read-only one does not matter, mapped or not */
	map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ro, 0);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_EQ(1, map[0]);
	EXPECT_EQ(0, fcntl(self->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	munmap(map, PAGE);
	close(ro);
}

/* As with an mmap of the file: old writable mappings stay, new ones fail. */
TEST_F(abi, sealed_against_future_writes)
{
	struct memfd_dmabuf_range r = range(self->memfd, 0, 1);
	int buf = create(self->dev, &r, 1);
	char *old, *new;

	ASSERT_LE(0, buf);
	old = map_shared(buf, 1);
	ASSERT_NE(MAP_FAILED, old);
	ASSERT_EQ(0, fcntl(self->memfd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
	old[0] = 7;
	EXPECT_EQ(MAP_FAILED, map_shared(buf, 1));
	EXPECT_EQ(EPERM, errno);
	new = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, buf, 0);
	ASSERT_NE(MAP_FAILED, new);
	EXPECT_EQ(7, new[0]);
	EXPECT_EQ(-1, mprotect(new, PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(EACCES, errno);
	munmap(old, PAGE);
	munmap(new, PAGE);
	close(buf);
}

TEST_F(abi, rdonly)
{
	struct memfd_dmabuf_range r = range(self->memfd, 0, 2);
	int buf = create_flags(self->dev, MEMFD_DMABUF_RDONLY, &r, 1);
	char *map;

	ASSERT_LE(0, buf);
	EXPECT_EQ(O_RDONLY, fcntl(buf, F_GETFL) & O_ACCMODE);
	EXPECT_EQ(0, fcntl(buf, F_GETFD));
	EXPECT_EQ(MAP_FAILED, map_shared(buf, 2));
	EXPECT_EQ(EACCES, errno);
	map = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, buf, 0);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_EQ(-1, mprotect(map, PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(EACCES, errno);
	/* nor by force */
	{
		int mem = open("/proc/self/mem", O_RDWR);

		ASSERT_LE(0, mem);
		EXPECT_EQ(-1, pwrite(mem, "x", 1, (uintptr_t)map));
		close(mem);
	}
	/* nor by opening it anew */
	{
		char path[64];

		snprintf(path, sizeof(path), "/proc/self/fd/%d", buf);
		EXPECT_EQ(-1, open(path, O_RDWR));
	}
	EXPECT_EQ(0, map[0]);
	munmap(map, 2 * PAGE);
	close(buf);
}

TEST_F(abi, cloexec)
{
	struct memfd_dmabuf_range r = range(self->memfd, 0, 1);
	int buf = create(self->dev, &r, 1);

	ASSERT_LE(0, buf);
	EXPECT_EQ(FD_CLOEXEC, fcntl(buf, F_GETFD));
	EXPECT_EQ(O_RDWR, fcntl(buf, F_GETFL) & O_ACCMODE);
	close(buf);
}

TEST_F(abi, bad_mmap)
{
	struct memfd_dmabuf_range r = range(self->memfd, 0, 2);
	int buf = create(self->dev, &r, 1);

	ASSERT_LE(0, buf);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, buf, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, map_shared(buf, 3));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED, buf,
				   2 * PAGE));
	EXPECT_EQ(EINVAL, errno);
	close(buf);
}

/* Adjacent ranges merge, others do not; the size is what was asked for. */
TEST_F(abi, info)
{
	struct memfd_dmabuf_range r[] = {
		range(self->memfd, 4, 2), range(self->memfd, 6, 1),
		range(self->memfd, 3, 1), range(self->memfd, 3, 1),
		range(self->memfd, 4, 1),
	};
	int buf = create(self->dev, r, 5);
	struct memfd_dmabuf_info i;

	ASSERT_LE(0, buf);
	i = info(_metadata, self->dev, buf);
	EXPECT_EQ(6 * PAGE, i.size);
	EXPECT_EQ(6 * PAGE, lseek(buf, 0, SEEK_END));
	EXPECT_EQ(3, i.runs);
	EXPECT_EQ(0, i.flags);
	EXPECT_EQ(0, i.pinned_pages);
	EXPECT_EQ(0, i.stale_pages);
	EXPECT_EQ(0, i.discards);

	ASSERT_EQ(0, punch(self->memfd, 5, 1));
	EXPECT_EQ(1, info(_metadata, self->dev, buf).discards);
	ASSERT_EQ(0, punch(self->memfd, 8, 1));
	EXPECT_EQ(1, info(_metadata, self->dev, buf).discards);
	/* all three runs, and then nothing that has not gone already */
	ASSERT_EQ(0, ftruncate(self->memfd, 0));
	EXPECT_EQ(2, info(_metadata, self->dev, buf).discards);
	ASSERT_EQ(0, ftruncate(self->memfd, 0));
	EXPECT_EQ(2, info(_metadata, self->dev, buf).discards);
	EXPECT_EQ(6 * PAGE, info(_metadata, self->dev, buf).size);
	close(buf);

	ASSERT_EQ(0, ftruncate(self->memfd, PAGES * PAGE));
	buf = create_flags(self->dev, MEMFD_DMABUF_RDONLY, r, 5);
	ASSERT_LE(0, buf);
	EXPECT_EQ(MEMFD_DMABUF_RDONLY, info(_metadata, self->dev, buf).flags);
	close(buf);

	buf = create_flags(self->dev, MEMFD_DMABUF_NOALLOC |
			   MEMFD_DMABUF_CLOEXEC, r, 5);
	ASSERT_LE(0, buf);
	EXPECT_EQ(MEMFD_DMABUF_NOALLOC, info(_metadata, self->dev, buf).flags);
	close(buf);
}

TEST_F(abi, info_of_others)
{
	struct memfd_dmabuf_info i = { .fd = self->memfd };
	struct { uint64_t len; uint32_t fd, fd_flags; uint64_t heap_flags; }
	heap_data = { .len = PAGE, .fd_flags = O_RDWR };
	int heap;

	EXPECT_EQ(-1, ioctl(self->dev, MEMFD_DMABUF_INFO, &i));
	EXPECT_EQ(EINVAL, errno);
	i.fd = -1;
	EXPECT_EQ(-1, ioctl(self->dev, MEMFD_DMABUF_INFO, &i));
	EXPECT_EQ(EBADF, errno);

	/* somebody else's dma-buf */
	heap = open("/dev/dma_heap/system", O_RDWR);
	ASSERT_LE(0, heap);
	ASSERT_EQ(0, ioctl(heap, _IOWR('H', 0, heap_data), &heap_data));
	i.fd = heap_data.fd;
	EXPECT_EQ(-1, ioctl(self->dev, MEMFD_DMABUF_INFO, &i));
	EXPECT_EQ(EINVAL, errno);
	close(heap_data.fd);
	close(heap);
}

/* Creating and mapping neither allocates nor pins; reading a page allocates. */
TEST_F(abi, holds_no_pages)
{
	struct memfd_dmabuf_range r = range(self->memfd, 0, PAGES);
	long pinned = pinned_pages();
	struct stat st;
	char *map;
	int buf;

	buf = create(self->dev, &r, 1);
	ASSERT_LE(0, buf);
	map = map_shared(buf, PAGES);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, fstat(self->memfd, &st));
	EXPECT_EQ(0, st.st_blocks);
	EXPECT_EQ(0, map[5 * PAGE]);
	ASSERT_EQ(0, fstat(self->memfd, &st));
	EXPECT_EQ(PAGE / 512, st.st_blocks);
	EXPECT_EQ(pinned, pinned_pages());
	munmap(map, PAGES * PAGE);
	close(buf);
}

/* No fd to be had: the buffer is gone again. */
TEST_F(abi, no_free_fd)
{
	struct memfd_dmabuf_range r = range(self->memfd, 0, 1);
	struct rlimit old, none;

	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &old));
	none = old;
	none.rlim_cur = 3;
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
	EXPECT_EQ(-EMFILE, create(self->dev, &r, 1));
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &old));
}

/* The n-th allocation fails, for every n there is: -ENOMEM and no trace. */
TEST_F(abi, allocation_failures)
{
	int other = new_memfd(PAGES), failed = 0, nth;
	struct memfd_dmabuf_range r[600];

	for (int i = 0; i < 600; i++)
		r[i] = range(i % 3 ? self->memfd : other, i * 7 % PAGES, 1);

	ASSERT_EQ(0, write_file("/sys/kernel/debug/failslab/ignore-gfp-wait",
				"N"));
	ASSERT_EQ(0, write_file("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait",
				"N"));
	ASSERT_EQ(0, write_file("/sys/kernel/debug/fail_page_alloc/min-order",
				"0"));
	for (nth = 1; nth < 1000; nth++) {
		char text[16];
		int nr, left = open("/proc/thread-self/fail-nth", O_RDWR), buf;

		ASSERT_LE(0, left);
		snprintf(text, sizeof(text), "%d", nth);
		ASSERT_LT(0, write(left, text, strlen(text)));
		buf = create(self->dev, r, 600);
		nr = pread(left, text, sizeof(text) - 1, 0);
		ASSERT_LT(0, nr);
		text[nr] = 0;
		ASSERT_LT(0, pwrite(left, "0", 1, 0));
		close(left);
		if (buf >= 0)
			close(buf);
		else {
			ASSERT_EQ(-ENOMEM, buf);
		}
		failed += buf < 0;
		/* not used up: there was no n-th allocation */
		if (atoi(text))
			break;
	}
	TH_LOG("%d of %d allocations were needed", failed, nth - 1);
	EXPECT_LT(3, failed);
	EXPECT_GT(1000, nth);
	EXPECT_EQ(0, fcntl(other, F_ADD_SEALS, F_SEAL_WRITE));
	close(other);
}

/* A file by its name on a tmpfs of its own, which can go away afterwards. */
TEST_F(abi, tmpfs_file)
{
	char dir[] = "/tmp/memfd_dmabuf.XXXXXX", path[64];
	struct memfd_dmabuf_range r;
	char *map;
	int fd, buf;

	ASSERT_NE(NULL, mkdtemp(dir));
	ASSERT_EQ(0, mount("tmpfs", dir, "tmpfs", 0, "size=64k"));
	snprintf(path, sizeof(path), "%s/ram", dir);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 2 * PAGE));
	r = range(fd, 0, 2);
	buf = create(self->dev, &r, 1);
	ASSERT_LE(0, buf);
	close(fd);
	map = map_shared(buf, 2);
	ASSERT_NE(MAP_FAILED, map);
	map[PAGE] = 5;
	fd = open(path, O_RDWR);
	ASSERT_EQ(5, pread(fd, path, 1, PAGE) == 1 ? path[0] : -1);
	close(fd);

	EXPECT_EQ(-1, umount(dir));
	EXPECT_EQ(EBUSY, errno);
	munmap(map, 2 * PAGE);
	close(buf);
	EXPECT_EQ(0, umount(dir));
	rmdir(dir);
}

#ifndef MFD_EXEC
#define MFD_EXEC	0x0010U
#endif

/* Nobody executes what is in a buffer, not even if it is an executable file. */
TEST_F(abi, noexec)
{
	unsigned int flags[] = { 0, MEMFD_DMABUF_RDONLY };
	int fd = memfd_create("exec", MFD_EXEC | MFD_CLOEXEC);
	struct memfd_dmabuf_range r = range(fd, 0, 1);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, PAGE));
	for (int i = 0; i < 2; i++) {
		int buf = create_flags(self->dev, flags[i], &r, 1);
		char *map;

		ASSERT_LE(0, buf);
		EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ | PROT_EXEC,
					   MAP_SHARED, buf, 0));
		EXPECT_EQ(EPERM, errno);
		EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_EXEC, MAP_SHARED,
					   buf, 0));
		EXPECT_EQ(EPERM, errno);
		map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, buf, 0);
		ASSERT_NE(MAP_FAILED, map);
		EXPECT_EQ(-1, mprotect(map, PAGE, PROT_READ | PROT_EXEC));
		EXPECT_EQ(EACCES, errno);
		EXPECT_EQ(0, PEEK(map));
		munmap(map, PAGE);
		close(buf);
	}
	close(fd);
}

/* What is there to be added to cannot be mapped for writing, as mmap() says. */
TEST_F(abi, append_only)
{
	char dir[] = "/tmp/memfd_dmabuf.XXXXXX", path[64];
	struct memfd_dmabuf_range r;
	int fd, flags, buf;

	ASSERT_NE(NULL, mkdtemp(dir));
	ASSERT_EQ(0, mount("tmpfs", dir, "tmpfs", 0, NULL));
	snprintf(path, sizeof(path), "%s/log", dir);
	fd = open(path, O_RDWR | O_APPEND | O_CREAT, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, PAGE));
	ASSERT_EQ(0, ioctl(fd, FS_IOC_GETFLAGS, &flags));
	flags |= FS_APPEND_FL;
	ASSERT_EQ(0, ioctl(fd, FS_IOC_SETFLAGS, &flags));
	ASSERT_EQ(MAP_FAILED, map_shared(fd, 1));
	ASSERT_EQ(EACCES, errno);

	r = range(fd, 0, 1);
	EXPECT_EQ(-EACCES, create(self->dev, &r, 1));
	buf = create_flags(self->dev, MEMFD_DMABUF_RDONLY, &r, 1);
	EXPECT_LE(0, buf);
	close(buf);
	flags &= ~FS_APPEND_FL;
	EXPECT_EQ(0, ioctl(fd, FS_IOC_SETFLAGS, &flags));
	close(fd);
	EXPECT_EQ(0, umount(dir));
	rmdir(dir);
}

/* debugfs lists the buffer, with its mappings, while it lives. */
TEST_F(abi, debugfs)
{
	struct memfd_dmabuf_range r[] = {
		range(self->memfd, 0, 1), range(self->memfd, 2, 2),
	};
	char line[256], want[256], *map;
	struct stat st;
	int found = 0, buf;
	FILE *f;

	/* a name that must not look like other columns */
	ASSERT_EQ(0, prctl(PR_SET_NAME, "a\tb\nc d"));
	buf = create_flags(self->dev, MEMFD_DMABUF_NOALLOC, r, 2);
	ASSERT_LE(0, buf);
	ASSERT_EQ(0, prctl(PR_SET_NAME, "later"));
	ASSERT_EQ(0, fstat(buf, &st));
	map = map_shared(buf, 3);
	ASSERT_NE(MAP_FAILED, map);
	/* a hole in the middle makes it two mappings */
	ASSERT_EQ(0, munmap(map + PAGE, PAGE));
	/* a discard */
	ASSERT_EQ(0, punch(self->memfd, 2, 1));
	snprintf(want, sizeof(want),
		 "%lu\trw,noalloc\t%lu\t2\t1\t2\t0\t0\t1\t%d\ta\\011b\\012c d\n",
		 (unsigned long)st.st_ino, 3 * PAGE, getpid());
	for (int pass = 0; pass < 2; pass++) {
		f = fopen("/sys/kernel/debug/memfd_dmabuf/buffers", "r");
		ASSERT_NE(NULL, f);
		while (fgets(line, sizeof(line), f))
			found += !strcmp(line, want);
		fclose(f);
		EXPECT_EQ(1, found);
		if (!pass) {
			munmap(map, 3 * PAGE);
			close(buf);
		}
	}
}

/* Every tracepoint fires. */
TEST_F(abi, tracepoints)
{
	const char *dir = "/sys/kernel/tracing/";
	static const char * const names[] = { "create", "fault", "discard",
					     "release" };
	struct memfd_dmabuf_range r = range(self->memfd, 3, 1);
	char path[128], line[512], *map;
	int seen[4] = { 0 }, buf;
	FILE *f;

	snprintf(path, sizeof(path), "%sevents/memfd_dmabuf/enable", dir);
	ASSERT_EQ(0, write_file(path, "1"));
	buf = create(self->dev, &r, 1);
	ASSERT_LE(0, buf);
	map = map_shared(buf, 1);
	ASSERT_NE(MAP_FAILED, map);
	map[0] = 1;
	ASSERT_EQ(0, punch(self->memfd, 3, 1));
	munmap(map, PAGE);
	close(buf);
	ASSERT_EQ(0, write_file(path, "0"));

	snprintf(path, sizeof(path), "%strace", dir);
	f = fopen(path, "r");
	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f)) {
		for (int i = 0; i < 4; i++) {
			snprintf(path, sizeof(path), " memfd_dmabuf_%s: ",
				 names[i]);
			if (strstr(line, path))
				seen[i]++;
		}
		if (strstr(line, " memfd_dmabuf_fault: ")) {
			EXPECT_NE(NULL, strstr(line, "index=3 write ret=0x100\n"));
		}
	}
	fclose(f);
	for (int i = 0; i < 4; i++) {
		EXPECT_LT(0, seen[i]);
	}
}

TEST_HARNESS_MAIN

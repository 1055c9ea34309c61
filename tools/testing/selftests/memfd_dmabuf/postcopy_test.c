// SPDX-License-Identifier: GPL-2.0
/*
 * Holes that must not be filled: MEMFD_DMABUF_NOALLOC, and what it is for. When
 * a virtual machine has been migrated by postcopy, its memory arrives page by
 * page. A page that a consumer's access has made meanwhile is zero for ever.
 */
#include "common.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "harness.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

#define HUGE		(2UL << 20)
#define NR_HUGEPAGES	"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

static long read_number(const char *path)
{
	long value = -1;
	FILE *f = fopen(path, "re");

	if (!f)
		return -1;
	if (fscanf(f, "%ld", &value) != 1)
		value = -1;
	fclose(f);
	return value;
}

static int write_number(const char *path, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	return write_file(path, text) < 0 ? -1 : 0;
}

static int new_huge_memfd(unsigned long size)
{
	int fd = memfd_create("memfd_dmabuf test",
			      MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);

	if (fd >= 0 && ftruncate(fd, size)) {
		close(fd);
		return -1;
	}
	return fd;
}

static long blocks(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? -1 : st.st_blocks;
}

enum seen { HOLE, SAME, OTHER };

/* What is at this page: nothing, what it should be, or something else? */
static enum seen look(char *addr, uint64_t want)
{
	if (sigsetjmp(sigbus_jump, 0))
		return HOLE;
	return page_is(addr, want) ? SAME : OTHER;
}

/*
 * A file of units: what the file has or has not as a whole, a page or a huge
 * page. The buffer has base pages of all of them, in no order.
 */

#define BUF_PAGES	96UL

struct ram {
	bool hugetlb;
	unsigned long unit;		/* bytes */
	unsigned long units;
	unsigned long size;
	long nr_hugepages;		/* to be restored */
	int dev;
	int fd;
	char *owner;
};

static unsigned long file_page(const struct ram *ram, unsigned long i)
{
	unsigned long per_unit = ram->unit / PAGE;

	return i * 37 % ram->units * per_unit + i * 89 % per_unit;
}

#define unit_of(ram, i) (file_page(ram, i) * PAGE / (ram)->unit)

static void make_ram(struct __test_metadata *_metadata, struct ram *ram,
		     bool hugetlb, unsigned long units)
{
	catch_sigbus();
	ram->hugetlb = hugetlb;
	ram->unit = hugetlb ? HUGE : PAGE;
	ram->units = units;
	ram->size = units * ram->unit;
	ram->dev = open_device();
	ASSERT_LE(0, ram->dev);
	if (hugetlb) {
		ram->nr_hugepages = read_number(NR_HUGEPAGES);
		ASSERT_EQ(0, write_number(NR_HUGEPAGES, units));
		ASSERT_EQ(units, read_number(NR_HUGEPAGES));
		ram->fd = new_huge_memfd(ram->size);
	} else {
		ram->fd = new_memfd(units);
	}
	ASSERT_LE(0, ram->fd);
	ram->owner = map_shared(ram->fd, ram->size / PAGE);
	ASSERT_NE(MAP_FAILED, ram->owner);
}

static void free_ram(struct __test_metadata *_metadata, struct ram *ram)
{
	munmap(ram->owner, ram->size);
	close(ram->fd);
	if (ram->hugetlb) {
		EXPECT_EQ(0, write_number(NR_HUGEPAGES, ram->nr_hugepages));
	}
	close(ram->dev);
}

/* Returns the buffer, or -errno. */
static int make_buffer(const struct ram *ram, unsigned int flags)
{
	struct memfd_dmabuf_range r[BUF_PAGES];

	for (unsigned long i = 0; i < BUF_PAGES; i++)
		r[i] = range(ram->fd, file_page(ram, i), 1);
	return create_flags(ram->dev, MEMFD_DMABUF_CLOEXEC | flags, r,
			    BUF_PAGES);
}

/* Postcopy */

/* What the copying thread works on. */
struct stream {
	struct ram ram;
	char *source;		/* the memory on the machine it comes from */
	int uffd;
	bool at_random;
	unsigned long copied;
	unsigned long exist;	/* copies that came too late */
	unsigned long failed;
};

FIXTURE(postcopy) {
	struct stream stream;
	int to_consumer[2], to_owner[2];
};

FIXTURE_VARIANT(postcopy) {
	bool hugetlb;
	bool at_random;
};

FIXTURE_VARIANT_ADD(postcopy, shmem_in_order) { false, false };
FIXTURE_VARIANT_ADD(postcopy, shmem_at_random) { false, true };
FIXTURE_VARIANT_ADD(postcopy, hugetlb_in_order) { true, false };
FIXTURE_VARIANT_ADD(postcopy, hugetlb_at_random) { true, true };

FIXTURE_SETUP(postcopy)
{
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_api api = { .api = UFFD_API };
	struct stream *stream = &self->stream;
	struct ram *ram = &stream->ram;

	make_ram(_metadata, ram, variant->hugetlb,
		 variant->hugetlb ? 6 : BUF_PAGES);
	stream->at_random = variant->at_random;
	stream->source = mmap(NULL, ram->size, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, stream->source);
	for (unsigned long p = 0; p < ram->size / PAGE; p++)
		fill_page(stream->source + p * PAGE, tag(1, p, 1));
	stream->uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	ASSERT_LE(0, stream->uffd);
	api.features = variant->hugetlb ? UFFD_FEATURE_MISSING_HUGETLBFS :
					  UFFD_FEATURE_MISSING_SHMEM;
	ASSERT_EQ(0, ioctl(stream->uffd, UFFDIO_API, &api));
	reg.range.start = (uintptr_t)ram->owner;
	reg.range.len = ram->size;
	ASSERT_EQ(0, ioctl(stream->uffd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, pipe(self->to_consumer));
	ASSERT_EQ(0, pipe(self->to_owner));
}

FIXTURE_TEARDOWN(postcopy)
{
	close(self->stream.uffd);
	munmap(self->stream.source, self->stream.ram.size);
	free_ram(_metadata, &self->stream.ram);
}

/* Nobody waits for a fault: every unit is sent once, as in a stream. */
static void *copy_all(void *arg)
{
	struct stream *stream = arg;
	struct ram *ram = &stream->ram;

	for (unsigned long i = 0; i < ram->units; i++) {
		/* 5 has no divisor in common with the number of units */
		unsigned long u = stream->at_random ?
				  (i * 5 + 2) % ram->units : i;
		struct uffdio_copy copy = {
			.src = (uintptr_t)stream->source + u * ram->unit,
			.dst = (uintptr_t)ram->owner + u * ram->unit,
			.len = ram->unit,
		};

		if (!ioctl(stream->uffd, UFFDIO_COPY, &copy)) {
			stream->copied++;
		} else if (errno == EEXIST) {
			struct uffdio_range range = {
				.start = copy.dst,
				.len = copy.len,
			};

			stream->exist++;
			/* a page is there: nobody needs to wait for it */
			ioctl(stream->uffd, UFFDIO_WAKE, &range);
		} else {
			stream->failed++;
		}
	}
	return NULL;
}

/* All memory arrives, and a consumer sees holes or what has arrived. */
TEST_F(postcopy, noalloc)
{
	struct stream *stream = &self->stream;
	struct ram *ram = &stream->ram;
	unsigned long wrong = 0;
	pthread_t thread;
	int buf, status;
	pid_t pid;
	char c;

	buf = make_buffer(ram, MEMFD_DMABUF_NOALLOC);
	ASSERT_LE(0, buf);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		unsigned long left = BUF_PAGES, early = 0, other = 0;
		bool done[BUF_PAGES] = { false };
		char *map = map_shared(buf, BUF_PAGES);

		/* every page is touched before it arrives */
		for (unsigned long i = 0; i < BUF_PAGES; i++)
			early += !access_sigbus(map + i * PAGE + i, i % 2);
		EXPECT_EQ(0, early);
		(void)!write(self->to_owner[1], "1", 1);
		while (left && !other) {
			for (unsigned long i = 0; i < BUF_PAGES; i++) {
				if (done[i])
					continue;
				switch (look(map + i * PAGE,
					     tag(1, file_page(ram, i), 1))) {
				case HOLE:
					break;
				case SAME:
					done[i] = true;
					left--;
					break;
				case OTHER:
					other++;
				}
			}
			sched_yield();
		}
		EXPECT_EQ(0, other);
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(1, read(self->to_owner[0], &c, 1));
	EXPECT_EQ(0, blocks(ram->fd));
	ASSERT_EQ(0, pthread_create(&thread, NULL, copy_all, stream));
	/* the guest goes on, too, and waits for what is not there */
	for (unsigned long p = ram->size / PAGE; p--; )
		wrong += !page_is(ram->owner + p * PAGE, tag(1, p, 1));
	EXPECT_EQ(0, wrong);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, stream->failed);
	EXPECT_EQ(0, stream->exist);
	EXPECT_EQ(ram->units, stream->copied);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	close(buf);
}

/* What it is for: without it the memory that a consumer has read is lost. */
TEST_F(postcopy, loss_without_noalloc)
{
	unsigned long wrong = 0, touched = 0;
	struct stream *stream = &self->stream;
	struct ram *ram = &stream->ram;
	pthread_t thread;
	int buf, status;
	pid_t pid;
	char c;

	buf = make_buffer(ram, 0);
	ASSERT_LE(0, buf);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		char *map = map_shared(buf, BUF_PAGES);

		/* every second unit, before it arrives */
		for (unsigned long i = 0; i < BUF_PAGES; i++) {
			if (unit_of(ram, i) % 2) {
				EXPECT_EQ(SAME, look(map + i * PAGE, 0));
			}
		}
		(void)!write(self->to_owner[1], "1", 1);
		(void)!read(self->to_consumer[0], &c, 1);
		/* and after it should have arrived */
		for (unsigned long i = 0; i < BUF_PAGES; i++) {
			EXPECT_EQ(SAME, look(map + i * PAGE,
					     unit_of(ram, i) % 2 ? 0 :
					     tag(1, file_page(ram, i), 1)));
		}
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(1, read(self->to_owner[0], &c, 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, copy_all, stream));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	touched = ram->units / 2;
	EXPECT_EQ(0, stream->failed);
	EXPECT_EQ(touched, stream->exist);
	EXPECT_EQ(ram->units - touched, stream->copied);
	for (unsigned long p = 0; p < ram->size / PAGE; p++)
		wrong += !page_is(ram->owner + p * PAGE,
				  p * PAGE / ram->unit % 2 ? 0 : tag(1, p, 1));
	EXPECT_EQ(0, wrong);
	ASSERT_EQ(1, write(self->to_consumer[1], "2", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	close(buf);
}

/* Holes */

FIXTURE(holes) {
	struct ram ram;
	int buf;
	char *map;
};

FIXTURE_VARIANT(holes) {
	bool hugetlb;
};

FIXTURE_VARIANT_ADD(holes, shmem) { false };
FIXTURE_VARIANT_ADD(holes, hugetlb) { true };

FIXTURE_SETUP(holes)
{
	make_ram(_metadata, &self->ram, variant->hugetlb,
		 variant->hugetlb ? 3 : BUF_PAGES);
	self->buf = make_buffer(&self->ram, MEMFD_DMABUF_NOALLOC);
	ASSERT_LE(0, self->buf);
	self->map = map_shared(self->buf, BUF_PAGES);
	ASSERT_NE(MAP_FAILED, self->map);
}

FIXTURE_TEARDOWN(holes)
{
	munmap(self->map, BUF_PAGES * PAGE);
	close(self->buf);
	free_ram(_metadata, &self->ram);
}

#define in_map(i) (self->map + (i) * PAGE)
#define in_file(i) (self->ram.owner + file_page(&self->ram, i) * PAGE)

/* Nothing has come into the file. */
#define expect_sparse() do {						\
	EXPECT_EQ(0, blocks(self->ram.fd));				\
	if (!variant->hugetlb) {					\
		/* hugetlbfs does not seek for data */			\
		EXPECT_EQ(-1, lseek(self->ram.fd, 0, SEEK_DATA));	\
		EXPECT_EQ(ENXIO, errno);				\
	}								\
} while (0)

#define expect_holes() do {						\
	for (unsigned long _i = 0; _i < BUF_PAGES; _i++) {		\
		EXPECT_TRUE(access_sigbus(in_map(_i) + _i * 3, _i % 2))	\
			TH_LOG("page %lu", _i);				\
	}								\
	expect_sparse();						\
} while (0)

#define punch_all() \
	punch(self->ram.fd, 0, self->ram.size / PAGE)

static void fill_owner(const struct ram *ram, unsigned int version)
{
	for (unsigned long p = 0; p < ram->size / PAGE; p++)
		fill_page(ram->owner + p * PAGE, tag(1, p, version));
}

#define expect_version(version) do {					\
	for (unsigned long _i = 0; _i < BUF_PAGES; _i++) {		\
		EXPECT_EQ(SAME, look(in_map(_i),			\
				     tag(1, file_page(&self->ram, _i),	\
					 version)));			\
	}								\
} while (0)

TEST_F(holes, sigbus)
{
	for (unsigned long i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(access_sigbus(in_map(i) + i, false));
		EXPECT_TRUE(access_sigbus(in_map(i) + PAGE - 1 - i, true));
		EXPECT_FALSE(mapped(in_map(i)));
	}
	expect_sparse();
}

/* What the owner writes is there, what it does not stays a hole. */
TEST_F(holes, come_and_go)
{
	unsigned long unit = self->ram.unit;

	expect_holes();
	for (unsigned long u = 0; u < self->ram.units; u++) {
		POKE(self->ram.owner + u * unit, u + 1);
		for (unsigned long i = 0; i < BUF_PAGES; i++) {
			EXPECT_EQ(unit_of(&self->ram, i) > u,
				  access_sigbus(in_map(i), false));
		}
		EXPECT_EQ((u + 1) * unit / 512, blocks(self->ram.fd));
	}
	fill_owner(&self->ram, 2);
	expect_version(2);
	/* also to be written here */
	for (unsigned long i = 0; i < BUF_PAGES; i++)
		fill_page(in_map(i), tag(1, file_page(&self->ram, i), 3));
	for (unsigned long i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(page_is(in_file(i),
				    tag(1, file_page(&self->ram, i), 3)));
	}
	/* one is a hole again, then all are */
	ASSERT_EQ(0, punch(self->ram.fd, 0, unit / PAGE));
	for (unsigned long i = 0; i < BUF_PAGES; i++) {
		EXPECT_EQ(unit_of(&self->ram, i) == 0,
			  access_sigbus(in_map(i), false));
	}
	ASSERT_EQ(0, punch_all());
	expect_holes();
	fill_owner(&self->ram, 4);
	expect_version(4);
}

TEST_F(holes, truncate_and_regrow)
{
	fill_owner(&self->ram, 1);
	expect_version(1);
	ASSERT_EQ(0, ftruncate(self->ram.fd, 0));
	expect_holes();
	ASSERT_EQ(0, ftruncate(self->ram.fd, self->ram.size));
	expect_holes();
	fill_owner(&self->ram, 2);
	expect_version(2);
}

/* The pages around a page are mapped with it, those that are there. */
TEST_F(holes, around)
{
	POKE(in_file(5), 1);
	EXPECT_EQ(1, PEEK(in_map(5)));
	for (unsigned long i = 0; i < BUF_PAGES; i++) {
		if (unit_of(&self->ram, i) != unit_of(&self->ram, 5)) {
			EXPECT_FALSE(mapped(in_map(i)));
			EXPECT_TRUE(access_sigbus(in_map(i), i % 2));
		}
	}
	EXPECT_EQ(self->ram.unit / 512, blocks(self->ram.fd));
}

/* To fill in page tables is no access; what it says is what it says at EOF. */
TEST_F(holes, populate)
{
	static const int advice[] = { MADV_POPULATE_READ, MADV_POPULATE_WRITE };
	int fd = variant->hugetlb ? new_huge_memfd(self->ram.unit) :
				    new_memfd(1);
	char *plain, *map;

	ASSERT_LE(0, fd);
	plain = mmap(NULL, self->ram.unit, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_NORESERVE, fd, 0);
	ASSERT_NE(MAP_FAILED, plain);
	ASSERT_EQ(0, ftruncate(fd, 0));
	for (int i = 0; i < 2; i++) {
		int want;

		EXPECT_EQ(-1, madvise(plain, self->ram.unit, advice[i]));
		want = errno;
		EXPECT_EQ(-1, madvise(self->map, BUF_PAGES * PAGE, advice[i]));
		EXPECT_EQ(want, errno);
		EXPECT_EQ(-1, madvise(in_map(9), PAGE, advice[i]));
		EXPECT_EQ(want, errno);
	}
	expect_sparse();
	munmap(plain, self->ram.unit);
	close(fd);
	/* mmap() does not mind */
	map = mmap(NULL, BUF_PAGES * PAGE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_POPULATE, self->buf, 0);
	ASSERT_NE(MAP_FAILED, map);
	munmap(map, BUF_PAGES * PAGE);
	expect_holes();
	/* no holes, no error */
	fill_owner(&self->ram, 1);
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(0, madvise(self->map, BUF_PAGES * PAGE, advice[i]));
	}
	expect_version(1);
}

/* A page that has been allocated, and never written, is not a hole. */
TEST_F(holes, fallocate)
{
	ASSERT_EQ(0, fallocate(self->ram.fd, 0, 0, self->ram.size));
	for (unsigned long i = 0; i < BUF_PAGES; i++) {
		EXPECT_EQ(SAME, look(in_map(i), 0));
		POKE(in_map(i), 1);
		EXPECT_EQ(1, PEEK(in_file(i)));
	}
	EXPECT_EQ(self->ram.size / 512, blocks(self->ram.fd));
	ASSERT_EQ(0, punch_all());
	expect_holes();
}

/* The kernel's accesses fill no holes either. */
TEST_F(holes, get_user_pages)
{
	struct iovec local, remote;
	uint64_t data[2 * PAGE / 8];

	local = (struct iovec){ data, 2 * PAGE };
	remote = (struct iovec){ in_map(2), 2 * PAGE };
	EXPECT_EQ(-1, process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_EQ(EFAULT, errno);
	expect_sparse();
	if (variant->hugetlb)
		return;		/* pages of hugetlb are out of reach anyway */
	/* up to the hole, and no further */
	fill_page(in_file(2), 22);
	EXPECT_EQ(PAGE, process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_TRUE(page_is(data, 22));
	fill_page(data, 23);
	EXPECT_EQ(PAGE, process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_TRUE(page_is(in_file(2), 23));
	EXPECT_EQ(PAGE / 512, blocks(self->ram.fd));
}

TEST_F(holes, system_calls)
{
	char data[8] = "1234567";
	int pipes[2], fd;

	ASSERT_EQ(0, pipe(pipes));
	/* from a hole */
	EXPECT_EQ(-1, write(pipes[1], in_map(1), 8));
	EXPECT_EQ(EFAULT, errno);
	/* into one: with what came before it still there */
	ASSERT_EQ(8, write(pipes[1], data, 8));
	EXPECT_EQ(-1, read(pipes[0], in_map(1), 8));
	EXPECT_EQ(EFAULT, errno);
	/* as a debugger */
	fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, pread(fd, data, 8, (uintptr_t)in_map(1)));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, pwrite(fd, data, 8, (uintptr_t)in_map(1)));
	EXPECT_EQ(EIO, errno);
	expect_sparse();
	/* and where there is something */
	POKE(in_file(1), 'x');
	EXPECT_EQ(8, pread(fd, data, 8, (uintptr_t)in_map(1)));
	EXPECT_EQ('x', data[0]);
	close(fd);
	close(pipes[0]);
	close(pipes[1]);
}

TEST_F(holes, fork)
{
	int to_child[2], to_parent[2], status;
	pid_t pid;
	char c;

	ASSERT_EQ(0, pipe(to_child));
	ASSERT_EQ(0, pipe(to_parent));
	fill_owner(&self->ram, 1);
	expect_version(1);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		expect_version(1);
		(void)!write(to_parent[1], "1", 1);
		(void)!read(to_child[0], &c, 1);
		expect_holes();
		(void)!write(to_parent[1], "3", 1);
		(void)!read(to_child[0], &c, 1);
		expect_version(2);
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(1, read(to_parent[0], &c, 1));
	ASSERT_EQ(0, punch_all());
	ASSERT_EQ(1, write(to_child[1], "2", 1));
	ASSERT_EQ(1, read(to_parent[0], &c, 1));
	expect_holes();
	fill_owner(&self->ram, 2);
	ASSERT_EQ(1, write(to_child[1], "4", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	expect_version(2);
}

/* It is the buffer that does not fill holes, not the file. */
TEST_F(holes, another_buffer)
{
	int buf = make_buffer(&self->ram, 0);
	char *map;

	ASSERT_LE(0, buf);
	map = map_shared(buf, BUF_PAGES);
	ASSERT_NE(MAP_FAILED, map);
	expect_holes();
	for (unsigned long i = 0; i < BUF_PAGES; i += 2)
		POKE(map + i * PAGE, 'y');
	for (unsigned long i = 0; i < BUF_PAGES; i += 2) {
		EXPECT_EQ('y', PEEK(in_map(i)));
	}
	ASSERT_EQ(0, punch_all());
	expect_holes();
	munmap(map, BUF_PAGES * PAGE);
	close(buf);
}

TEST_F(holes, info)
{
	static const unsigned int flags[] = {
		0, MEMFD_DMABUF_RDONLY, MEMFD_DMABUF_NOALLOC,
		MEMFD_DMABUF_RDONLY | MEMFD_DMABUF_NOALLOC,
	};

	for (int i = 0; i < 4; i++) {
		struct memfd_dmabuf_info info = {
			.fd = make_buffer(&self->ram, flags[i]),
		};
		char *map;

		ASSERT_LE(0, info.fd);
		ASSERT_EQ(0, ioctl(self->ram.dev, MEMFD_DMABUF_INFO, &info));
		EXPECT_EQ(flags[i], info.flags);
		map = mmap(NULL, BUF_PAGES * PAGE, PROT_READ, MAP_SHARED,
			   info.fd, 0);
		ASSERT_NE(MAP_FAILED, map);
		/* it does what it says */
		ASSERT_EQ(0, punch_all());
		EXPECT_EQ(!!(flags[i] & MEMFD_DMABUF_NOALLOC),
			  access_sigbus(map + 7 * PAGE, false));
		munmap(map, BUF_PAGES * PAGE);
		close(info.fd);
	}
}

struct reader {
	char *map;
	bool stop;
	unsigned long sigbus;	/* how often it met a hole */
};

static void *read_for_ever(void *arg)
{
	struct reader *r = arg;

	for (unsigned long i = 0; !PEEK(&r->stop); i++)
		if (access_sigbus(r->map + i % BUF_PAGES * PAGE, i / 7 % 2))
			__atomic_add_fetch(&r->sigbus, 1, __ATOMIC_RELAXED);
	return NULL;
}

/* However the owner's punches meet the consumer's faults. */
TEST_F(holes, race)
{
	struct reader r = { .map = self->map };
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, read_for_ever, &r));
	for (int round = 0; round < 20; round++) {
		unsigned long seen;

		fill_owner(&self->ram, round);
		ASSERT_EQ(0, punch_all());
		EXPECT_EQ(0, blocks(self->ram.fd));
		seen = PEEK(&r.sigbus);
		while (PEEK(&r.sigbus) < seen + BUF_PAGES)
			sched_yield();
		EXPECT_EQ(0, blocks(self->ram.fd));
	}
	POKE(&r.stop, true);
	ASSERT_EQ(0, pthread_join(thread, NULL));
}

/* What is in swap is not gone. */
TEST(swapped_out)
{
	struct ram ram = { 0 };
	char *map;
	int buf;

	make_ram(_metadata, &ram, false, BUF_PAGES);
	/* only the buffer maps them: MADV_PAGEOUT leaves shared pages alone */
	for (unsigned long p = 0; p < ram.units; p++) {
		ASSERT_TRUE(write_page(ram.fd, p, tag(1, p, 1)));
	}
	buf = make_buffer(&ram, MEMFD_DMABUF_NOALLOC);
	ASSERT_LE(0, buf);
	map = map_shared(buf, BUF_PAGES);
	ASSERT_NE(MAP_FAILED, map);
	for (int round = 0; round < 2; round++) {
		for (unsigned long i = 0; i < BUF_PAGES; i++)
			PEEK(map + i * PAGE);
		/* those on their way to another CPU's list are not found */
		drain_lru();
		ASSERT_EQ(0, madvise(map, BUF_PAGES * PAGE, MADV_PAGEOUT));
		ASSERT_EQ(0, resident(ram.fd, ram.units))
			TH_LOG("this test needs swap space");
		for (unsigned long i = 0; i < BUF_PAGES; i++) {
			uint64_t want = tag(1, file_page(&ram, i), 1);

			if (round) {
				/* a first access that writes */
				POKE((uint64_t *)(map + i * PAGE), want);
			}
			EXPECT_EQ(SAME, look(map + i * PAGE, want));
		}
	}
	munmap(map, BUF_PAGES * PAGE);
	close(buf);
	free_ram(_metadata, &ram);
}

TEST_HARNESS_MAIN

// SPDX-License-Identifier: GPL-2.0
/*
 * Bounds: what somebody asks for who has a device node or a dma-buf must not
 * cost others more than it is worth. Memory, repeated pages, holes of the file,
 * and those who wait; on both device nodes.
 */
#include "common.h"
#include "drm.h"
#include "udmabuf.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>
#include <linux/userfaultfd.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include "harness.h"

#define CGROUP		"/sys/fs/cgroup/"
#define DEBUGFS		"/sys/kernel/debug/memfd_dmabuf/buffers"
#define PARAMETERS	"/sys/module/memfd_dmabuf/parameters/"
#define SHMEM_THP	"/sys/kernel/mm/transparent_hugepage/shmem_enabled"
#define THP		"/sys/kernel/mm/transparent_hugepage/enabled"
#define POOL		"/proc/sys/vm/nr_hugepages"
#define HUGE_PAGES	512
#define HUGE		(HUGE_PAGES * PAGE)

/* A page may be in a buffer that often. */
#define REPEATS		64

/* Locks and everything else are larger and slower in a kernel that checks them. */
static bool is_debug_kernel(void)
{
	return !access("/proc/lockdep", F_OK);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static long pages_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? -1 : st.st_blocks * 512 / (long)PAGE;
}

FIXTURE(bounds) {
	int dev;
};

FIXTURE_VARIANT(bounds) {
	bool udmabuf;
};

FIXTURE_VARIANT_ADD(bounds, own) { false };
FIXTURE_VARIANT_ADD(bounds, udmabuf) { true };

FIXTURE_SETUP(bounds)
{
	struct rlimit limit = { 100000, 100000 };

	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	if (variant->udmabuf) {
		struct memfd_dmabuf_range r = range(new_memfd(1), 0, 1);
		bool ours;
		int buf;

		ASSERT_EQ(0, fcntl(r.fd, F_ADD_SEALS, F_SEAL_SHRINK));
		buf = create_udmabuf(&r, 1);
		ours = buf >= 0 && is_ours(self->dev, buf);
		close(buf);
		close(r.fd);
		if (!ours)
			SKIP(return, "/dev/udmabuf is not memfd_dmabuf's");
	}
}

FIXTURE_TEARDOWN(bounds)
{
	close(self->dev);
}

/* What /dev/udmabuf asks of a memfd, and the other node does not mind. */
static int sealed_memfd(unsigned long pages)
{
	int fd = new_memfd(pages);

	if (fd >= 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)) {
		close(fd);
		return -1;
	}
	return fd;
}

#define new_buffer(r, nr) \
	(variant->udmabuf ? create_udmabuf(r, nr) : create(self->dev, r, nr))

/* Kernel memory charged to a cgroup that this process alone is in. */

static void enter_cgroup(struct __test_metadata *_metadata)
{
	char pid[16];

	ASSERT_EQ(0, write_file(CGROUP "cgroup.subtree_control", "+memory"));
	ASSERT_TRUE(!mkdir(CGROUP "bounds", 0755) || errno == EEXIST);
	snprintf(pid, sizeof(pid), "%d", getpid());
	ASSERT_EQ(0, write_file(CGROUP "bounds/cgroup.procs", pid));
}

static void leave_cgroup(void)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	write_file(CGROUP "cgroup.procs", pid);
	rmdir(CGROUP "bounds");
}

static long kernel_memory(void)
{
	/* what each processor has counted is added up every two seconds */
	read_key(CGROUP "bounds/cpu.stat", "");
	return read_key(CGROUP "bounds/memory.stat", "kernel");
}

/* Pieces that go round the files, and are next to nothing. */
static struct memfd_dmabuf_range *round_robin(const int *fds, unsigned int files,
					      unsigned int nr)
{
	struct memfd_dmabuf_range *r = calloc(nr, sizeof(*r));

	for (unsigned int i = 0; i < nr; i++)
		r[i] = range(fds[i % files], i / files * 2, 1);
	return r;
}

static const struct {
	unsigned int files, runs;
} lists[] = {
	{ 1, 65536 }, { 512, 65536 }, { 1000, 65536 }, { 12000, 12000 },
};

/* Memory is in proportion to what was asked for. */
TEST_F_TIMEOUT(bounds, memory, 300)
{
	/* spinlocks, rwsems and slabs of a debug kernel are several times as large */
	int times = is_debug_kernel() ? 4 : 1;

	enter_cgroup(_metadata);
	for (int i = 0; i < 4; i++) {
		unsigned int files = lists[i].files, runs = lists[i].runs;
		long before, used, limit = runs * 128L + files * 1024L;
		struct memfd_dmabuf_range *r;
		int *fds = calloc(files, sizeof(*fds)), buf;

		for (unsigned int f = 0; f < files; f++) {
			fds[f] = sealed_memfd(runs / files * 2 + 2);
			ASSERT_LE(0, fds[f]);
		}
		r = round_robin(fds, files, runs);
		/* slabs have room for a part, and are filled first */
		buf = new_buffer(r, runs < 64 ? runs : 64);
		ASSERT_LE(0, buf);
		before = kernel_memory();
		close(buf);
		buf = new_buffer(r, runs);
		ASSERT_LE(0, buf);
		used = kernel_memory() - before;
		TH_LOG("%u files, %u runs: %ld KB of %ld", files, runs,
		       used >> 10, limit * times >> 10);
		EXPECT_LT(runs * 32L, used);
		EXPECT_GE(limit * times, used);
		close(buf);
		for (unsigned int f = 0; f < files; f++)
			close(fds[f]);
		free(fds);
		free(r);
	}
	leave_cgroup();
}

static double time_to_create(struct __test_metadata *_metadata, int dev,
			     struct memfd_dmabuf_range *r, unsigned int nr)
{
	double best = 1e9;

	for (int i = 0; i < 3; i++) {
		double start = now(), took;
		int buf = dev < 0 ? create_udmabuf(r, nr) : create(dev, r, nr);

		took = now() - start;
		ASSERT_LE(0, buf)
			TH_LOG("%s: %s", dev < 0 ? "udmabuf" : "memfd_dmabuf",
			       strerror(-buf));
		close(buf);
		if (took < best)
			best = took;
	}
	return best;
}

/* So is time, for as many files as there are: not more than udmabuf takes. */
TEST_F_TIMEOUT(bounds, time_is_linear, 300)
{
	double first = 0;

	if (variant->udmabuf)
		SKIP(return, "the same code");
	for (unsigned int files = 500; files <= 8000; files *= 4) {
		int *fds = calloc(files, sizeof(*fds));
		struct memfd_dmabuf_range *r;
		double took;

		for (unsigned int f = 0; f < files; f++) {
			fds[f] = sealed_memfd(2);
			ASSERT_LE(0, fds[f]);
		}
		r = round_robin(fds, files, files);
		took = time_to_create(_metadata, self->dev, r, files) / files;
		TH_LOG("%u files: %.1f us each", files, took * 1e6);
		if (!first)
			first = took;
		/* quadratic would be 16 times */
		EXPECT_GT(4 * first, took);
		for (unsigned int f = 0; f < files; f++)
			close(fds[f]);
		free(fds);
		free(r);
	}
}

/* The same lists with the kernel's own udmabuf, where there is one. */
TEST_F_TIMEOUT(bounds, compared_time, 300)
{
	if (variant->udmabuf)
		SKIP(return, "the same code");
	if (is_debug_kernel() || access("/dev/udmabuf", F_OK))
		SKIP(return, "no udmabuf to compare with");
	ASSERT_EQ(0, write_file(UDMABUF_PARAMETERS "list_limit", "65536"));
	ASSERT_EQ(0, write_file(UDMABUF_PARAMETERS "size_limit_mb", "1024"));
	for (int i = 1; i < 4; i++) {
		unsigned int files = lists[i].files, runs = lists[i].runs;
		int *fds = calloc(files, sizeof(*fds));
		struct memfd_dmabuf_range *r;
		double ours, udmabuf;

		for (unsigned int f = 0; f < files; f++) {
			fds[f] = sealed_memfd(runs / files * 2 + 2);
			ASSERT_LE(0, fds[f]);
		}
		r = round_robin(fds, files, runs);
		/* its pages are there from then on */
		udmabuf = time_to_create(_metadata, -1, r, runs);
		ours = time_to_create(_metadata, self->dev, r, runs);
		TH_LOG("%u files, %u runs: %.1f ms, udmabuf %.1f ms", files,
		       runs, ours * 1e3, udmabuf * 1e3);
		EXPECT_GT(3 * udmabuf, ours);
		for (unsigned int f = 0; f < files; f++)
			close(fds[f]);
		free(fds);
		free(r);
	}
}

/* Made, or refused; in a small machine, too. */
TEST_F_TIMEOUT(bounds, all_files, 300)
{
	unsigned int nr = is_debug_kernel() ? 4000 : 32000;
	struct memfd_dmabuf_range *r = calloc(nr, sizeof(*r));
	int buf;

	for (unsigned int i = 0; i < nr; i++) {
		int fd = sealed_memfd(1);

		ASSERT_LE(0, fd);
		r[i] = range(fd, 0, 1);
	}
	buf = new_buffer(r, nr);
	if (buf < 0) {
		EXPECT_EQ(-ENOMEM, buf);
	} else {
		close(buf);
	}
}

/*
 * A limit that an administrator has taken away does not matter: the kernel does
 * not warn, and nothing is copied.
 */
TEST_F(bounds, no_list_limit)
{
	unsigned int counts[] = { 1 << 25, 89478486, INT32_MAX, UINT32_MAX };
	char *path = variant->udmabuf ? UDMABUF_PARAMETERS "list_limit" :
		     PARAMETERS "list_limit";
	int udmabuf = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);

	ASSERT_EQ(0, write_file(path, variant->udmabuf ? "2147483647" :
							 "4294967295"));
	for (int i = 0; i < 4; i++) {
		struct udmabuf_create_list list = { .count = counts[i] };

		if (variant->udmabuf) {
			EXPECT_EQ(-1, ioctl(udmabuf, UDMABUF_CREATE_LIST,
					    &list));
			EXPECT_EQ(EINVAL, errno);
		} else {
			EXPECT_EQ(-E2BIG, create(self->dev, NULL, counts[i]));
		}
	}
	EXPECT_EQ(0, write_file(path, "65536"));
	close(udmabuf);
}

/* Creation does not go on for somebody who is being killed. */
TEST_F_TIMEOUT(bounds, killed, 120)
{
	unsigned int nr = is_debug_kernel() ? 1 << 17 : 4 << 20;
	struct memfd_dmabuf_range *r;
	double start, whole;
	int fds[2], buf, status;

	if (variant->udmabuf)
		SKIP(return, "the same code");
	ASSERT_EQ(0, write_file(PARAMETERS "list_limit", "4194304"));
	fds[0] = new_memfd(2 * nr);
	fds[1] = new_memfd(2 * nr);
	r = round_robin(fds, 2, nr);
	start = now();
	buf = create(self->dev, r, nr);
	ASSERT_LE(0, buf);
	whole = now() - start;
	close(buf);
	/* in each stage of it */
	for (int i = 1; i < 8; i += 3) {
		pid_t pid = fork();

		if (!pid) {
			create(self->dev, r, nr);
			_exit(0);
		}
		usleep(whole * i / 8 * 1e6);
		start = now();
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		/* what it had done is undone */
		if (WIFSIGNALED(status)) {
			EXPECT_GT(whole, now() - start);
		}
		TH_LOG("%d/8 of %.2f s: ended after %.2f s", i, whole,
		       now() - start);
	}
	EXPECT_EQ(0, write_file(PARAMETERS "list_limit", "65536"));
	free(r);
}

/* Repeats */

#define expect_creates(result, r, nr) do {				\
	int _buf = new_buffer(r, nr);					\
									\
	if (result) {							\
		EXPECT_EQ(result, _buf);				\
	} else {							\
		EXPECT_LE(0, _buf);					\
	}								\
	if (_buf >= 0)							\
		close(_buf);						\
} while (0)

TEST_F(bounds, repeats)
{
	unsigned int nr = 4 * REPEATS, i;
	struct memfd_dmabuf_range *r = calloc(nr, sizeof(*r));
	int one = sealed_memfd(nr * 2), other = sealed_memfd(nr * 2);
	int again = dup(one);

	/* nothing but one page */
	for (i = 0; i < nr; i++)
		r[i] = range(one, 5, 1);
	expect_creates(0, r, REPEATS);
	expect_creates(-EINVAL, r, REPEATS + 1);
	expect_creates(-EINVAL, r, nr);

	/* by any descriptor, with others in between */
	for (i = 0; i < nr; i++)
		r[i] = i % 2 ? range(i % 4 == 1 ? one : again, 5, 1) :
			       range(other, i, 1);
	expect_creates(0, r, 2 * REPEATS);
	expect_creates(-EINVAL, r, 2 * REPEATS + 2);

	/* each file has its own pages */
	for (i = 0; i < nr; i++)
		r[i] = range(i % 2 ? one : other, 5, 1);
	expect_creates(0, r, 2 * REPEATS);
	expect_creates(-EINVAL, r, 2 * REPEATS + 1);

	/* its neighbours, too, but not in the same range */
	for (i = 0; i < nr; i++)
		r[i] = range(one, i % 4, 1 + i % 2);
	expect_creates(0, r, REPEATS);
	expect_creates(-EINVAL, r, nr);

	/* each range begins a page after the one before it */
	for (i = 0; i < nr; i++)
		r[i] = range(one, i, REPEATS);
	expect_creates(0, r, nr);
	for (i = 0; i < nr; i++)
		r[i] = range(one, nr - i, REPEATS);
	expect_creates(0, r, nr);
	for (i = 0; i < nr; i++)
		r[i] = range(one, nr - i, REPEATS + 1);
	expect_creates(-EINVAL, r, nr);
	expect_creates(0, r, REPEATS);

	/* a page in the middle of all of them */
	for (i = 0; i < nr; i++)
		r[i] = range(one, 100 - i % 64, 64 + i % 64);
	expect_creates(0, r, REPEATS);
	expect_creates(-EINVAL, r, REPEATS + 1);
	free(r);
	close(one);
	close(again);
	close(other);
}

/* What is unmapped is what was punched, however often it is mapped. */
TEST_F_TIMEOUT(bounds, punch_repeated, 60)
{
	enum { BUFFERS = 12 };
	struct memfd_dmabuf_range r[REPEATS + 2];
	int memfd = sealed_memfd(4);
	char *maps[BUFFERS];
	int bufs[BUFFERS];

	for (unsigned int i = 0; i < REPEATS; i++)
		r[i] = range(memfd, 1, 1);
	r[REPEATS] = range(memfd, 3, 1);
	r[REPEATS + 1] = range(memfd, 0, 1);
	for (int b = 0; b < BUFFERS; b++) {
		bufs[b] = new_buffer(r, REPEATS + 2);
		ASSERT_LE(0, bufs[b]);
		maps[b] = map_shared(bufs[b], REPEATS + 2);
		ASSERT_NE(MAP_FAILED, maps[b]);
		for (unsigned int i = 0; i < REPEATS + 2; i++)
			POKE(maps[b] + i * PAGE, 1);
	}
	ASSERT_EQ(0, punch(memfd, 1, 1));
	for (int b = 0; b < BUFFERS; b++) {
		for (unsigned int i = 0; i < REPEATS; i++)
			EXPECT_FALSE(mapped(maps[b] + i * PAGE));
		EXPECT_TRUE(mapped(maps[b] + REPEATS * PAGE));
		EXPECT_TRUE(mapped(maps[b] + (REPEATS + 1) * PAGE));
		munmap(maps[b], (REPEATS + 2) * PAGE);
		close(bufs[b]);
	}
	close(memfd);
}

/* A consumer's access allocates nothing that is not in the run. */

FIXTURE(holes) {
	int dev;
	int fd;
	int thp;
	char dir[32];
};

FIXTURE_VARIANT(holes) {
	const char *mount;	/* huge=, or NULL for a memfd */
	const char *shmem;	/* shmem_enabled */
	bool consumer;		/* says MADV_HUGEPAGE */
	bool import;
};

FIXTURE_VARIANT_ADD(holes, tmpfs) { "huge=always", "never" };
FIXTURE_VARIANT_ADD(holes, tmpfs_advise) { "huge=advise", "never", true };
FIXTURE_VARIANT_ADD(holes, tmpfs_import)
{
	"huge=always", "never", .import = true,
};

FIXTURE_VARIANT_ADD(holes, memfd) { NULL, "always" };
FIXTURE_VARIANT_ADD(holes, memfd_advise) { NULL, "advise", true };
FIXTURE_VARIANT_ADD(holes, memfd_import) { NULL, "always", .import = true };

FIXTURE_SETUP(holes)
{
	char path[64];

	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, write_file(THP, "madvise"));
	ASSERT_EQ(0, write_file(SHMEM_THP, variant->shmem));
	snprintf(self->dir, sizeof(self->dir), "/tmp/bounds.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	if (variant->mount) {
		ASSERT_EQ(0, mount("tmpfs", self->dir, "tmpfs", 0,
				   variant->mount));
		snprintf(path, sizeof(path), "%s/ram", self->dir);
		self->fd = open(path, O_RDWR | O_CREAT, 0600);
		ASSERT_EQ(0, ftruncate(self->fd, 32 * HUGE));
	} else {
		self->fd = new_memfd(32 * HUGE_PAGES);
	}
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(holes)
{
	close(self->fd);
	close(self->dev);
	if (variant->mount) {
		EXPECT_EQ(0, umount(self->dir));
	}
	rmdir(self->dir);
	write_file(SHMEM_THP, "never");
}

/* Can the file have a huge page at all? */
#define ASSERT_HUGE(fd, page) do {					\
	char *_file = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE,	\
			   MAP_SHARED, fd, (page) * PAGE);		\
									\
	ASSERT_NE(MAP_FAILED, _file);					\
	madvise(_file, 2 * HUGE, MADV_HUGEPAGE);			\
	POKE(_file, 1);							\
	ASSERT_EQ(HUGE_PAGES, pages_of(fd));				\
	munmap(_file, 2 * HUGE);					\
	ASSERT_EQ(0, punch(fd, page, HUGE_PAGES));			\
	ASSERT_EQ(0, pages_of(fd));					\
} while (0)

/* At an address that suits huge pages. */
static char *map_huge(int buf, unsigned long pages, int prot)
{
	char *area = mmap(NULL, pages * PAGE + HUGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		return area;
	area = (char *)(((uintptr_t)area + HUGE - 1) & ~(HUGE - 1));
	return mmap(area, pages * PAGE, prot, MAP_SHARED | MAP_FIXED, buf, 0);
}

static void touch(struct __test_metadata *_metadata, int buf,
		  unsigned long pages, bool advise, bool write)
{
	char *map = map_huge(buf, pages, PROT_READ | (write ? PROT_WRITE : 0));

	ASSERT_NE(MAP_FAILED, map);
	if (advise)
		ASSERT_EQ(0, madvise(map, pages * PAGE, MADV_HUGEPAGE));
	for (unsigned long i = 0; i < pages; i++) {
		if (write)
			POKE(map + i * PAGE, 1);
		else
			PEEK(map + i * PAGE);
	}
	munmap(map, pages * PAGE);
}

static void use(struct __test_metadata *_metadata, int buf, unsigned long pages,
		bool advise, bool write, bool device)
{
	int card, handle;

	if (!device) {
		touch(_metadata, buf, pages, advise, write);
		return;
	}
	card = OPEN_CARD("vgem");
	handle = import(card, buf);
	ASSERT_LT(0, handle);
	gem_close(card, handle);
	close(card);
}

TEST_F(holes, single_pages)
{
	struct memfd_dmabuf_range r[32];
	int buf;

	ASSERT_HUGE(self->fd, 4 * HUGE_PAGES);
	for (int write = 0; write < 2; write++) {
		for (unsigned int i = 0; i < 32; i++)
			r[i] = range(self->fd, i * HUGE_PAGES +
				     (i % 2 ? i * 7 : 0), 1);
		buf = create_flags(self->dev, write || variant->import ? 0 :
				   MEMFD_DMABUF_RDONLY, r, 32);
		ASSERT_LE(0, buf);
		use(_metadata, buf, 32, variant->consumer, write,
		    variant->import);
		EXPECT_EQ(32, pages_of(self->fd));
		close(buf);
		ASSERT_EQ(0, punch(self->fd, 0, 32 * HUGE_PAGES));
	}
}

/* Of runs that begin and end anywhere, and have all of a huge page or do not. */
TEST_F(holes, pieces)
{
	static const struct {
		unsigned int first, nr;
	} runs[] = {
		{ 0, HUGE_PAGES - 1 },
		{ HUGE_PAGES + 1, HUGE_PAGES - 1 },
		{ 2 * HUGE_PAGES + 256, 2 * HUGE_PAGES },
		{ 6 * HUGE_PAGES, HUGE_PAGES },
		{ 8 * HUGE_PAGES + 16, 16 },
		{ 10 * HUGE_PAGES - 1, HUGE_PAGES + 2 },
	};
	unsigned int i, nr = 0;
	int buf;

	ASSERT_HUGE(self->fd, 4 * HUGE_PAGES);
	for (i = 0; i < 6; i++) {
		struct memfd_dmabuf_range r = range(self->fd, runs[i].first,
						    runs[i].nr);

		buf = create(self->dev, &r, 1);
		ASSERT_LE(0, buf);
		use(_metadata, buf, runs[i].nr, variant->consumer, i % 2,
		    variant->import);
		close(buf);
		nr += runs[i].nr;
		EXPECT_EQ(nr, pages_of(self->fd));
	}
}

/* More than there can be in memory is refused, and costs nothing and nobody. */
TEST_F_TIMEOUT(bounds, import_too_much, 120)
{
	/* kvmalloc() has no more than INT_MAX bytes for the pointers to them */
	unsigned long pages = INT32_MAX / sizeof(void *);
	long killed = read_key("/proc/vmstat", "oom_kill");
	int card = OPEN_CARD("vgem");
	int memfd = sealed_memfd(pages), buf;
	struct memfd_dmabuf_range r[2];
	double start;

	ASSERT_LE(0, memfd);
	ASSERT_EQ(0, write_file(PARAMETERS "size_limit_mb", "16777216"));
	r[0] = range(memfd, 0, pages);
	buf = new_buffer(r, 1);
	ASSERT_LE(0, buf);
	start = now();
	EXPECT_EQ(-ENOMEM, import(card, buf));
	EXPECT_GT(5, now() - start);
	EXPECT_EQ(0, pages_of(memfd));
	EXPECT_EQ(killed, read_key("/proc/vmstat", "oom_kill"));
	close(buf);

	/* it is not for what is repeated */
	r[0] = range(memfd, 5, 2);
	r[1] = range(memfd, 6, 2);
	buf = new_buffer(r, 2);
	ASSERT_LE(0, buf);
	EXPECT_LT(0, import(card, buf));
	EXPECT_EQ(3, pages_of(memfd));
	close(buf);
	close(memfd);
	close(card);
	EXPECT_EQ(0, write_file(PARAMETERS "size_limit_mb", "65536"));
}

/* Who waits for whom */

struct writer {
	int memfd;
	char *source;
	ssize_t ret;
};

static void *write_stuck(void *arg)
{
	struct writer *w = arg;

	w->ret = pwrite(w->memfd, w->source, PAGE, 0);
	return NULL;
}

/*
 * Somebody is in the middle of a write() to the file, which holds its i_rwsem
 * for as long as he likes: the page that he writes from is still to come.
 */
TEST_F(bounds, create_during_write)
{
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_zeropage zero = {};
	struct writer w = { sealed_memfd(8) };
	struct memfd_dmabuf_range r = range(w.memfd, 2, 3);
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC), buf;
	struct pollfd poll_fd = { .fd = uffd, .events = POLLIN };
	pthread_t thread;
	char *map;

	ASSERT_LE(0, uffd);
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_API, &api));
	w.source = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range.start = (uintptr_t)w.source;
	reg.range.len = PAGE;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, pthread_create(&thread, NULL, write_stuck, &w));
	ASSERT_EQ(1, poll(&poll_fd, 1, -1));

	buf = new_buffer(&r, 1);
	EXPECT_LE(0, buf);
	map = map_shared(buf, 3);
	EXPECT_NE(MAP_FAILED, map);
	POKE(map, 1);
	EXPECT_EQ(1, PEEK(map));
	munmap(map, 3 * PAGE);
	close(buf);

	zero.range = reg.range;
	EXPECT_EQ(0, ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
	pthread_join(thread, NULL);
	EXPECT_EQ(PAGE, w.ret);
	munmap(w.source, PAGE);
	close(uffd);
	close(w.memfd);
}

/* A file that cannot be made so large: nobody waits for what has not begun. */
TEST_F(bounds, failed_resize)
{
	char *anon = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct memfd_dmabuf_range r;
	int fd, buf[2], card;
	char path[64];

	/* such a file has no seals */
	if (variant->udmabuf)
		return;
	ASSERT_NE(MAP_FAILED, anon);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx",
		 (unsigned long)anon, (unsigned long)anon + 2 * PAGE);
	fd = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	r = range(fd, 0, 2);
	buf[0] = create_flags(self->dev, MEMFD_DMABUF_DENY_DISCARD, &r, 1);
	ASSERT_LE(0, buf[0]);
	EXPECT_EQ(-1, ftruncate(fd, 1L << 50));
	EXPECT_EQ(ENOMEM, errno);
	buf[1] = create_flags(self->dev, MEMFD_DMABUF_DENY_DISCARD, &r, 1);
	ASSERT_LE(0, buf[1]);

	card = OPEN_CARD("vgem");
	for (unsigned int i = 0; i < 2; i++) {
		EXPECT_LT(0, import(card, buf[i]));
		close(buf[i]);
	}
	close(card);
	close(fd);
	munmap(anon, 2 * PAGE);
}

/* An import that takes long, as there is much of it and each page is small. */

#define SLOW_PAGES	(16 * 1024)

/* CONFIG_DMA_API_DEBUG takes a page that a device has more often for a leak. */
#define DEBUG_REPEATS	8

struct slow {
	int buf;
	int card;
	int ret;
	bool done;
};

static void *import_slowly(void *arg)
{
	struct slow *slow = arg;

	slow->ret = import(slow->card, slow->buf);
	__atomic_store_n(&slow->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* The line of the only busy buffer, or an empty one. */
static bool somebody_is_busy(void)
{
	FILE *f = fopen(DEBUGFS, "re");
	bool busy = false;
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		busy |= !!strstr(line, "\tbusy\tbusy\t");
	if (f)
		fclose(f);
	return busy;
}

FIXTURE(slow) {
	int dev;
	int memfd;
	struct memfd_dmabuf_range *r;
	struct slow slow;
};

FIXTURE_VARIANT(slow) {
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(slow, noalloc) { MEMFD_DMABUF_NOALLOC };
FIXTURE_VARIANT_ADD(slow, deny_discard) { MEMFD_DMABUF_DENY_DISCARD };
FIXTURE_VARIANT_ADD(slow, neither) { 0 };

FIXTURE_SETUP(slow)
{
	unsigned int repeats = is_debug_kernel() ? DEBUG_REPEATS : REPEATS;
	char *file;

	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	self->memfd = new_memfd(SLOW_PAGES);
	ASSERT_LE(0, self->memfd);
	file = map_shared(self->memfd, SLOW_PAGES);
	ASSERT_NE(MAP_FAILED, file);
	for (unsigned int i = 0; i < SLOW_PAGES; i++)
		POKE(file + i * PAGE, 1);
	munmap(file, SLOW_PAGES * PAGE);
	/* all of it, as often as it may be */
	self->r = calloc(repeats, sizeof(*self->r));
	for (unsigned int i = 0; i < repeats; i++)
		self->r[i] = range(self->memfd, 0, SLOW_PAGES);
	self->slow.buf = create_flags(self->dev, variant->flags, self->r,
				      repeats);
	ASSERT_LE(0, self->slow.buf);
	self->slow.card = OPEN_CARD("vgem");
}

FIXTURE_TEARDOWN(slow)
{
	close(self->slow.card);
	close(self->slow.buf);
	close(self->memfd);
	close(self->dev);
	free(self->r);
}

/* Until somebody is busy, or has been so quickly that nobody saw it. */
static void wait_busy(struct __test_metadata *_metadata, struct slow *slow)
{
	while (!somebody_is_busy())
		ASSERT_FALSE(__atomic_load_n(&slow->done, __ATOMIC_ACQUIRE))
			TH_LOG("imported before anybody looked: %d", slow->ret);
}

/* The owner goes first: the import gives way, and begins anew. */
TEST_F_TIMEOUT(slow, punch, 300)
{
	pthread_t thread;
	int first;

	ASSERT_EQ(0, pthread_create(&thread, NULL, import_slowly, &self->slow));
	wait_busy(_metadata, &self->slow);
	EXPECT_EQ(0, punch(self->memfd, SLOW_PAGES - 1, 1));
	pthread_join(thread, NULL);
	first = self->slow.ret;
	if (variant->flags & MEMFD_DMABUF_NOALLOC) {
		/* now there is a hole */
		EXPECT_EQ(-EFAULT, first);
	} else {
		EXPECT_LT(0, first);
		gem_close(self->slow.card, first);
	}
	if (!variant->flags)
		return;

	/* truncate is no different, but that nobody fills that */
	self->slow.done = false;
	ASSERT_EQ(1, pwrite(self->memfd, "1", 1, (SLOW_PAGES - 1) * PAGE));
	ASSERT_EQ(0, pthread_create(&thread, NULL, import_slowly, &self->slow));
	wait_busy(_metadata, &self->slow);
	EXPECT_EQ(0, ftruncate(self->memfd, (SLOW_PAGES - 1) * PAGE));
	pthread_join(thread, NULL);
	EXPECT_EQ(-EFAULT, self->slow.ret);
}

/* Nobody waits for those who look on, who wait for nobody. */
TEST_F_TIMEOUT(slow, statistics, 300)
{
	struct memfd_dmabuf_range r = range(self->memfd, 0, 1);
	unsigned int seen = 0;
	pthread_t thread;
	int other, buf;

	ASSERT_EQ(0, pthread_create(&thread, NULL, import_slowly, &self->slow));
	wait_busy(_metadata, &self->slow);
	for (int i = 0; i < 20; i++) {
		other = create(self->dev, &r, 1);
		EXPECT_LE(0, other);
		close(other);
		seen += somebody_is_busy();
	}
	/* all that while it was at work */
	EXPECT_EQ(20, seen);
	/* it need not finish */
	if (variant->flags)
		EXPECT_EQ(0, ftruncate(self->memfd, 0));
	pthread_join(thread, NULL);
	buf = self->slow.ret;
	if (buf > 0)
		gem_close(self->slow.card, buf);
}

/* An owner who throws away one page of the buffer again and again. */

struct discarder {
	int memfd;
	unsigned long nr;
	bool stop;
	unsigned long rounds;
};

static void *discard(void *arg)
{
	struct discarder *d = arg;

	for (; !__atomic_load_n(&d->stop, __ATOMIC_RELAXED); d->rounds++)
		punch(d->memfd, 0, d->nr);
	return NULL;
}

FIXTURE(starved) {
	int dev;
	int memfd;
	int buf;
	int card;
};

FIXTURE_VARIANT(starved) {
	unsigned int flags;
	bool hugetlb;
};

FIXTURE_VARIANT_ADD(starved, deny_discard) { MEMFD_DMABUF_DENY_DISCARD };
FIXTURE_VARIANT_ADD(starved, hugetlb) { 0, true };
FIXTURE_VARIANT_ADD(starved, hugetlb_deny) { MEMFD_DMABUF_DENY_DISCARD, true };

FIXTURE_SETUP(starved)
{
	struct memfd_dmabuf_range r;

	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	self->card = OPEN_CARD("vgem");
	ASSERT_EQ(0, write_file(POOL, variant->hugetlb ? "8" : "0"));
	self->memfd = memfd_create("starved", MFD_CLOEXEC | (variant->hugetlb ?
							     MFD_HUGETLB : 0));
	ASSERT_LE(0, self->memfd);
	ASSERT_EQ(0, ftruncate(self->memfd, 4 * HUGE));
	r = range(self->memfd, 0, variant->hugetlb ? 4 * HUGE_PAGES : 256);
	self->buf = create_flags(self->dev, variant->flags, &r, 1);
	ASSERT_LE(0, self->buf);
}

FIXTURE_TEARDOWN(starved)
{
	close(self->buf);
	close(self->memfd);
	close(self->card);
	close(self->dev);
	write_file(POOL, "0");
}

/*
 * libdrm repeats what fails with EAGAIN without end. An import succeeds, or it
 * fails with an error.
 */
TEST_F_TIMEOUT(starved, import, 120)
{
	struct discarder d = {
		.memfd = self->memfd,
		.nr = variant->hugetlb ? HUGE_PAGES : 1,
	};
	unsigned int imported = 0;
	pthread_t thread;

	ASSERT_EQ(0, pthread_create(&thread, NULL, discard, &d));
	for (int i = 0; i < 20; i++) {
		int handle = import(self->card, self->buf);

		if (handle > 0) {
			imported++;
			EXPECT_EQ(0, gem_close(self->card, handle));
		} else {
			EXPECT_EQ(-EBUSY, handle);
		}
	}
	__atomic_store_n(&d.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	TH_LOG("imported %u of 20 times, %lu discards", imported, d.rounds);
	EXPECT_EQ(20, imported);
}

/* hugetlb: a fault in a hole while somebody changes the file */

struct populate {
	int fd;
	bool done;
};

static void *populate(void *arg)
{
	struct populate *p = arg;

	fallocate(p->fd, 0, 0, 64 * HUGE);
	__atomic_store_n(&p->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void *fault_in(void *arg)
{
	return (void *)(uintptr_t)access_sigbus(arg, false);
}

/* The longest that mapping something took while both were at work. */
TEST_F_TIMEOUT(bounds, hugetlb_fault, 120)
{
	struct memfd_dmabuf_range r;
	struct populate p = {};
	pthread_t populating, faulting;
	double start, longest = 0, took;
	void *sigbus;
	char *map, *area;
	int buf;

	if (variant->udmabuf)
		SKIP(return, "the same code");
	ASSERT_EQ(0, write_file(POOL, "70"));
	p.fd = memfd_create("bounds", MFD_CLOEXEC | MFD_HUGETLB |
			    MFD_ALLOW_SEALING);
	ASSERT_LE(0, p.fd);
	ASSERT_EQ(0, ftruncate(p.fd, 66 * HUGE));
	r = range(p.fd, 65 * HUGE_PAGES, HUGE_PAGES);
	buf = create(self->dev, &r, 1);
	ASSERT_LE(0, buf);
	map = map_shared(buf, HUGE_PAGES);
	ASSERT_NE(MAP_FAILED, map);
	catch_sigbus();

	start = now();
	ASSERT_EQ(0, pthread_create(&populating, NULL, populate, &p));
	/* it holds the lock once there is a page */
	while (!pages_of(p.fd))
		;
	ASSERT_EQ(0, pthread_create(&faulting, NULL, fault_in, map));
	for (int nr = 0; !__atomic_load_n(&p.done, __ATOMIC_ACQUIRE); nr++) {
		took = now();
		area = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
		munmap(area, PAGE);
		took = now() - took;
		if (took > longest)
			longest = took;
	}
	took = now() - start;
	pthread_join(populating, NULL);
	pthread_join(faulting, &sigbus);
	TH_LOG("%.3f s, longest wait %.3f s", took, longest);
	EXPECT_EQ(NULL, sigbus);
	EXPECT_EQ(0, PEEK(map));
	EXPECT_GT(took / 3, longest);
	munmap(map, HUGE);
	close(buf);
	close(p.fd);
	write_file(POOL, "0");
}

TEST_HARNESS_MAIN

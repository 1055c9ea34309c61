// SPDX-License-Identifier: GPL-2.0
/*
 * Everything at once: threads and processes that read, write, punch, truncate,
 * migrate, page out, fork, map and unmap the same file and its buffers. What
 * they see is checked all the time; what the kernel thinks of it is in its log.
 *
 * STORM_SECONDS says how long each storm lasts.
 */
#include "common.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <time.h>
#include "../kselftest_harness.h"

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"

#define FILE_PAGES	2048U
/* Verifiers own these pages of the file: nobody else changes their contents. */
#define OWNED		64U
/* Below this page the file is never truncated. */
#define SAFE_PAGES	1024U
#define BUF_PAGES	1024U

static unsigned int storm_seconds(void)
{
	const char *s = getenv("STORM_SECONDS");

	return s ? atoi(s) : 30;
}

static struct storm {
	int dev;
	int memfd;
	int buf;
	char *file;
	char *map;
	time_t end;
	unsigned long errors;
	unsigned long rounds[16];
} *storm;

/* Every page once, none next to its neighbour; owned ones come first. */
static unsigned int file_page(unsigned int i)
{
	return i < 2 * OWNED ? i : 2 * OWNED + (i - 2 * OWNED) * 769 %
		(FILE_PAGES - 2 * OWNED);
}

static bool more(unsigned int who)
{
	storm->rounds[who]++;	/* each actor has its own */
	/* those who never block must not keep the processors to themselves */
	sched_yield();
	return time(NULL) < storm->end;
}

static void error(const char *what, unsigned int page, uint64_t got)
{
	if (__atomic_fetch_add(&storm->errors, 1, __ATOMIC_RELAXED) < 10)
		fprintf(stderr, "# %s: page %u has %#llx\n", what, page,
			(unsigned long long)got);
}

/*
 * Whatever happens, a word of file page p is 0 or carries p: anything else is
 * another page's. -1: the page is not there.
 */
static int check_page(const char *addr, unsigned int p)
{
	for (unsigned int i = 0; i < PAGE / 8; i += 32) {
		uint64_t word;

		if (sigsetjmp(sigbus_jump, 0))
			return -1;
		word = PEEK((const uint64_t *)addr + i);
		if (word && (uint32_t)word != p + 1) {
			error("a foreign page", p, word);
			return 0;
		}
	}
	return 0;
}

/* Punch and write pages nobody else writes: each step is seen at once. */
static void verify(unsigned int who, unsigned int first, char *map)
{
	unsigned int seed = who, version = 1;

	while (more(who)) {
		unsigned int p = first + rand_r(&seed) % OWNED;
		char *addr = map + p * PAGE;
		uint64_t value = tag(1, p, version++ & 0xffff);

		switch (rand_r(&seed) % 3) {
		case 0:
			punch(storm->memfd, p, 1);
			value = 0;
			break;
		case 1:
			write_page(storm->memfd, p, value);
			break;
		case 2:
			fill_page(addr, value);
			break;
		}
		for (unsigned int i = 0; i < PAGE / 8; i++) {
			uint64_t word = PEEK((uint64_t *)addr + i);

			if (word != value) {
				error("a stale page", p, word);
				break;
			}
		}
	}
}

static void *verifier(void *arg)
{
	verify(0, 0, storm->map);
	return arg;
}

static void *reader(void *arg)
{
	unsigned int seed = 1;

	while (more(1)) {
		unsigned int i = rand_r(&seed) % BUF_PAGES;

		check_page(storm->map + i * PAGE, file_page(i));
	}
	return arg;
}

static void *writer(void *arg)
{
	unsigned int seed = 2;

	while (more(2)) {
		unsigned int i = 2 * OWNED + rand_r(&seed) %
			(BUF_PAGES - 2 * OWNED);
		uint64_t value = tag(2, file_page(i), rand_r(&seed) & 0xffff);

		if (sigsetjmp(sigbus_jump, 0))
			continue;
		fill_page(storm->map + i * PAGE, value);
	}
	return arg;
}

static void *puncher(void *arg)
{
	unsigned int seed = 3;

	while (more(3)) {
		unsigned int nr = 1 + rand_r(&seed) % 40;

		punch(storm->memfd, 2 * OWNED + rand_r(&seed) %
		      (FILE_PAGES - 2 * OWNED - nr), nr);
	}
	return arg;
}

static void *truncater(void *arg)
{
	unsigned int seed = 4;

	while (more(4)) {
		ftruncate(storm->memfd, SAFE_PAGES * PAGE + rand_r(&seed) %
			  ((FILE_PAGES - SAFE_PAGES) * PAGE));
		ftruncate(storm->memfd, FILE_PAGES * PAGE);
	}
	return arg;
}

static void *migrator(void *arg)
{
	unsigned int seed = 5;

	while (more(5)) {
		unsigned int i = rand_r(&seed);

		if (i & 1)
			move_page(storm->map + (i >> 1) % BUF_PAGES * PAGE,
				  rand_r(&seed) % 2);
		else
			move_page(storm->file + (i >> 1) % SAFE_PAGES * PAGE,
				  rand_r(&seed) % 2);
	}
	return arg;
}

static void *pager(void *arg)
{
	unsigned int seed = 6;

	while (more(6)) {
		unsigned int nr = 1 + rand_r(&seed) % 64;

		madvise(storm->map + rand_r(&seed) % (BUF_PAGES - nr) * PAGE,
			nr * PAGE, MADV_PAGEOUT);
	}
	return arg;
}

static void *forker(void *arg)
{
	unsigned int seed = 7;

	while (more(7)) {
		pid_t pid = fork();

		if (!pid) {
			for (int n = 0; n < 20; n++) {
				unsigned int i = rand_r(&seed) % BUF_PAGES;

				check_page(storm->map + i * PAGE, file_page(i));
			}
			_exit(0);
		}
		seed++;
		if (pid > 0)
			waitpid(pid, NULL, 0);
	}
	return arg;
}

/* Mappings come, move, shrink and go. */
static void *mapper(void *arg)
{
	unsigned int seed = 8;

	while (more(8)) {
		unsigned int first = rand_r(&seed) % (BUF_PAGES - 32), i;
		char *map = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE,
				 MAP_SHARED, storm->buf, first * PAGE), *new;

		if (map == MAP_FAILED) {
			error("mmap", first, errno);
			continue;
		}
		for (i = 0; i < 32; i += 3)
			check_page(map + i * PAGE, file_page(first + i));
		munmap(map + 16 * PAGE, 4 * PAGE);
		new = mremap(map, 16 * PAGE, 8 * PAGE, 0);
		if (new == MAP_FAILED)
			error("mremap", first, errno);
		for (i = 0; i < 8; i++)
			check_page(map + i * PAGE, file_page(first + i));
		munmap(map, 32 * PAGE);
	}
	return arg;
}

/* Buffers come and go: the file's notifier tree changes under everybody. */
static void *creator(void *arg)
{
	struct memfd_dmabuf_range r[64];
	unsigned int seed = 9;

	while (more(9)) {
		unsigned int page[64], i;
		char *map;
		int buf;

		for (i = 0; i < 64; i++) {
			page[i] = rand_r(&seed) % SAFE_PAGES;
			r[i] = range(storm->memfd, page[i], 1);
		}
		buf = create(storm->dev, r, 64);
		if (buf < 0) {
			error("create", 0, -buf);
			continue;
		}
		map = map_shared(buf, 64);
		close(buf);
		for (i = 0; i < 64; i++)
			check_page(map + i * PAGE, page[i]);
		munmap(map, 64 * PAGE);
	}
	return arg;
}

/* As for a debugger or a tool that lists things. */
static void *watcher(void *arg)
{
	char data[4096];

	while (more(10)) {
		int fd = open("/sys/kernel/debug/memfd_dmabuf/buffers",
			      O_RDONLY | O_CLOEXEC);

		while (read(fd, data, sizeof(data)) > 0)
			;
		close(fd);
		fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
		while (read(fd, data, sizeof(data)) > 0)
			;
		close(fd);
	}
	return arg;
}

FIXTURE(storm) {
	pid_t child;
};

FIXTURE_VARIANT(storm) {
	const char *shmem_enabled;
};

FIXTURE_VARIANT_ADD(storm, small_pages) { "never" };
FIXTURE_VARIANT_ADD(storm, huge_pages) { "always" };

FIXTURE_SETUP(storm)
{
	struct memfd_dmabuf_range r[BUF_PAGES];

	ASSERT_EQ(0, write_file(THP_DIR "shmem_enabled",
				variant->shmem_enabled));
	catch_sigbus();
	storm = mmap(NULL, sizeof(*storm), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, storm);
	storm->dev = open_device();
	ASSERT_LE(0, storm->dev);
	storm->memfd = new_memfd(FILE_PAGES);
	ASSERT_LE(0, storm->memfd);
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		r[i] = range(storm->memfd, file_page(i), 1);
	storm->buf = create(storm->dev, r, BUF_PAGES);
	ASSERT_LE(0, storm->buf);
	storm->file = map_shared(storm->memfd, FILE_PAGES);
	ASSERT_NE(MAP_FAILED, storm->file);
	storm->map = map_shared(storm->buf, BUF_PAGES);
	ASSERT_NE(MAP_FAILED, storm->map);
}

FIXTURE_TEARDOWN(storm)
{
	munmap(storm->map, BUF_PAGES * PAGE);
	munmap(storm->file, FILE_PAGES * PAGE);
	close(storm->buf);
	EXPECT_EQ(0, fcntl(storm->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	close(storm->memfd);
	close(storm->dev);
	write_file(THP_DIR "shmem_enabled", "never");
}

TEST_F_TIMEOUT(storm, everything, 3600)
{
	void *(*const what[])(void *) = {
		verifier, reader, writer, puncher, truncater, migrator, pager,
		forker, mapper, creator, watcher,
	};
	const int nr = sizeof(what) / sizeof(*what);
	pthread_t threads[16];
	int status;

	storm->end = time(NULL) + storm_seconds();
	self->child = fork();
	ASSERT_LE(0, self->child);
	if (!self->child) {
		char *own = map_shared(storm->buf, BUF_PAGES);

		munmap(storm->map, BUF_PAGES * PAGE);
		munmap(storm->file, FILE_PAGES * PAGE);
		verify(nr, OWNED, own);
		_exit(0);
	}
	for (int i = 0; i < nr; i++) {
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, what[i], NULL));
	}
	for (int i = 0; i < nr; i++)
		pthread_join(threads[i], NULL);
	ASSERT_EQ(self->child, waitpid(self->child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, storm->errors);
	for (int i = 0; i <= nr; i++) {
		TH_LOG("actor %d: %lu rounds", i, storm->rounds[i]);
		EXPECT_LT(1, storm->rounds[i]);
	}
}

/*
 * mm_take_all_locks() wants every i_mmap_rwsem of a process in address order
 * and relies on nobody else holding two. Registering an mmu notifier, as every
 * new KVM virtual machine does, calls it.
 */
static void *vm_maker(void *arg)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		error("/dev/kvm", 0, errno);
	while (kvm >= 0 && more(0)) {
		int vm = ioctl(kvm, 0xae01 /* KVM_CREATE_VM */, 0UL);

		if (vm < 0)
			error("KVM_CREATE_VM", 0, errno);
		else
			close(vm);
	}
	close(kvm);
	return arg;
}

/* Splits large folios: a punch of one page in the middle, then all of it. */
static void *splitter(void *arg)
{
	unsigned int seed = 11;

	while (more(11)) {
		unsigned int huge = rand_r(&seed) % (FILE_PAGES / 512);

		if (sigsetjmp(sigbus_jump, 0))
			continue;
		PEEK(storm->file + huge * 512 * PAGE);
		punch(storm->memfd, huge * 512 + 1 + rand_r(&seed) % 510, 1);
		punch(storm->memfd, huge * 512, 512);
	}
	return arg;
}

TEST_F_TIMEOUT(storm, mmu_notifier_registration, 3600)
{
	void *(*const what[])(void *) = {
		vm_maker, reader, pager, puncher, splitter,
	};
	const int nr = sizeof(what) / sizeof(*what);
	pthread_t threads[8];
	char *area, *low, *high;
	size_t size = FILE_PAGES * PAGE;

	/* the buffer both below and above the file */
	area = mmap(NULL, 3 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	ASSERT_NE(MAP_FAILED, area);
	low = mmap(area, BUF_PAGES * PAGE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_FIXED, storm->buf, 0);
	ASSERT_EQ(area, low);
	ASSERT_EQ(area + size, mmap(area + size, size, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_FIXED, storm->memfd, 0));
	high = mmap(area + 2 * size, BUF_PAGES * PAGE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED, storm->buf, 0);
	ASSERT_EQ(area + 2 * size, high);

	storm->end = time(NULL) + storm_seconds();
	for (int i = 0; i < nr; i++) {
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, what[i], NULL));
	}
	for (int i = 0; i < nr; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, storm->errors);
	TH_LOG("%lu virtual machines, %lu punches", storm->rounds[0],
	       storm->rounds[3]);
	EXPECT_LT(1, storm->rounds[0]);
	munmap(area, 3 * size);
}

TEST_HARNESS_MAIN

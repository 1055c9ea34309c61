// SPDX-License-Identifier: GPL-2.0
/*
 * Everything at once: threads and processes that read, write, punch, truncate,
 * migrate, page out, lock, soft offline, collapse, fork, map and unmap the same
 * file and its buffers. What they see is checked all the time; what the kernel
 * thinks of it is in its log.
 *
 * STORM_SECONDS says how long each storm lasts.
 */
#include "common.h"
#include "drm.h"

#include <poll.h>
#include <pthread.h>
#include <linux/dma-buf.h>
#include <sys/wait.h>
#include <time.h>
#include "../../../../drivers/dma-buf/memfd_dmabuf_edu.h"
#include "harness.h"

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"

#define FILE_PAGES	2048U
/* Verifiers own these pages of the file: nobody else changes their contents. */
#define OWNED		64U
/* Below this page the file is never truncated. */
#define SAFE_PAGES	1024U
#define BUF_PAGES	1024U
#define HUGE_PAGES	512U	/* pages in a huge page */
#define POOL		"24"	/* huge pages: some more than the file has */

static unsigned int storm_seconds(void)
{
	const char *s = getenv("STORM_SECONDS");

	return s ? atoi(s) : 30;
}

static struct storm {
	int dev;
	int memfd;
	int buf;
	int noalloc;	/* the same ranges, RDONLY and NOALLOC */
	bool hugetlb;
	char *file;
	char *map;
	char *noalloc_map;
	time_t end;
	unsigned long errors;
	unsigned long rounds[32];
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
	/*
	 * Those who never block must not keep the processors to themselves:
	 * whoever is handed a lock would wait for one, and all others for it.
	 */
	usleep(1000);
	/* However slow the machine: everybody does at least one thing. */
	return time(NULL) < storm->end || storm->rounds[who] < 2;
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

/* A NOALLOC buffer shows the same, or that there is a hole. */
static void check_noalloc(unsigned int p, uint64_t value)
{
	uint64_t word;

	if (sigsetjmp(sigbus_jump, 0)) {
		if (value)
			error("SIGBUS, but not at a hole", p, value);
		return;
	}
	word = PEEK((uint64_t *)(storm->noalloc_map + p * PAGE));
	if (word != value)
		error("a stale page of a NOALLOC buffer", p, word);
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
			/* hugetlbfs has no write() */
			if (storm->hugetlb)
				fill_page(storm->file + p * PAGE, value);
			else
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
		check_noalloc(p, value);
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
		/* less than that only zeroes a huge page */
		if (nr < 4)
			punch(storm->memfd, nr * HUGE_PAGES, HUGE_PAGES);
	}
	return arg;
}

static void *truncater(void *arg)
{
	unsigned int seed = 4;

	while (more(4)) {
		unsigned int size = SAFE_PAGES * PAGE + rand_r(&seed) %
			((FILE_PAGES - SAFE_PAGES) * PAGE);

		/* check_page() looks at words, so none is cut in two */
		size -= size % (storm->hugetlb ? HUGE_PAGES * PAGE : 8);
		ftruncate(storm->memfd, size);
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
		unsigned int page[64], flags, i;
		char *map;
		int buf;

		for (i = 0; i < 64; i++) {
			page[i] = rand_r(&seed) % SAFE_PAGES;
			r[i] = range(storm->memfd, page[i], 1);
		}
		flags = rand_r(&seed) & (MEMFD_DMABUF_RDONLY |
					 MEMFD_DMABUF_NOALLOC);
		buf = create_flags(storm->dev, MEMFD_DMABUF_CLOEXEC | flags, r,
				   64);
		if (buf < 0) {
			error("create", 0, -buf);
			continue;
		}
		map = mmap(NULL, 64 * PAGE, flags & MEMFD_DMABUF_RDONLY ?
			   PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, buf,
			   0);
		close(buf);
		if (map == MAP_FAILED) {
			error("mmap of a new buffer", flags, errno);
			continue;
		}
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

/* Pages that are locked can still be migrated, punched and truncated. */
static void *locker(void *arg)
{
	unsigned int seed = 12;

	while (more(11)) {
		unsigned int nr = 1 + rand_r(&seed) % 64;
		char *addr = storm->map + rand_r(&seed) % (BUF_PAGES - nr) * PAGE;

		/* fails where the file has been truncated */
		if (rand_r(&seed) & 1)
			mlock(addr, nr * PAGE);
		else if (mlock2(addr, nr * PAGE, MLOCK_ONFAULT) &&
			 !storm->hugetlb)
			error("mlock2", nr, errno);
		if (munlock(addr, nr * PAGE))
			error("munlock", nr, errno);
	}
	return arg;
}

/* Pages with corrected errors are replaced, and nobody is the wiser. */
static void *offliner(void *arg)
{
	unsigned int seed = 13;
	char text[32];

	while (more(12)) {
		unsigned int i = rand_r(&seed);
		char *addr = i & 1 ? storm->map + (i >> 1) % BUF_PAGES * PAGE :
				     storm->file + (i >> 1) % SAFE_PAGES * PAGE;
		uint64_t entry;

		if (access_sigbus(addr, false))
			continue;
		entry = pagemap_entry(addr);
		madvise(addr, PAGE, MADV_SOFT_OFFLINE);
		/* Give the page back, and what that takes from the pool. */
		if (entry & PM_PRESENT) {
			snprintf(text, sizeof(text), "%#llx",
				 (unsigned long long)PM_PFN(entry));
			write_file("/sys/kernel/debug/hwpoison/unpoison-pfn",
				   text);
		}
		if (storm->hugetlb)
			write_file("/proc/sys/vm/nr_hugepages", POOL);
		/* each one is a line in the kernel's log */
		poll(NULL, 0, 50);
	}
	return arg;
}

/* In huge_pages khugepaged does it as well. */
static void *collapser(void *arg)
{
	unsigned int seed = 14;

	while (more(13)) {
		madvise(storm->file + rand_r(&seed) % (FILE_PAGES / HUGE_PAGES) *
			HUGE_PAGES * PAGE, HUGE_PAGES * PAGE, MADV_COLLAPSE);
		/* it holds everybody else up */
		poll(NULL, 0, 200);
	}
	return arg;
}

/* Only looks, and fills no hole. */
static void *onlooker(void *arg)
{
	unsigned int seed = 15;

	while (more(14)) {
		unsigned int i = rand_r(&seed) % BUF_PAGES;

		check_page(storm->noalloc_map + i * PAGE, file_page(i));
	}
	return arg;
}

/* A thread for each, until all are done. Returns how many could be started. */
static int act(void *(*const what[])(void *), int nr, void *arg)
{
	pthread_t threads[16];
	int started = 0;

	while (started < nr && !pthread_create(&threads[started], NULL,
					       what[started], arg))
		started++;
	for (int i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	return started;
}

FIXTURE(storm) {
	pid_t child;
};

FIXTURE_VARIANT(storm) {
	const char *shmem_enabled;
	bool hugetlb;
};

FIXTURE_VARIANT_ADD(storm, small_pages) { "never", false };
FIXTURE_VARIANT_ADD(storm, huge_pages) { "always", false };
FIXTURE_VARIANT_ADD(storm, hugetlb) { "never", true };

FIXTURE_SETUP(storm)
{
	struct memfd_dmabuf_range r[BUF_PAGES];

	ASSERT_EQ(0, write_file(THP_DIR "shmem_enabled",
				variant->shmem_enabled));
	/* khugepaged seldom rests */
	ASSERT_EQ(0, write_file(THP_DIR "khugepaged/scan_sleep_millisecs",
				"500"));
	ASSERT_EQ(0, write_file("/proc/sys/vm/nr_hugepages",
				variant->hugetlb ? POOL : "0"));
	catch_sigbus();
	storm = mmap(NULL, sizeof(*storm), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, storm);
	storm->dev = open_device();
	ASSERT_LE(0, storm->dev);
	storm->hugetlb = variant->hugetlb;
	storm->memfd = memfd_create("memfd_dmabuf storm", MFD_ALLOW_SEALING |
				    MFD_CLOEXEC |
				    (storm->hugetlb ? MFD_HUGETLB : 0));
	ASSERT_LE(0, storm->memfd);
	ASSERT_EQ(0, ftruncate(storm->memfd, FILE_PAGES * PAGE));
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		r[i] = range(storm->memfd, file_page(i), 1);
	storm->buf = create(storm->dev, r, BUF_PAGES);
	ASSERT_LE(0, storm->buf);
	storm->noalloc = create_flags(storm->dev, MEMFD_DMABUF_CLOEXEC |
				      MEMFD_DMABUF_RDONLY |
				      MEMFD_DMABUF_NOALLOC, r, BUF_PAGES);
	ASSERT_LE(0, storm->noalloc);
	storm->file = map_shared(storm->memfd, FILE_PAGES);
	ASSERT_NE(MAP_FAILED, storm->file);
	if (!storm->hugetlb) {
		/* khugepaged looks after it */
		ASSERT_EQ(0, madvise(storm->file, FILE_PAGES * PAGE,
				     MADV_HUGEPAGE));
	}
	storm->map = map_shared(storm->buf, BUF_PAGES);
	ASSERT_NE(MAP_FAILED, storm->map);
	storm->noalloc_map = mmap(NULL, BUF_PAGES * PAGE, PROT_READ, MAP_SHARED,
				  storm->noalloc, 0);
	ASSERT_NE(MAP_FAILED, storm->noalloc_map);
}

FIXTURE_TEARDOWN(storm)
{
	munmap(storm->noalloc_map, BUF_PAGES * PAGE);
	munmap(storm->map, BUF_PAGES * PAGE);
	munmap(storm->file, FILE_PAGES * PAGE);
	close(storm->noalloc);
	close(storm->buf);
	EXPECT_EQ(0, fcntl(storm->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	close(storm->memfd);
	close(storm->dev);
	EXPECT_EQ(0, read_key("/proc/meminfo", "HugePages_Rsvd:"));
	write_file("/proc/sys/vm/nr_hugepages", "0");
	EXPECT_EQ(0, read_key("/proc/meminfo", "HugePages_Total:"));
	write_file(THP_DIR "khugepaged/scan_sleep_millisecs", "10000");
	write_file(THP_DIR "shmem_enabled", "never");
}

TEST_F_TIMEOUT(storm, everything, 3600)
{
	void *(*const what[])(void *) = {
		verifier, reader, writer, puncher, truncater, migrator, pager,
		forker, mapper, creator, watcher, locker, offliner, collapser,
		onlooker,
	};
	const int nr = sizeof(what) / sizeof(*what);
	int status;

	storm->end = time(NULL) + storm_seconds();
	self->child = fork();
	ASSERT_LE(0, self->child);
	if (!self->child) {
		char *own = map_shared(storm->buf, BUF_PAGES);

		munmap(storm->map, BUF_PAGES * PAGE);
		if (!storm->hugetlb)
			munmap(storm->file, FILE_PAGES * PAGE);
		verify(nr, OWNED, own);
		_exit(0);
	}
	ASSERT_EQ(nr, act(what, nr, NULL));
	ASSERT_EQ(self->child, waitpid(self->child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, storm->errors);
	for (int i = 0; i <= nr; i++) {
		TH_LOG("actor %d: %lu rounds", i, storm->rounds[i]);
		EXPECT_LT(1, storm->rounds[i]);
	}
}

static void expect_import(const char *what, int ret, int error1, int error2)
{
	/* truncated, no memory, or hugetlbfs and in the middle of a discard */
	if (ret < 0 && ret != error1 && ret != error2 && ret != -ENOMEM)
		error(what, 0, -ret);
}

/* A device that pins, and for which some buffers cannot be discarded. */
static void *importer(void *arg)
{
	struct memfd_dmabuf_range r[64];
	int card = open_card("vgem");
	unsigned int seed = 16;

	if (card < 0)
		error("no vgem", 0, 0);
	while (card >= 0 && more(16)) {
		unsigned int page, i;
		int buf, handle;

		handle = import(card, storm->buf);
		expect_import("import", handle, -EFAULT, -EBUSY);
		if (handle > 0)
			gem_close(card, handle);
		/* a static importer wants to write, too */
		handle = import(card, storm->noalloc);
		if (handle != -EACCES && handle != -ENOMEM)
			error("import of a read-only buffer", 0, handle);

		for (i = 0; i < 64; i++) {
			page = 2 * OWNED + rand_r(&seed) %
				(SAFE_PAGES - 2 * OWNED);
			r[i] = range(storm->memfd, page, 1);
		}
		buf = create_flags(storm->dev, MEMFD_DMABUF_CLOEXEC |
				   MEMFD_DMABUF_DENY_DISCARD |
				   (seed & MEMFD_DMABUF_NOALLOC), r, 64);
		if (buf < 0) {
			error("create", 0, -buf);
			continue;
		}
		handle = import(card, buf);
		expect_import("import of a DENY_DISCARD buffer", handle,
			      -EBUSY, -EFAULT);
		if (handle > 0) {
			if (storm->hugetlb)
				page -= page % HUGE_PAGES;
			if (!punch(storm->memfd, page,
				   storm->hugetlb ? HUGE_PAGES : 1) ||
			    errno != EBUSY)
				error("discard of a pinned page", page, errno);
			gem_close(card, handle);
		}
		close(buf);
	}
	close(card);
	return arg;
}

/* A device that does not pin, and is told when to look again. */
static void *dynamic_importer(void *arg)
{
	struct edu_attach attach = { storm->buf, EDU_DYNAMIC };
	int fd = open("/dev/memfd_dmabuf_edu", O_RDWR | O_CLOEXEC);
	__u32 dir = EDU_BIDIRECTIONAL;
	unsigned int seed = 17;

	if (fd < 0)
		error("/dev/memfd_dmabuf_edu", 0, errno);
	while (fd >= 0 && more(17)) {
		if (ioctl(fd, EDU_ATTACH, &attach)) {
			error("EDU_ATTACH", 0, errno);
			continue;
		}
		/* reading only: what owners have written is checked */
		if (ioctl(fd, EDU_MAP, &dir)) {
			expect_import("EDU_MAP", -errno, -EFAULT, -EBUSY);
		} else {
			for (int i = 0; i < 2; i++) {
				struct edu_copy copy = {
					.address = rand_r(&seed) % BUF_PAGES *
						   PAGE,
					.length = 64,
				};

				if (!ioctl(fd, EDU_COPY, &copy))
					continue;
				/* it has tried to map anew */
				expect_import("EDU_COPY", -errno, -EFAULT,
					      -EBUSY);
				break;
			}
			ioctl(fd, EDU_UNMAP);
		}
		ioctl(fd, EDU_DETACH);
	}
	close(fd);
	return arg;
}

static void *syncer(void *arg)
{
	while (more(18)) {
		struct dma_buf_sync start = {
			DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW
		};
		struct dma_buf_sync end = {
			DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW
		};
		struct memfd_dmabuf_info info = { .fd = storm->buf };

		if (ioctl(storm->buf, DMA_BUF_IOCTL_SYNC, &start) ||
		    ioctl(storm->buf, DMA_BUF_IOCTL_SYNC, &end))
			error("DMA_BUF_IOCTL_SYNC", 0, errno);
		if (ioctl(storm->dev, MEMFD_DMABUF_INFO, &info))
			error("MEMFD_DMABUF_INFO", 0, errno);
		if (info.stale_pages > info.pinned_pages)
			error("more stale than pinned", 0, info.stale_pages);
	}
	return arg;
}

/* The same with devices. Those that pin must not show in what the CPU sees. */
TEST_F_TIMEOUT(storm, importers, 3600)
{
	void *(*const what[])(void *) = {
		verifier, reader, writer, puncher, truncater, migrator, pager,
		creator, importer, dynamic_importer, syncer, collapser,
	};
	static const int rounds[] = {
		0, 1, 2, 3, 4, 5, 6, 9, 16, 17, 18, 13,
	};
	const int nr = sizeof(what) / sizeof(*what);

	storm->end = time(NULL) + storm_seconds();
	ASSERT_EQ(nr, act(what, nr, NULL));
	EXPECT_EQ(0, storm->errors);
	for (int i = 0; i < nr; i++) {
		TH_LOG("actor %d: %lu rounds", rounds[i],
		       storm->rounds[rounds[i]]);
		EXPECT_LT(1, storm->rounds[rounds[i]]);
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
		unsigned int first = rand_r(&seed) % (FILE_PAGES / HUGE_PAGES) *
			HUGE_PAGES;

		if (sigsetjmp(sigbus_jump, 0))
			continue;
		PEEK(storm->file + first * PAGE);
		punch(storm->memfd, first + 1 + rand_r(&seed) % 510, 1);
		punch(storm->memfd, first, HUGE_PAGES);
	}
	return arg;
}

TEST_F_TIMEOUT(storm, mmu_notifier_registration, 3600)
{
	void *(*const what[])(void *) = {
		vm_maker, reader, pager, puncher, splitter,
	};
	const int nr = sizeof(what) / sizeof(*what);
	char *area, *low, *high;
	size_t size = FILE_PAGES * PAGE, huge = HUGE_PAGES * PAGE;

	/* the buffer both below and above the file */
	area = mmap(NULL, 3 * size + huge, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, area);
	area += -(uintptr_t)area % huge;
	low = mmap(area, BUF_PAGES * PAGE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_FIXED, storm->buf, 0);
	ASSERT_EQ(area, low);
	ASSERT_EQ(area + size, mmap(area + size, size, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_FIXED, storm->memfd, 0));
	high = mmap(area + 2 * size, BUF_PAGES * PAGE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED, storm->buf, 0);
	ASSERT_EQ(area + 2 * size, high);

	storm->end = time(NULL) + storm_seconds();
	ASSERT_EQ(nr, act(what, nr, NULL));
	EXPECT_EQ(0, storm->errors);
	TH_LOG("%lu virtual machines, %lu punches", storm->rounds[0],
	       storm->rounds[3]);
	EXPECT_LT(1, storm->rounds[0]);
	munmap(area, 3 * size);
}

/*
 * The only buffer of a file comes and goes, or comes to nothing, while all of
 * the file is thrown away: who looks for subscribers finds the last one leaving.
 */
static void *first_and_last(void *arg)
{
	const int *fds = arg;
	struct memfd_dmabuf_range r[] = {
		range(fds[1], 0, 8), range(fds[1], 16, 8),
	};

	for (unsigned int i = 0; i % 64 || more(0); i++) {
		int buf;

		r[1].reserved = i % 2;
		buf = create(fds[0], r, 2);
		if (buf >= 0)
			close(buf);
		/* or it is being truncated */
		else if (buf != -EINVAL)
			error("create", 0, -buf);
	}
	return NULL;
}

static void *emptier(void *arg)
{
	const int *fds = arg;

	for (unsigned int i = 0; i % 64 || more(1); i++) {
		if (ftruncate(fds[1], 0) || ftruncate(fds[1], 32 * PAGE))
			error("ftruncate", 0, errno);
	}
	return NULL;
}

TEST_F_TIMEOUT(storm, first_and_last, 3600)
{
	void *(*const what[])(void *) = {
		first_and_last, emptier, first_and_last, emptier,
	};
	int fds[2] = { storm->dev, new_memfd(32) };

	ASSERT_LE(0, fds[1]);
	storm->end = time(NULL) + (storm_seconds() + 3) / 4;
	ASSERT_EQ(4, act(what, 4, fds));
	EXPECT_EQ(0, storm->errors);
	EXPECT_LT(1, storm->rounds[0]);
	EXPECT_LT(1, storm->rounds[1]);
	close(fds[1]);
}

TEST_HARNESS_MAIN

/* SPDX-License-Identifier: GPL-2.0 */
/* What all memfd_dmabuf tests need. */
#ifndef MEMFD_DMABUF_COMMON_H
#define MEMFD_DMABUF_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/memfd.h>
#include <linux/memfd_dmabuf.h>
#include <linux/mempolicy.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define PAGE 4096UL

#define PM_PFN(e)	((e) & (PM_SOFT_DIRTY - 1))
#define PM_SOFT_DIRTY	0x0080000000000000ULL
#define PM_PRESENT	0x8000000000000000ULL

/* An access that the compiler does not leave out, or do twice. */
#define PEEK(p)		__atomic_load_n(p, __ATOMIC_RELAXED)
#define POKE(p, value)	__atomic_store_n(p, value, __ATOMIC_RELAXED)

static inline int open_device(void)
{
	return open("/dev/memfd_dmabuf", O_RDWR | O_CLOEXEC);
}

/* Returns the dma-buf, or -errno. */
static inline int create_flags(int dev, unsigned int flags,
			       struct memfd_dmabuf_range *ranges,
			       unsigned int count)
{
	struct memfd_dmabuf_create create = {
		.flags = flags,
		.count = count,
		.ranges = (uintptr_t)ranges,
	};
	int fd = ioctl(dev, MEMFD_DMABUF_CREATE, &create);

	return fd < 0 ? -errno : fd;
}

static inline int create(int dev, struct memfd_dmabuf_range *ranges,
			 unsigned int count)
{
	return create_flags(dev, MEMFD_DMABUF_CLOEXEC, ranges, count);
}

static inline struct memfd_dmabuf_range range(int fd, unsigned long page,
					      unsigned long nr)
{
	return (struct memfd_dmabuf_range) {
		.fd = fd,
		.offset = page * PAGE,
		.size = nr * PAGE,
	};
}

static inline int new_memfd(unsigned long pages)
{
	int fd = memfd_create("memfd_dmabuf test",
			      MFD_ALLOW_SEALING | MFD_CLOEXEC);

	if (fd >= 0 && ftruncate(fd, pages * PAGE)) {
		close(fd);
		return -1;
	}
	return fd;
}

static inline char *map_shared(int fd, unsigned long pages)
{
	return mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    0);
}

static inline int punch(int fd, unsigned long page, unsigned long nr)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 page * PAGE, nr * PAGE);
}

/* A page whose every word says which page of which file it is, and when. */
static inline uint64_t tag(unsigned int file, unsigned int page,
			   unsigned int version)
{
	return (uint64_t)file << 48 | (uint64_t)version << 32 | (page + 1);
}

static inline void fill_page(void *addr, uint64_t value)
{
	uint64_t *words = addr;

	for (unsigned int i = 0; i < PAGE / 8; i++)
		POKE(&words[i], value);
}

static inline bool page_is(const void *addr, uint64_t value)
{
	const uint64_t *words = addr;

	for (unsigned int i = 0; i < PAGE / 8; i++)
		if (PEEK(&words[i]) != value)
			return false;
	return true;
}

/* Write a page without mapping the file. */
static inline bool write_page(int fd, unsigned int page, uint64_t value)
{
	uint64_t data[PAGE / 8];

	fill_page(data, value);
	return pwrite(fd, data, PAGE, page * PAGE) == PAGE;
}

static __thread sigjmp_buf sigbus_jump;
static __thread void *sigbus_addr;

static inline void sigbus_handler(int sig, siginfo_t *info, void *context)
{
	sigbus_addr = info->si_addr;
	siglongjmp(sigbus_jump, 1);
}

static inline void catch_sigbus(void)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	sigaction(SIGBUS, &sa, NULL);
}

/* Does reading (or writing) this byte give SIGBUS, at this address? */
static inline bool access_sigbus(char *addr, bool write)
{
	sigbus_addr = NULL;
	if (sigsetjmp(sigbus_jump, 0))
		return sigbus_addr == addr;
	if (write)
		POKE(addr, 1);
	else
		PEEK(addr);
	return false;
}

static inline uint64_t pagemap_entry(const void *addr)
{
	static int fd = -1;
	static pid_t pid;
	uint64_t entry = 0;

	/* a child that came from fork() has a descriptor for its parent's */
	if (pid != getpid()) {
		if (fd >= 0)
			close(fd);
		fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
		pid = getpid();
	}
	if (pread(fd, &entry, 8, (uintptr_t)addr / PAGE * 8) != 8)
		return 0;
	return entry;
}

static inline bool mapped(const void *addr)
{
	return pagemap_entry(addr) & PM_PRESENT;
}

static inline int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, text, strlen(text));
	if (n < 0)
		n = -errno;
	close(fd);
	return n < 0 ? n : 0;
}

/* Change a setting, and put what it was into @old[64]: the only word, or that in []. */
static inline bool choose(const char *path, const char *word, char *old)
{
	FILE *f = fopen(path, "re");
	bool chosen = false;
	char seen[64];

	if (!f)
		return false;
	while (!chosen && fscanf(f, "%63s", seen) == 1) {
		chosen = *seen == '[';
		snprintf(old, sizeof(seen), "%s", seen + chosen);
	}
	fclose(f);
	*strchrnul(old, ']') = 0;
	return !write_file(path, word);
}

/* The number behind @key in a file of lines "key number", or -1. */
static inline long read_key(const char *path, const char *key)
{
	char name[128];
	long value, found = -1;
	FILE *f = fopen(path, "re");

	if (!f)
		return -1;
	while (found < 0 && fscanf(f, "%127s %ld%*[^\n]", name, &value) == 2)
		if (!strcmp(name, key))
			found = value;
	fclose(f);
	return found;
}

/* Put pages that some processor still has in a batch onto the lists of reclaim. */
static inline void drain_lru(void)
{
	write_file("/proc/sys/vm/drop_caches", "1");
}

/*
 * Have the cgroup in folder @dir reclaim, as its memory.reclaim does. Reclaim
 * leaves active pages alone while it believes there are inactive ones, and what
 * it believes is up to two seconds old, unless somebody asks for statistics.
 */
static inline void reclaim_cgroup(const char *dir, const char *how)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/cpu.stat", dir);
	read_key(path, "");
	snprintf(path, sizeof(path), "%s/memory.reclaim", dir);
	write_file(path, how);
}

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* EAGAIN is for pages that somebody else has a hand on just now. */
static inline int collapse(void *addr, size_t size)
{
	int ret;

	for (int i = 0; i < 1000; i++) {
		ret = madvise(addr, size, MADV_COLLAPSE);
		if (!ret || errno != EAGAIN)
			break;
	}
	return ret;
}

/* Pages pinned with FOLL_PIN right now, in the whole system. */
static inline long pinned_pages(void)
{
	long acquired, released;

	/* add up what each processor has counted */
	if (write_file("/proc/sys/vm/stat_refresh", "1"))
		return -1;
	acquired = read_key("/proc/vmstat", "nr_foll_pin_acquired");
	released = read_key("/proc/vmstat", "nr_foll_pin_released");
	return acquired < 0 || released < 0 ? -1 : acquired - released;
}

/* Pages of the file that are in memory, not in swap. */
static inline long resident(int fd, unsigned long pages)
{
	unsigned char *vec = calloc(pages, 1);
	char *map = mmap(NULL, pages * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	long nr = -1;

	if (vec && map != MAP_FAILED && !mincore(map, pages * PAGE, vec)) {
		nr = 0;
		for (unsigned long i = 0; i < pages; i++)
			nr += vec[i] & 1;
	}
	if (map != MAP_FAILED)
		munmap(map, pages * PAGE);
	free(vec);
	return nr;
}

/* Move a page of this process to a node, or with -1 ask where it is. */
static inline int move_page(void *addr, int node)
{
	int status = -1;

	if (syscall(SYS_move_pages, 0, 1UL, &addr, node < 0 ? NULL : &node,
		    &status, node < 0 ? 0 : MPOL_MF_MOVE_ALL) < 0)
		return -errno;
	return status;
}

#endif /* MEMFD_DMABUF_COMMON_H */

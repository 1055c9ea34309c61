// SPDX-License-Identifier: GPL-2.0
/*
 * udmabuf_calls SEED COUNT: make calls of /dev/udmabuf, good and bad, and print
 * what comes of them. The same arguments give the same calls: kernels can be
 * compared.
 *
 * Left out, as memfd_dmabuf means to differ there (see udmabuf_test.c): files
 * that are not open for both reading and writing; the end of a CPU access that
 * has not begun.
 */
#include "udmabuf.h"

#include <err.h>
#include <linux/dma-buf.h>
#include <sys/socket.h>

#define HUGE		(2UL << 20)
#define FILE_PAGES	32
#define ITEMS		1100
#define CALLS_PER_WORLD	50

enum file {
	SEALED, SEALED_TOO, ODD_SIZE, GROW, EMPTY, HUGETLB,
	UNSEALED, UNSEALABLE, NO_WRITE, NO_FUTURE_WRITE, HUGETLB_UNSEALED,
	TMPFS, OTHER, FOLDER, PIPE, SOCKET, DEVICE, DMABUF,
	PATH, CLOSED, FILES
};

static int fds[FILES];
static int device;
static uint64_t state;

/* Knuth's MMIX generator: its higher bits are good enough. */
static uint32_t below(uint32_t limit)
{
	state = state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (state >> 33) % limit;
}

static bool chance(uint32_t percent)
{
	return below(100) < percent;
}

#define ONE_OF(array) ((array)[below(sizeof(array) / sizeof(*(array)))])

static int sealed_memfd(unsigned int flags, unsigned long size, int seals)
{
	int fd = memfd_create("udmabuf_calls", MFD_CLOEXEC | flags);
	unsigned long step = flags & MFD_HUGETLB ? HUGE : PAGE;
	char *addr;

	if (fd < 0 || ftruncate(fd, size))
		err(1, "memfd");
	for (unsigned long at = 0; at < size; at += step) {
		/* some holes */
		if (step == PAGE && at / PAGE % 5 == 4)
			continue;
		addr = mmap(NULL, step, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			    at);
		if (addr == MAP_FAILED)
			err(1, "mmap of a file");
		for (unsigned long p = 0; p < step; p += PAGE)
			fill_page(addr + p, tag(fd, (at + p) / PAGE, 1));
		munmap(addr, step);
	}
	if (seals && fcntl(fd, F_ADD_SEALS, seals))
		err(1, "F_ADD_SEALS");
	return fd;
}

static void make_world(void)
{
	const unsigned long size = FILE_PAGES * PAGE;
	struct memfd_dmabuf_range r;
	int pair[2];

	fds[SEALED] = sealed_memfd(MFD_ALLOW_SEALING, size, F_SEAL_SHRINK);
	fds[SEALED_TOO] = sealed_memfd(MFD_ALLOW_SEALING, size, F_SEAL_SHRINK);
	fds[ODD_SIZE] = sealed_memfd(MFD_ALLOW_SEALING, size - 100,
				     F_SEAL_SHRINK);
	fds[GROW] = sealed_memfd(MFD_ALLOW_SEALING, size,
				 F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	fds[EMPTY] = sealed_memfd(MFD_ALLOW_SEALING, 0, F_SEAL_SHRINK);
	fds[HUGETLB] = sealed_memfd(MFD_ALLOW_SEALING | MFD_HUGETLB, 2 * HUGE,
				    F_SEAL_SHRINK);
	fds[UNSEALED] = sealed_memfd(MFD_ALLOW_SEALING, size, 0);
	fds[UNSEALABLE] = sealed_memfd(0, size, 0);
	fds[NO_WRITE] = sealed_memfd(MFD_ALLOW_SEALING, size,
				     F_SEAL_SHRINK | F_SEAL_WRITE);
	fds[NO_FUTURE_WRITE] = sealed_memfd(MFD_ALLOW_SEALING, size,
					    F_SEAL_SHRINK |
					    F_SEAL_FUTURE_WRITE);
	fds[HUGETLB_UNSEALED] = sealed_memfd(MFD_ALLOW_SEALING | MFD_HUGETLB,
					     HUGE, 0);
	fds[TMPFS] = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (ftruncate(fds[TMPFS], size))
		err(1, "file in /dev/shm");
	fds[OTHER] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	fds[FOLDER] = open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (pipe2(pair, O_CLOEXEC))
		err(1, "pipe");
	fds[PIPE] = pair[0];
	close(pair[1]);
	fds[SOCKET] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fds[DEVICE] = dup(device);
	fds[PATH] = open("/dev/shm", O_PATH | O_CLOEXEC);
	r = range(fds[SEALED], 0, 1);
	fds[DMABUF] = create_udmabuf(&r, 1);
	for (enum file f = 0; f < CLOSED; f++)
		if (fds[f] < 0)
			errx(1, "file %d", f);
	fds[CLOSED] = dup(device);
	close(fds[CLOSED]);
}

static void end_world(void)
{
	for (enum file f = 0; f < CLOSED; f++)
		close(fds[f]);
}

static void set(const char *name, int value)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), UDMABUF_PARAMETERS "%s", name);
	f = fopen(path, "we");
	if (!f || fprintf(f, "%d\n", value) < 0 || fclose(f))
		err(1, "%s", path);
}

static int get(const char *name)
{
	char path[128];
	int value;
	FILE *f;

	snprintf(path, sizeof(path), UDMABUF_PARAMETERS "%s", name);
	f = fopen(path, "re");
	if (!f || fscanf(f, "%d", &value) != 1)
		err(1, "%s", path);
	fclose(f);
	return value;
}

static int some_file(unsigned int bad)
{
	if (chance(bad))
		return chance(10) ? (below(2) ? -1 : 1 << 30) :
				    fds[below(FILES)];
	return fds[below(HUGETLB + 1)];
}

static struct udmabuf_create_item some_item(unsigned int bad)
{
	static const uint64_t odd[] = {
		1, PAGE / 2, PAGE - 1, PAGE + 1, 1ULL << 31, 1ULL << 32,
		1ULL << 62, 1ULL << 63, -PAGE, -1ULL, (1ULL << 63) - PAGE,
	};
	struct udmabuf_create_item item = {
		.memfd = some_file(bad),
		.offset = below(FILE_PAGES) * PAGE,
	};

	item.size = (1 + below(FILE_PAGES - item.offset / PAGE)) * PAGE;
	if ((int)item.memfd == fds[HUGETLB] && chance(50))
		item.offset += below(2) * HUGE;
	if (chance(bad))
		item.offset = chance(50) ? ONE_OF(odd) : below(2048) * PAGE;
	if (chance(bad))
		item.size = chance(50) ? ONE_OF(odd) : below(512) * PAGE;
	/* which is ignored */
	item.__pad = chance(20) ? ~0u : 0;
	return item;
}

static uint64_t checksum(const char *addr, unsigned long pages)
{
	uint64_t sum = 0;

	for (unsigned long i = 0; i < pages; i++)
		sum = sum * 31 + *(const uint64_t *)(addr + i * PAGE) +
		      *(const uint64_t *)(addr + i * PAGE + PAGE - 8);
	return sum;
}

#define TRY(name, call) do {						\
	errno = 0;							\
	printf(" %s %ld/%d", name, (long)(call), errno);		\
} while (0)

#define TRY_MAP(name, size, prot, flags, offset) do {			\
	void *at = mmap(NULL, size, prot, flags, buf, offset);		\
									\
	printf(" %s %d", name, at == MAP_FAILED ? errno : 0);		\
	if (at != MAP_FAILED)						\
		munmap(at, size);					\
} while (0)

/* What can be done with it, and what not. */
static void use(int buf)
{
	off_t size = lseek(buf, 0, SEEK_END);
	struct dma_buf_sync sync = {};
	char *addr, word[8] = "";

	printf(" size %ld flags %x %x", (long)size, fcntl(buf, F_GETFD),
	       fcntl(buf, F_GETFL));
	TRY("seek", lseek(buf, PAGE, SEEK_SET));
	TRY("read", read(buf, word, sizeof(word)));
	TRY("write", write(buf, word, sizeof(word)));
	TRY("truncate", ftruncate(buf, 0));
	TRY("seals", fcntl(buf, F_GET_SEALS));
	TRY_MAP("private", size, PROT_READ, MAP_PRIVATE, 0);
	TRY_MAP("beyond", size, PROT_READ, MAP_SHARED, PAGE);
	TRY_MAP("larger", size + PAGE, PROT_READ, MAP_SHARED, 0);
	TRY_MAP("last", PAGE, PROT_READ, MAP_SHARED, size - PAGE);

	sync.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW;
	TRY("start", ioctl(buf, DMA_BUF_IOCTL_SYNC, &sync));
	sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW;
	TRY("end", ioctl(buf, DMA_BUF_IOCTL_SYNC, &sync));
	sync.flags = below(256);
	if (sync.flags & ~DMA_BUF_SYNC_VALID_FLAGS_MASK || !(sync.flags & 3))
		TRY("bad sync", ioctl(buf, DMA_BUF_IOCTL_SYNC, &sync));

	addr = map_shared(buf, size / PAGE);
	if (addr == MAP_FAILED) {
		printf(" map %d", errno);
		return;
	}
	printf(" sum %lx", (unsigned long)checksum(addr, size / PAGE));
	/* seen by the next buffer that has the page */
	(*(uint64_t *)(addr + below(size / PAGE) * PAGE))++;
	munmap(addr, size);
	/* waits for pins to go */
	if (chance(2))
		TRY("seal", fcntl(fds[SEALED_TOO], F_ADD_SEALS, F_SEAL_WRITE));
}

static void call(unsigned int nr, unsigned int bad)
{
	static const unsigned int counts[] = { 0, 1023, 1024, 1025, ITEMS };
	static struct {
		struct udmabuf_create_list head;
		struct udmabuf_create_item items[ITEMS];
	} list;
	static const unsigned int commands[] = {
		_IOW('u', 0x41, struct udmabuf_create),
		_IOW('u', 0x44, struct udmabuf_create_list),
		_IOR('u', 0x42, struct udmabuf_create), 0, -1u,
	};
	uint32_t flags = chance(70) ? below(2) : below(1u << 31) << 1;
	struct udmabuf_create_item item;
	struct udmabuf_create one;
	char *hole;
	int buf;

	errno = 0;
	if (chance(30)) {
		item = some_item(bad);
		one = (struct udmabuf_create) {
			item.memfd, flags, item.offset, item.size,
		};
		buf = ioctl(device, UDMABUF_CREATE, &one);
	} else if (!chance(bad)) {
		list.head.flags = flags;
		list.head.count = chance(10) ? ONE_OF(counts) : 1 + below(6);
		for (unsigned int i = 0; i < list.head.count; i++) {
			list.items[i] = some_item(bad);
			/* or else most of these are too large */
			if (list.head.count > 6)
				list.items[i].size = PAGE;
		}
		buf = ioctl(device, UDMABUF_CREATE_LIST, &list);
	} else if (chance(50)) {
		/* one whose end cannot be read */
		hole = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		munmap(hole + PAGE, PAGE);
		list.head.count = below(4);
		hole += PAGE - below(5) * 8;
		memcpy(hole - 32, &list.head, 8);
		buf = ioctl(device, chance(70) ? UDMABUF_CREATE_LIST :
						 UDMABUF_CREATE,
			    chance(80) ? hole - 32 : NULL);
		munmap((void *)((uintptr_t)(hole - 32) & -PAGE), PAGE);
	} else {
		buf = ioctl(device, ONE_OF(commands), &list);
	}
	printf("%u: %d", nr, buf < 0 ? -errno : 0);
	if (buf >= 0) {
		use(buf);
		close(buf);
	}
	printf("\n");
}

int main(int argc, char **argv)
{
	static const int list_limits[] = { 1024, 1024, 1024, 3, 0, -1 };
	static const int size_limits[] = { 64, 64, 64, 1, 0, 4095 };
	unsigned int count;
	int list_limit, size_limit_mb;

	if (argc != 3)
		errx(2, "usage: udmabuf_calls SEED COUNT");
	state = strtoull(argv[1], NULL, 0);
	count = strtoul(argv[2], NULL, 0);
	device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (device < 0)
		err(1, "/dev/udmabuf");
	list_limit = get("list_limit");
	size_limit_mb = get("size_limit_mb");

	for (unsigned int i = 0; i < count; i++) {
		if (i % CALLS_PER_WORLD == 0) {
			if (i)
				end_world();
			set("list_limit", 1024);
			set("size_limit_mb", 64);
			make_world();
			set("list_limit", ONE_OF(list_limits));
			set("size_limit_mb", ONE_OF(size_limits));
		}
		/* wholly right ones, others with a mistake or many */
		call(i, below(3) * 12);
	}
	end_world();
	set("list_limit", list_limit);
	set("size_limit_mb", size_limit_mb);
	return 0;
}

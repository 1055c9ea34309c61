// SPDX-License-Identifier: GPL-2.0
/*
 * What a CPU sees through the mapping of a buffer is what the file has, whatever
 * happens to the file, and without anybody telling the buffer.
 */
#include "common.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "harness.h"

#define FILE_PAGES	64
#define BUF_PAGES	24

/* The buffer's page i is the file's page file_page(i): scattered, no two adjacent. */
static unsigned int file_page(unsigned int i)
{
	return i * 37 % 61 + 1;
}

FIXTURE(map) {
	int dev;
	int memfd;
	int buf;
	char *file;	/* mapping of the memfd */
	char *map;	/* mapping of the buffer */
};

FIXTURE_VARIANT(map) {
	bool in_order;
};

FIXTURE_VARIANT_ADD(map, scattered) { .in_order = false };
FIXTURE_VARIANT_ADD(map, one_run) { .in_order = true };

#define page_of(i) (variant->in_order ? (i) + 3 : file_page(i))
#define in_file(i) (self->file + page_of(i) * PAGE)
#define in_map(i) (self->map + (i) * PAGE)

FIXTURE_SETUP(map)
{
	struct memfd_dmabuf_range r[BUF_PAGES];

	catch_sigbus();
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
	self->memfd = new_memfd(FILE_PAGES);
	ASSERT_LE(0, self->memfd);
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		r[i] = range(self->memfd, page_of(i), 1);
	self->buf = create(self->dev, r, BUF_PAGES);
	ASSERT_LE(0, self->buf);
	self->file = map_shared(self->memfd, FILE_PAGES);
	ASSERT_NE(MAP_FAILED, self->file);
	self->map = map_shared(self->buf, BUF_PAGES);
	ASSERT_NE(MAP_FAILED, self->map);
}

FIXTURE_TEARDOWN(map)
{
	if (self->map)
		munmap(self->map, BUF_PAGES * PAGE);
	munmap(self->file, FILE_PAGES * PAGE);
	close(self->buf);
	/* nothing of it is left */
	EXPECT_EQ(0, fcntl(self->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	close(self->memfd);
	close(self->dev);
}

/* Fill the file's pages with a version and see it through the buffer. */
#define fill_file(version) do {						\
	for (unsigned int _p = 0; _p < FILE_PAGES; _p++) {				\
		ASSERT_TRUE(write_page(self->memfd, _p,			\
				       tag(1, _p, version)));		\
	}	\
} while (0)

#define expect_map(m, version) do {					\
	for (unsigned int _i = 0; _i < BUF_PAGES; _i++) {				\
		EXPECT_TRUE(page_is((m) + _i * PAGE,			\
				    tag(1, page_of(_i), version)))	\
			TH_LOG("page %u is stale", _i);			\
	}	\
} while (0)

#define expect_mapped(want) do {					\
	unsigned int _n = 0;						\
	for (unsigned int _i = 0; _i < BUF_PAGES; _i++)			\
		_n += mapped(in_map(_i));				\
	EXPECT_EQ((want), _n);						\
} while (0)

/* Without swap reclaim proves nothing; scripts/vm-tests sets zram up. */
static void need_swap(struct __test_metadata *_metadata)
{
	char line[256];
	int lines = 0;
	FILE *f = fopen("/proc/swaps", "r");

	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f))
		lines++;
	fclose(f);
	ASSERT_LT(1, lines) TH_LOG("this test needs swap space");
}

TEST_F(map, both_ways)
{
	fill_file(1);
	expect_map(self->map, 1);
	/* through the file's mapping */
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		fill_page(in_file(i), tag(1, page_of(i), 2));
	expect_map(self->map, 2);
	/* through the buffer */
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		fill_page(in_map(i), tag(1, page_of(i), 3));
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(page_is(in_file(i), tag(1, page_of(i), 3)));
	}
}

/* A first access that writes, to a hole: the page becomes the file's. */
TEST_F(map, write_to_hole)
{
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		fill_page(in_map(i), tag(1, page_of(i), 1));
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		uint64_t data[PAGE / 8];

		ASSERT_EQ(PAGE, pread(self->memfd, data, PAGE,
				      page_of(i) * PAGE));
		EXPECT_TRUE(page_is(data, tag(1, page_of(i), 1)));
	}
	/* and no other page has come to be */
	EXPECT_EQ(BUF_PAGES, resident(self->memfd, FILE_PAGES));
}

/*
 * A read fault maps the pages around it too, those that are there; and only those
 * of the buffer.
 */
TEST_F(map, fault_around)
{
	const size_t len = BUF_PAGES * PAGE, table = 2UL << 20;
	char *room = mmap(NULL, 2 * table, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	/* in one page table */
	ASSERT_NE(MAP_FAILED, room);
	self->map = mremap(self->map, len, len, MREMAP_MAYMOVE | MREMAP_FIXED,
			   (uintptr_t)(room + table - 1) & -table);
	ASSERT_NE(MAP_FAILED, self->map);
	fill_file(1);
	ASSERT_EQ(0, punch(self->memfd, page_of(20), 1));
	EXPECT_EQ(1, in_map(0)[0] != 0);
	expect_mapped(BUF_PAGES - 1);
	EXPECT_EQ(FILE_PAGES - 1, resident(self->memfd, FILE_PAGES));
	fill_page(in_file(20), tag(1, page_of(20), 1));
	expect_map(self->map, 1);
}

TEST_F(map, hole_punch)
{
	fill_file(1);
	expect_map(self->map, 1);
	expect_mapped(BUF_PAGES);
	ASSERT_EQ(0, punch(self->memfd, 0, FILE_PAGES));
	expect_mapped(0);
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(page_is(in_map(i), 0));
	}
	fill_file(2);
	expect_map(self->map, 2);
	/* one page: its neighbours stay mapped */
	ASSERT_EQ(0, punch(self->memfd, page_of(5), 1));
	expect_mapped(BUF_PAGES - 1);
	EXPECT_FALSE(mapped(in_map(5)));
	fill_page(in_file(5), tag(1, page_of(5), 2));
	expect_map(self->map, 2);
}

TEST_F(map, madv_remove)
{
	fill_file(1);
	expect_map(self->map, 1);
	ASSERT_EQ(0, madvise(self->file, FILE_PAGES * PAGE, MADV_REMOVE));
	expect_mapped(0);
	fill_file(2);
	expect_map(self->map, 2);
}

TEST_F(map, truncate_and_regrow)
{
	fill_file(1);
	expect_map(self->map, 1);
	ASSERT_EQ(0, ftruncate(self->memfd, 20 * PAGE + 8));
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		if (page_of(i) > 20) {
			EXPECT_FALSE(mapped(in_map(i)));
			EXPECT_TRUE(access_sigbus(in_map(i), false));
			EXPECT_TRUE(access_sigbus(in_map(i) + 9, true));
		} else if (page_of(i) < 20) {
			EXPECT_TRUE(page_is(in_map(i), tag(1, page_of(i), 1)));
		}
	}
	ASSERT_EQ(0, ftruncate(self->memfd, 0));
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(access_sigbus(in_map(i), i % 2));
	}
	ASSERT_EQ(0, ftruncate(self->memfd, FILE_PAGES * PAGE));
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(page_is(in_map(i), 0));
	}
	fill_file(2);
	expect_map(self->map, 2);
}

/* Reclaim takes mapped pages to swap, also dirty ones, and nothing is lost. */
TEST_F(map, swap_out)
{
	long left = FILE_PAGES;

	need_swap(_metadata);
	/* only the buffer maps them: MADV_PAGEOUT leaves shared pages alone */
	fill_file(1);
	expect_map(self->map, 1);
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		fill_page(in_map(i), tag(1, page_of(i), 2));
	expect_mapped(BUF_PAGES);
	/* again: a page on its way to the LRU of another processor is left out */
	for (int i = 0; i < 50 && left > FILE_PAGES - BUF_PAGES; i++) {
		ASSERT_EQ(0, madvise(self->map, BUF_PAGES * PAGE,
				     MADV_PAGEOUT));
		left = resident(self->memfd, FILE_PAGES);
	}
	expect_mapped(0);
	EXPECT_EQ(FILE_PAGES - BUF_PAGES, resident(self->memfd, FILE_PAGES));
	expect_map(self->map, 2);
	EXPECT_EQ(FILE_PAGES, resident(self->memfd, FILE_PAGES));
}

/* So does the reclaim of a memory cgroup, of pages mapped on both sides. */
TEST_F(map, memcg_reclaim)
{
	const char *dir = "/sys/fs/cgroup/memfd_dmabuf.test";
	char path[128], text[32];
	long left = FILE_PAGES;

	need_swap(_metadata);
	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	ASSERT_TRUE(!mkdir(dir, 0755) || errno == EEXIST);
	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	snprintf(text, sizeof(text), "%d", getpid());
	ASSERT_EQ(0, write_file(path, text));

	fill_file(1);
	expect_map(self->map, 1);
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(page_is(in_file(i), tag(1, page_of(i), 1)));
	}
	for (int i = 0; i < 50 && left; i++) {
		reclaim_cgroup(dir, "1M swappiness=200");
		left = resident(self->memfd, FILE_PAGES);
	}
	EXPECT_EQ(0, left);
	expect_mapped(0);
	expect_map(self->map, 1);

	ASSERT_EQ(0, write_file("/sys/fs/cgroup/cgroup.procs", text));
	EXPECT_EQ(0, rmdir(dir));
}

/* Pages migrate, asked for at either mapping, and take their contents along. */
TEST_F(map, move_pages)
{
	ASSERT_EQ(0, access("/sys/devices/system/node/node1", F_OK))
		TH_LOG("this test needs two NUMA nodes");
	fill_file(1);
	expect_map(self->map, 1);
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		int from = move_page(in_map(i), -1);
		char *addr = i % 2 ? in_map(i) : in_file(i);

		ASSERT_LE(0, from);
		PEEK(addr);
		EXPECT_EQ(!from, move_page(addr, !from));
		/* as every mapping of the file */
		EXPECT_TRUE(mapped(in_map(i)));
		EXPECT_TRUE(page_is(in_map(i), tag(1, page_of(i), 1)));
		EXPECT_EQ(!from, move_page(in_map(i), -1));
	}
}

TEST_F(map, fork)
{
	int to_child[2], to_parent[2], status;
	char c;
	pid_t pid;

	ASSERT_EQ(0, pipe(to_child));
	ASSERT_EQ(0, pipe(to_parent));
	fill_file(1);
	expect_map(self->map, 1);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		expect_map(self->map, 1);
		(void)!write(to_parent[1], "1", 1);
		(void)!read(to_child[0], &c, 1);
		/* the parent has punched and filled again */
		expect_mapped(0);
		expect_map(self->map, 2);
		for (unsigned int i = 0; i < BUF_PAGES; i++)
			fill_page(in_map(i), tag(1, page_of(i), 3));
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(1, read(to_parent[0], &c, 1));
	ASSERT_EQ(0, punch(self->memfd, 0, FILE_PAGES));
	fill_file(2);
	ASSERT_EQ(1, write(to_child[1], "2", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	expect_map(self->map, 3);
}

TEST_F(map, partial_munmap)
{
	fill_file(1);
	expect_map(self->map, 1);
	ASSERT_EQ(0, munmap(in_map(8), 8 * PAGE));
	ASSERT_EQ(0, punch(self->memfd, 0, FILE_PAGES));
	fill_file(2);
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		if (i < 8 || i >= 16) {
			EXPECT_TRUE(page_is(in_map(i), tag(1, page_of(i), 2)));
		}
	}
	ASSERT_EQ(in_map(8), mmap(in_map(8), 8 * PAGE, PROT_READ,
				  MAP_SHARED | MAP_FIXED, self->buf, 8 * PAGE));
	expect_map(self->map, 2);
}

/* A mapping of a part of the buffer, from the middle. */
TEST_F(map, offset)
{
	char *part = mmap(NULL, 8 * PAGE, PROT_READ, MAP_SHARED, self->buf,
			  16 * PAGE);

	ASSERT_NE(MAP_FAILED, part);
	fill_file(1);
	for (unsigned int i = 0; i < 8; i++) {
		EXPECT_TRUE(page_is(part + i * PAGE, tag(1, page_of(i + 16), 1)));
	}
	ASSERT_EQ(0, punch(self->memfd, 0, FILE_PAGES));
	fill_file(2);
	for (unsigned int i = 0; i < 8; i++) {
		EXPECT_TRUE(page_is(part + i * PAGE, tag(1, page_of(i + 16), 2)));
	}
	munmap(part, 8 * PAGE);
}

TEST_F(map, mremap)
{
	char *new;

	fill_file(1);
	expect_map(self->map, 1);
	/* past the end of the buffer it shows nothing, as a file's would */
	new = mremap(self->map, BUF_PAGES * PAGE, (BUF_PAGES + 2) * PAGE,
		     MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, new);
	self->map = new;
	expect_map(self->map, 1);
	for (unsigned int i = BUF_PAGES; i < BUF_PAGES + 2; i++) {
		EXPECT_TRUE(access_sigbus(in_map(i), false));
		EXPECT_TRUE(access_sigbus(in_map(i) + 9, true));
	}
	new = mremap(self->map, 0, (BUF_PAGES + 1) * PAGE, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, new);
	expect_map(new, 1);
	EXPECT_TRUE(access_sigbus(new + BUF_PAGES * PAGE, false));
	EXPECT_TRUE(access_sigbus(new + BUF_PAGES * PAGE, true));
	ASSERT_EQ(0, munmap(new, (BUF_PAGES + 1) * PAGE));
	ASSERT_EQ(self->map, mremap(self->map, (BUF_PAGES + 2) * PAGE,
				    BUF_PAGES * PAGE, 0));
	/* shrunk and moved */
	new = mmap(NULL, BUF_PAGES * PAGE, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, new);
	ASSERT_EQ(new, mremap(self->map, BUF_PAGES * PAGE, BUF_PAGES * PAGE,
			      MREMAP_MAYMOVE | MREMAP_FIXED, new));
	self->map = new;
	expect_mapped(BUF_PAGES);
	expect_map(self->map, 1);
	ASSERT_EQ(0, punch(self->memfd, 0, FILE_PAGES));
	expect_mapped(0);
	fill_file(2);
	expect_map(self->map, 2);
	ASSERT_EQ(new, mremap(new, BUF_PAGES * PAGE, PAGE, 0));
	EXPECT_TRUE(page_is(new, tag(1, page_of(0), 2)));
}

TEST_F(map, mprotect)
{
	fill_file(1);
	expect_map(self->map, 1);
	ASSERT_EQ(0, mprotect(self->map, BUF_PAGES * PAGE, PROT_READ));
	expect_map(self->map, 1);
	fill_file(2);
	expect_map(self->map, 2);
	ASSERT_EQ(0, mprotect(self->map, BUF_PAGES * PAGE,
			      PROT_READ | PROT_WRITE));
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		fill_page(in_map(i), tag(1, page_of(i), 3));
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(page_is(in_file(i), tag(1, page_of(i), 3)));
	}
	ASSERT_EQ(0, mprotect(self->map, BUF_PAGES * PAGE, PROT_NONE));
	ASSERT_EQ(0, punch(self->memfd, 0, FILE_PAGES));
	fill_file(4);
	ASSERT_EQ(0, mprotect(self->map, BUF_PAGES * PAGE, PROT_READ));
	expect_map(self->map, 4);
}

/* Direct I/O and friends find ordinary pages. */
TEST_F(map, get_user_pages)
{
	struct iovec local, remote;
	uint64_t data[PAGE / 8];

	fill_file(1);
	local = (struct iovec){ data, PAGE };
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		remote = (struct iovec){ in_map(i), PAGE };
		ASSERT_EQ(PAGE, process_vm_readv(getpid(), &local, 1, &remote,
						 1, 0));
		EXPECT_TRUE(page_is(data, tag(1, page_of(i), 1)));
		fill_page(data, tag(1, page_of(i), 2));
		ASSERT_EQ(PAGE, process_vm_writev(getpid(), &local, 1, &remote,
						  1, 0));
	}
	expect_map(self->map, 2);
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(page_is(in_file(i), tag(1, page_of(i), 2)));
	}
}

/* Two mappings in this process, one more in another: all follow. */
TEST_F(map, several_mappings)
{
	char *second = map_shared(self->buf, BUF_PAGES);
	int to_child[2], to_parent[2], status;
	pid_t pid;
	char c;

	ASSERT_NE(MAP_FAILED, second);
	ASSERT_EQ(0, pipe(to_child));
	ASSERT_EQ(0, pipe(to_parent));
	fill_file(1);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		/* its own mmap, not the inherited one */
		char *own = map_shared(self->buf, BUF_PAGES);

		munmap(self->map, BUF_PAGES * PAGE);
		munmap(second, BUF_PAGES * PAGE);
		expect_map(own, 1);
		(void)!write(to_parent[1], "1", 1);
		(void)!read(to_child[0], &c, 1);
		expect_map(own, 2);
		_exit(_metadata->exit_code);
	}
	expect_map(self->map, 1);
	expect_map(second, 1);
	ASSERT_EQ(1, read(to_parent[0], &c, 1));
	ASSERT_EQ(0, punch(self->memfd, 0, FILE_PAGES));
	fill_file(2);
	expect_map(self->map, 2);
	expect_map(second, 2);
	ASSERT_EQ(1, write(to_child[1], "2", 1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	munmap(second, BUF_PAGES * PAGE);
}

/* Two buffers that share pages of a file. */
TEST_F(map, two_buffers)
{
	struct memfd_dmabuf_range r = range(self->memfd, 0, FILE_PAGES);
	int all = create(self->dev, &r, 1);
	char *map;

	ASSERT_LE(0, all);
	map = map_shared(all, FILE_PAGES);
	ASSERT_NE(MAP_FAILED, map);
	fill_file(1);
	expect_map(self->map, 1);
	for (unsigned int p = 0; p < FILE_PAGES; p++) {
		EXPECT_TRUE(page_is(map + p * PAGE, tag(1, p, 1)));
	}
	ASSERT_EQ(0, punch(self->memfd, 0, FILE_PAGES));
	fill_file(2);
	for (unsigned int p = 0; p < FILE_PAGES; p++) {
		EXPECT_TRUE(page_is(map + p * PAGE, tag(1, p, 2)));
	}
	expect_map(self->map, 2);
	munmap(map, FILE_PAGES * PAGE);
	close(all);
	/* one buffer gone, the other still follows */
	ASSERT_EQ(0, punch(self->memfd, 0, FILE_PAGES));
	fill_file(3);
	expect_map(self->map, 3);
}

FIXTURE(files) {
	int dev;
};

FIXTURE_SETUP(files)
{
	catch_sigbus();
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
}

FIXTURE_TEARDOWN(files)
{
	close(self->dev);
}

/* Pages of several files in turns; each file is truncated on its own. */
TEST_F(files, several)
{
	enum { FILES = 3, NR = 4 };
	struct memfd_dmabuf_range r[FILES * NR];
	int fd[FILES], buf;
	char *map;

	for (int f = 0; f < FILES; f++) {
		fd[f] = new_memfd(NR);
		for (int p = 0; p < NR; p++) {
			ASSERT_TRUE(write_page(fd[f], p, tag(f, p, 1)));
		}
	}
	for (int i = 0; i < FILES * NR; i++)
		r[i] = range(fd[i % FILES], NR - 1 - i / FILES, 1);
	buf = create(self->dev, r, FILES * NR);
	ASSERT_LE(0, buf);
	map = map_shared(buf, FILES * NR);
	ASSERT_NE(MAP_FAILED, map);
	for (int gone = 0; gone <= FILES; gone++) {
		for (int i = 0; i < FILES * NR; i++) {
			int f = i % FILES, p = NR - 1 - i / FILES;
			char *addr = map + i * PAGE;

			if (f < gone) {
				EXPECT_TRUE(access_sigbus(addr, false));
			} else {
				EXPECT_TRUE(page_is(addr, tag(f, p, 1)));
			}
		}
		if (gone < FILES) {
			ASSERT_EQ(0, ftruncate(fd[gone], 0));
		}
	}
	munmap(map, FILES * NR * PAGE);
	close(buf);
	for (int f = 0; f < FILES; f++)
		close(fd[f]);
}

/* The same page twice, and ranges that overlap, are one memory. */
TEST_F(files, same_page_twice)
{
	int fd = new_memfd(4);
	struct memfd_dmabuf_range r[] = {
		range(fd, 1, 1), range(fd, 1, 1), range(fd, 0, 3),
	};
	int buf = create(self->dev, r, 3);
	char *map;

	ASSERT_LE(0, buf);
	map = map_shared(buf, 5);
	ASSERT_NE(MAP_FAILED, map);
	fill_page(map, 11);
	EXPECT_TRUE(page_is(map + PAGE, 11));
	EXPECT_TRUE(page_is(map + 3 * PAGE, 11));
	fill_page(map + 3 * PAGE, 12);
	EXPECT_TRUE(page_is(map, 12));
	EXPECT_TRUE(page_is(map + PAGE, 12));
	ASSERT_EQ(0, punch(fd, 1, 1));
	EXPECT_FALSE(mapped(map));
	EXPECT_FALSE(mapped(map + PAGE));
	EXPECT_FALSE(mapped(map + 3 * PAGE));
	EXPECT_TRUE(page_is(map, 0));
	munmap(map, 5 * PAGE);
	close(buf);
	close(fd);
}

static int send_fd(int sock, int fd)
{
	char c = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &c, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
	return sendmsg(sock, &msg, 0) == 1 ? 0 : -1;
}

static int receive_fd(int sock)
{
	char c, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &c, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	int fd = -1;

	if (recvmsg(sock, &msg, 0) == 1 && CMSG_FIRSTHDR(&msg))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	return fd;
}

/* The creator and all its descriptors are gone; the buffer lives on. */
TEST_F(files, outlives_creator)
{
	int sock[2], buf, status;
	pid_t pid;
	char *map;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = new_memfd(4);
		struct memfd_dmabuf_range r[] = {
			range(fd, 3, 1), range(fd, 0, 1),
		};

		write_page(fd, 3, 33);
		write_page(fd, 0, 30);
		buf = create(self->dev, r, 2);
		_exit(buf < 0 || send_fd(sock[1], buf));
	}
	buf = receive_fd(sock[0]);
	ASSERT_LE(0, buf);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	map = map_shared(buf, 2);
	ASSERT_NE(MAP_FAILED, map);
	close(buf);
	EXPECT_TRUE(page_is(map, 33));
	EXPECT_TRUE(page_is(map + PAGE, 30));
	fill_page(map, 34);
	EXPECT_TRUE(page_is(map, 34));
	munmap(map, 2 * PAGE);
}

/* A tmpfs that is full: SIGBUS, as for a mapping of the file, and no harm. */
TEST_F(files, no_space)
{
	struct memfd_dmabuf_range r;
	char dir[] = "/tmp/memfd_dmabuf.XXXXXX", path[64];
	int fd, buf, nr = 0;
	char *map;

	ASSERT_NE(NULL, mkdtemp(dir));
	snprintf(path, sizeof(path), "mount -t tmpfs -o size=16k tmpfs %s", dir);
	ASSERT_EQ(0, system(path));
	snprintf(path, sizeof(path), "%s/ram", dir);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 8 * PAGE));
	r = range(fd, 0, 8);
	buf = create(self->dev, &r, 1);
	ASSERT_LE(0, buf);
	map = map_shared(buf, 8);
	ASSERT_NE(MAP_FAILED, map);
	for (int i = 0; i < 8; i++)
		nr += !access_sigbus(map + i * PAGE, true);
	EXPECT_EQ(4, nr);
	ASSERT_EQ(0, punch(fd, 0, 1));
	EXPECT_FALSE(access_sigbus(map + 7 * PAGE, true));
	munmap(map, 8 * PAGE);
	close(buf);
	close(fd);
	snprintf(path, sizeof(path), "umount %s", dir);
	EXPECT_EQ(0, system(path));
	rmdir(dir);
}

TEST_HARNESS_MAIN

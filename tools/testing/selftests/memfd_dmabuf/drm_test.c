// SPDX-License-Identifier: GPL-2.0
/*
 * DRM devices as importers: vgem, which holds a buffer from import until its
 * handle is closed, and vkms, which really reads and writes it: a picture in a
 * memfd is scanned out and written back, and compared with what was drawn.
 * Both are static importers. Fences, and a comparison with udmabuf.
 */
#include "common.h"
#include "drm.h"
#include "udmabuf.h"

#include <poll.h>
#include <pthread.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <drm/drm_fourcc.h>
#include <drm/drm_mode.h>
#include <drm/vgem_drm.h>
#include <linux/dma-buf.h>
#include <linux/sync_file.h>
#include "harness.h"

/* The buffer has some pages of the file, out of order, and not the last ones. */
#define FILE_PAGES	48
#define USED_PAGES	40
#define BUF_PAGES	32

/* As a picture: its rows are a quarter of a page. */
#define WIDTH		256
#define HEIGHT		128
#define PITCH		(WIDTH * 4)
#define PAGE_PIXELS	(PAGE / 4)

#define BUFFERS		"/sys/kernel/debug/memfd_dmabuf/buffers"
#define SW_SYNC		"/sys/kernel/debug/sync/sw_sync"

/* What takes this long does not happen. */
#define LONG_MS		20000

static unsigned int page_of(unsigned int i)
{
	return (i * 7 + 5) % USED_PAGES;
}

/* A memfd, and buffer of it. */
struct ram {
	int dev;
	int memfd;
	int buf;
	char *file;
	char *map;
};

static char *in_file(const struct ram *ram, unsigned int i)
{
	return ram->file + page_of(i) * PAGE;
}

static char *in_map(const struct ram *ram, unsigned int i)
{
	return ram->map + i * PAGE;
}

static bool in_buffer(unsigned int page)
{
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		if (page_of(i) == page)
			return true;
	return false;
}

static int create_scattered(int dev, unsigned int flags, int memfd)
{
	struct memfd_dmabuf_range r[BUF_PAGES];

	for (unsigned int i = 0; i < BUF_PAGES; i++)
		r[i] = range(memfd, page_of(i), 1);
	return create_flags(dev, MEMFD_DMABUF_CLOEXEC | flags, r, BUF_PAGES);
}

static void new_ram(struct __test_metadata *_metadata, struct ram *ram,
		    unsigned int flags)
{
	int prot = flags & MEMFD_DMABUF_RDONLY ? PROT_READ :
						 PROT_READ | PROT_WRITE;

	ram->dev = open_device();
	ASSERT_LE(0, ram->dev);
	ram->memfd = new_memfd(FILE_PAGES);
	ASSERT_LE(0, ram->memfd);
	ram->file = map_shared(ram->memfd, FILE_PAGES);
	ASSERT_NE(MAP_FAILED, ram->file);
	ram->buf = create_scattered(ram->dev, flags, ram->memfd);
	ASSERT_LE(0, ram->buf);
	ram->map = mmap(NULL, BUF_PAGES * PAGE, prot, MAP_SHARED, ram->buf, 0);
	ASSERT_NE(MAP_FAILED, ram->map);
}

/* Whatever has been done: the file is its owner's alone, to the last page. */
static void end_ram(struct __test_metadata *_metadata, struct ram *ram)
{
	munmap(ram->map, BUF_PAGES * PAGE);
	munmap(ram->file, FILE_PAGES * PAGE);
	close(ram->buf);
	EXPECT_EQ(0, fcntl(ram->memfd, F_ADD_SEALS, F_SEAL_WRITE));
	close(ram->memfd);
	close(ram->dev);
}

static struct memfd_dmabuf_info info(struct __test_metadata *_metadata,
				     const struct ram *ram)
{
	struct memfd_dmabuf_info info = { .fd = ram->buf };

	ASSERT_EQ(0, ioctl(ram->dev, MEMFD_DMABUF_INFO, &info));
	return info;
}

static void fill_file(const struct ram *ram, unsigned int version)
{
	for (unsigned int p = 0; p < FILE_PAGES; p++)
		fill_page(ram->file + p * PAGE, tag(1, p, version));
}

static bool map_is(const char *map, unsigned int version)
{
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		if (!page_is(map + i * PAGE, tag(1, page_of(i), version)))
			return false;
	return true;
}

static long live_buffers(void)
{
	FILE *f = fopen(BUFFERS, "re");
	long lines = 0;
	int c;

	if (!f)
		return -1;
	while ((c = getc(f)) != EOF)
		lines += c == '\n';
	fclose(f);
	return lines - 1;
}

static bool same_dmabuf(int one, int two)
{
	struct stat a, b;

	return !fstat(one, &a) && !fstat(two, &b) && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* DRM */

static int export(int card, int handle)
{
	struct drm_prime_handle prime = {
		.handle = handle,
		.flags = DRM_CLOEXEC | DRM_RDWR,
	};

	if (ioctl(card, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime))
		return -errno;
	return prime.fd;
}

static struct drm_mode_create_dumb create_dumb(int card)
{
	struct drm_mode_create_dumb dumb = {
		.width = WIDTH, .height = HEIGHT, .bpp = 32,
	};

	if (ioctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &dumb))
		dumb.handle = 0;
	return dumb;
}

/* Returns the offset for mmap(), or -errno. */
static long map_dumb(int card, int handle)
{
	struct drm_mode_map_dumb arg = { .handle = handle };

	return ioctl(card, DRM_IOCTL_MODE_MAP_DUMB, &arg) ? -errno :
							    (long)arg.offset;
}

/* vgem */

FIXTURE(vgem) {
	struct ram ram;
	int card;
	long pins;
};

FIXTURE_SETUP(vgem)
{
	catch_sigbus();
	self->pins = pinned_pages();
	ASSERT_LE(0, self->pins);
	self->card = OPEN_CARD("vgem");
	new_ram(_metadata, &self->ram, 0);
}

FIXTURE_TEARDOWN(vgem)
{
	close(self->card);
	end_ram(_metadata, &self->ram);
	EXPECT_EQ(self->pins, pinned_pages());
	EXPECT_EQ(0, live_buffers());
}

#define EXPECT_PINNED(nr) do {						\
	EXPECT_EQ((nr), info(_metadata, &self->ram).pinned_pages);	\
	EXPECT_EQ(self->pins + (nr), pinned_pages());			\
} while (0)

#define EXPECT_STALE(nr) \
	EXPECT_EQ((nr), info(_metadata, &self->ram).stale_pages)

TEST_F(vgem, import)
{
	int handle, fd;
	char *map;

	/* of a file without any pages */
	EXPECT_PINNED(0);
	ASSERT_EQ(0, resident(self->ram.memfd, FILE_PAGES));
	handle = import(self->card, self->ram.buf);
	ASSERT_LT(0, handle);
	EXPECT_PINNED(BUF_PAGES);
	EXPECT_STALE(0);
	EXPECT_EQ(BUF_PAGES, resident(self->ram.memfd, FILE_PAGES));

	/* the bytes are everybody's */
	fill_file(&self->ram, 1);
	EXPECT_TRUE(map_is(self->ram.map, 1));

	/* again: the same handle, and no more is pinned */
	EXPECT_EQ(handle, import(self->card, self->ram.buf));
	EXPECT_PINNED(BUF_PAGES);

	/* out again: the same dma-buf */
	fd = export(self->card, handle);
	ASSERT_LE(0, fd);
	EXPECT_TRUE(same_dmabuf(fd, self->ram.buf));
	EXPECT_EQ(handle, import(self->card, fd));
	map = map_shared(fd, BUF_PAGES);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_TRUE(map_is(map, 1));
	fill_page(map, 7);
	EXPECT_TRUE(page_is(in_file(&self->ram, 0), 7));
	munmap(map, BUF_PAGES * PAGE);
	close(fd);

	EXPECT_EQ(0, gem_close(self->card, handle));
	EXPECT_PINNED(0);
	EXPECT_EQ(-EINVAL, gem_close(self->card, handle));
	EXPECT_TRUE(page_is(in_map(&self->ram, 0), 7));
}

/* Two clients of a device, one of which does not close anything. */
TEST_F(vgem, import_twice)
{
	int second = OPEN_CARD("vgem");
	int handle = import(self->card, self->ram.buf);

	ASSERT_LT(0, handle);
	ASSERT_LT(0, import(second, self->ram.buf));
	EXPECT_PINNED(2 * BUF_PAGES);
	EXPECT_EQ(0, gem_close(self->card, handle));
	EXPECT_PINNED(BUF_PAGES);
	close(second);
	EXPECT_PINNED(0);
}

/* Two devices; only one of them has what has been discarded in between. */
TEST_F(vgem, import_elsewhere)
{
	int second = OPEN_CARD("vkms");
	int handle = import(self->card, self->ram.buf);

	ASSERT_LT(0, handle);
	ASSERT_EQ(0, punch(self->ram.memfd, page_of(0), 1));
	ASSERT_LT(0, import(second, self->ram.buf));
	EXPECT_PINNED(2 * BUF_PAGES);
	EXPECT_STALE(1);
	ASSERT_EQ(0, punch(self->ram.memfd, page_of(0), 1));
	EXPECT_STALE(2);
	EXPECT_EQ(0, gem_close(self->card, handle));
	EXPECT_STALE(1);
	EXPECT_PINNED(BUF_PAGES);
	close(second);
	EXPECT_PINNED(0);
}

TEST_F(vgem, many_times)
{
	fill_file(&self->ram, 1);
	for (int i = 0; i < 100; i++) {
		int handle = import(self->card, self->ram.buf);

		ASSERT_LT(0, handle);
		ASSERT_EQ(0, gem_close(self->card, handle));
	}
	EXPECT_PINNED(0);
	EXPECT_TRUE(map_is(self->ram.map, 1));
}

/* Pages that are in the buffer several times, and runs of several pages. */
TEST_F(vgem, same_page_twice)
{
	struct memfd_dmabuf_range r[] = {
		range(self->ram.memfd, 1, 1), range(self->ram.memfd, 1, 1),
		range(self->ram.memfd, 0, 8), range(self->ram.memfd, 40, 8),
	};
	int buf = create(self->ram.dev, r, 4), handle;

	ASSERT_LE(0, buf);
	fill_file(&self->ram, 1);
	handle = import(self->card, buf);
	ASSERT_LT(0, handle);
	EXPECT_EQ(self->pins + 18, pinned_pages());
	EXPECT_EQ(0, gem_close(self->card, handle));
	EXPECT_EQ(self->pins, pinned_pages());
	close(buf);
}

/*
 * DRM does not tell where an imported object can be mapped, but that does not
 * keep anybody from mapping it: the place is that of an object just freed.
 */
TEST_F(vgem, mmap_imported)
{
	struct drm_mode_create_dumb dumb = create_dumb(self->card);
	long offset, ret;
	int handle;
	char *map;

	ASSERT_NE(0, dumb.handle);
	ASSERT_EQ(BUF_PAGES * PAGE, dumb.size);
	offset = map_dumb(self->card, dumb.handle);
	ASSERT_LT(0, offset);
	ASSERT_EQ(0, gem_close(self->card, dumb.handle));

	handle = import(self->card, self->ram.buf);
	ASSERT_LT(0, handle);
	ret = map_dumb(self->card, handle);
	if (ret >= 0)
		offset = ret;
	else
		TH_LOG("vgem: DRM_IOCTL_MODE_MAP_DUMB of it: %s",
		       strerror(-ret));
	map = mmap(NULL, BUF_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		   self->card, offset);
	ASSERT_NE(MAP_FAILED, map);

	fill_file(&self->ram, 1);
	EXPECT_TRUE(map_is(map, 1));
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		fill_page(map + i * PAGE, tag(1, page_of(i), 2));
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_TRUE(page_is(in_file(&self->ram, i),
				    tag(1, page_of(i), 2)));
	}

	/* it is a mapping of the buffer, and follows */
	ASSERT_EQ(0, punch(self->ram.memfd, 0, FILE_PAGES));
	EXPECT_FALSE(mapped(map));
	EXPECT_TRUE(page_is(map, 0));
	fill_file(&self->ram, 3);
	EXPECT_TRUE(map_is(map, 3));

	/* and not of the object, and so does not pin */
	EXPECT_EQ(0, gem_close(self->card, handle));
	EXPECT_PINNED(0);
	EXPECT_TRUE(map_is(map, 3));
	munmap(map, BUF_PAGES * PAGE);
}

/* What can be closed, in all orders. */
enum { CLOSE_HANDLE, CLOSE_CARD, CLOSE_BUF, CLOSE_MEMFD, CLOSE_MAP, CLOSES };

static void close_all(struct __test_metadata *_metadata, const int *order,
		      bool last)
{
	bool handle_lives = true, map_lives = true, buf_lives = true;
	long pins = pinned_pages();
	int keep = -1, handle;
	struct ram ram;
	int card;

	card = OPEN_CARD("vgem");
	new_ram(_metadata, &ram, 0);
	munmap(ram.file, FILE_PAGES * PAGE);
	handle = import(card, ram.buf);
	ASSERT_LT(0, handle);
	fill_page(ram.map, 1);
	if (!last)
		keep = dup(ram.memfd);

	for (int i = 0; i < CLOSES; i++) {
		bool alive;

		switch (order[i]) {
		case CLOSE_HANDLE:
			/* the card's file may have taken it along */
			if (handle_lives) {
				ASSERT_EQ(0, gem_close(card, handle));
			}
			handle_lives = false;
			break;
		case CLOSE_CARD:
			close(card);
			handle_lives = false;
			break;
		case CLOSE_BUF:
			close(ram.buf);
			buf_lives = false;
			break;
		case CLOSE_MEMFD:
			close(ram.memfd);
			break;
		case CLOSE_MAP:
			munmap(ram.map, BUF_PAGES * PAGE);
			map_lives = false;
			break;
		}
		ASSERT_EQ(pins + (handle_lives ? BUF_PAGES : 0), pinned_pages());
		alive = buf_lives || map_lives || handle_lives;
		ASSERT_EQ(alive, live_buffers());
		if (map_lives) {
			ASSERT_TRUE(page_is(ram.map, 1));
		}
		if (last)
			continue;
		/* this also waits for references to pages to go */
		if (alive) {
			ASSERT_EQ(-1, fcntl(keep, F_ADD_SEALS, F_SEAL_WRITE));
			ASSERT_EQ(EBUSY, errno);
		} else {
			ASSERT_EQ(0, fcntl(keep, F_ADD_SEALS, F_SEAL_WRITE));
		}
	}
	close(ram.dev);
	close(keep);
}

FIXTURE(closing) {
	long pins;
};

FIXTURE_SETUP(closing)
{
	self->pins = pinned_pages();
	ASSERT_LE(0, self->pins);
	ASSERT_EQ(0, live_buffers());
}

FIXTURE_TEARDOWN(closing)
{
	EXPECT_EQ(self->pins, pinned_pages());
	EXPECT_EQ(0, live_buffers());
}

TEST_F_TIMEOUT(closing, in_any_order, 120)
{
	int permutations = 0;

	/* numbers of CLOSES digits, all of them different */
	for (int n = 0; n < CLOSES * CLOSES * CLOSES * CLOSES * CLOSES; n++) {
		int order[CLOSES], seen = 0;

		for (int i = 0, rest = n; i < CLOSES; i++, rest /= CLOSES) {
			order[i] = rest % CLOSES;
			seen |= 1 << order[i];
		}
		if (seen != (1 << CLOSES) - 1)
			continue;
		close_all(_metadata, order, false);
		close_all(_metadata, order, true);
		permutations++;
	}
	EXPECT_EQ(120, permutations);
}

/* Nobody closes anything. */
TEST_F(closing, by_exit)
{
	int status;
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		int card = open_card("vgem");
		struct ram ram;

		new_ram(_metadata, &ram, 0);
		fill_file(&ram, 1);
		EXPECT_LT(0, import(card, ram.buf));
		EXPECT_EQ(self->pins + BUF_PAGES, pinned_pages());
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

/* Devices may write, whatever they are going to do. */
TEST_F(closing, rdonly)
{
	int vgem = OPEN_CARD("vgem"), vkms = OPEN_CARD("vkms");
	struct ram ram;

	new_ram(_metadata, &ram, MEMFD_DMABUF_RDONLY);
	fill_file(&ram, 1);
	EXPECT_EQ(-EACCES, import(vgem, ram.buf));
	EXPECT_EQ(-EACCES, import(vkms, ram.buf));
	EXPECT_EQ(self->pins, pinned_pages());
	EXPECT_EQ(0, info(_metadata, &ram).pinned_pages);
	EXPECT_TRUE(map_is(ram.map, 1));
	end_ram(_metadata, &ram);
	close(vgem);
	close(vkms);
}

/* A buffer that cannot be imported: nothing of it stays pinned. */
TEST_F(vgem, import_truncated)
{
	int handle;

	fill_file(&self->ram, 1);
	ASSERT_EQ(0, ftruncate(self->ram.memfd, page_of(BUF_PAGES / 2) * PAGE));
	handle = import(self->card, self->ram.buf);
	EXPECT_GT(0, handle);
	TH_LOG("import of pages past the end: %s", strerror(-handle));
	EXPECT_PINNED(0);
	ASSERT_EQ(0, ftruncate(self->ram.memfd, FILE_PAGES * PAGE));
	fill_file(&self->ram, 2);
	handle = import(self->card, self->ram.buf);
	EXPECT_LT(0, handle);
	EXPECT_PINNED(BUF_PAGES);
	EXPECT_TRUE(map_is(self->ram.map, 2));
}

/* As with mmap(): what is there may go on writing, nobody new may begin. */
TEST_F(vgem, import_sealed)
{
	int handle = import(self->card, self->ram.buf), other, card;

	ASSERT_LT(0, handle);
	ASSERT_EQ(0, fcntl(self->ram.memfd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
	EXPECT_EQ(handle, import(self->card, self->ram.buf));
	card = OPEN_CARD("vgem");
	other = import(card, self->ram.buf);
	EXPECT_EQ(-EPERM, other);
	close(card);
	EXPECT_EQ(0, gem_close(self->card, handle));
	EXPECT_EQ(-EPERM, import(self->card, self->ram.buf));
	EXPECT_PINNED(0);
}

TEST_F(vgem, import_holes)
{
	int buf = create_scattered(self->ram.dev, MEMFD_DMABUF_NOALLOC,
				   self->ram.memfd);
	int handle;

	ASSERT_LE(0, buf);
	fill_file(&self->ram, 1);
	ASSERT_EQ(0, punch(self->ram.memfd, page_of(BUF_PAGES / 2), 1));
	handle = import(self->card, buf);
	EXPECT_GT(0, handle);
	TH_LOG("import of a hole that must not be filled: %s",
	       strerror(-handle));
	EXPECT_EQ(FILE_PAGES - 1, resident(self->ram.memfd, FILE_PAGES));
	EXPECT_PINNED(0);
	fill_file(&self->ram, 1);
	handle = import(self->card, buf);
	EXPECT_LT(0, handle);
	EXPECT_EQ(self->pins + BUF_PAGES, pinned_pages());
	EXPECT_EQ(0, gem_close(self->card, handle));
	close(buf);
}

/* Pages that are discarded stay with the importer, until it imports anew. */
TEST_F(vgem, discard)
{
	int handle;

	fill_file(&self->ram, 1);
	handle = import(self->card, self->ram.buf);
	ASSERT_LT(0, handle);
	EXPECT_TRUE(map_is(self->ram.map, 1));
	for (unsigned int i = 3; i < 11; i++) {
		ASSERT_EQ(0, punch(self->ram.memfd, page_of(i), 1));
		EXPECT_STALE(i - 2);
		EXPECT_FALSE(mapped(in_map(&self->ram, i)));
		EXPECT_TRUE(page_is(in_map(&self->ram, i), 0));
	}
	EXPECT_PINNED(BUF_PAGES);

	/* the pages that came after them are not pinned */
	fill_file(&self->ram, 2);
	EXPECT_TRUE(map_is(self->ram.map, 2));
	for (unsigned int i = 3; i < 11; i++) {
		ASSERT_EQ(0, punch(self->ram.memfd, page_of(i), 1));
	}
	EXPECT_STALE(8);
	EXPECT_PINNED(BUF_PAGES);

	/* not of the buffer */
	ASSERT_EQ(0, punch(self->ram.memfd, USED_PAGES, 8));
	EXPECT_STALE(8);

	ASSERT_EQ(0, ftruncate(self->ram.memfd, 0));
	EXPECT_STALE(BUF_PAGES);
	EXPECT_PINNED(BUF_PAGES);
	EXPECT_TRUE(access_sigbus(self->ram.map, false));
	ASSERT_EQ(0, ftruncate(self->ram.memfd, FILE_PAGES * PAGE));
	EXPECT_TRUE(page_is(self->ram.map, 0));
	fill_file(&self->ram, 3);
	EXPECT_TRUE(map_is(self->ram.map, 3));
	EXPECT_STALE(BUF_PAGES);

	EXPECT_EQ(0, gem_close(self->card, handle));
	EXPECT_PINNED(0);
	EXPECT_STALE(0);
	handle = import(self->card, self->ram.buf);
	ASSERT_LT(0, handle);
	EXPECT_PINNED(BUF_PAGES);
	EXPECT_STALE(0);
	EXPECT_EQ(FILE_PAGES, resident(self->ram.memfd, FILE_PAGES));
	EXPECT_TRUE(map_is(self->ram.map, 3));
}

/* The same when nothing but a huge hole has been asked for. */
TEST_F(vgem, discard_holes)
{
	int handle = import(self->card, self->ram.buf);

	ASSERT_LT(0, handle);
	ASSERT_EQ(0, madvise(self->ram.file, FILE_PAGES * PAGE, MADV_REMOVE));
	EXPECT_STALE(BUF_PAGES);
	EXPECT_EQ(0, resident(self->ram.memfd, FILE_PAGES));
	ASSERT_EQ(0, punch(self->ram.memfd, 0, FILE_PAGES));
	EXPECT_STALE(BUF_PAGES);
	EXPECT_EQ(0, gem_close(self->card, handle));
	EXPECT_PINNED(0);
}

FIXTURE(deny) {
	struct ram ram;
	int card;
	int handle;
	long pins;
};

FIXTURE_SETUP(deny)
{
	catch_sigbus();
	self->pins = pinned_pages();
	self->card = OPEN_CARD("vgem");
	new_ram(_metadata, &self->ram, MEMFD_DMABUF_DENY_DISCARD);
	EXPECT_EQ(MEMFD_DMABUF_DENY_DISCARD,
		  info(_metadata, &self->ram).flags);
	/* not imported: nobody minds */
	fill_file(&self->ram, 1);
	ASSERT_EQ(0, punch(self->ram.memfd, 0, FILE_PAGES));
	EXPECT_EQ(0, resident(self->ram.memfd, FILE_PAGES));
	fill_file(&self->ram, 1);
	self->handle = import(self->card, self->ram.buf);
	ASSERT_LT(0, self->handle);
}

FIXTURE_TEARDOWN(deny)
{
	/* all the same once the import is gone */
	gem_close(self->card, self->handle);
	EXPECT_PINNED(0);
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_EQ(0, punch(self->ram.memfd, page_of(i), 1));
		EXPECT_TRUE(page_is(in_map(&self->ram, i), 0));
	}
	EXPECT_EQ(0, ftruncate(self->ram.memfd, 0));
	EXPECT_EQ(0, resident(self->ram.memfd, FILE_PAGES));
	close(self->card);
	end_ram(_metadata, &self->ram);
	EXPECT_EQ(self->pins, pinned_pages());
}

/* Whether every page of the file is as it was filled. */
static bool file_is(const struct ram *ram, unsigned int version)
{
	struct stat st;

	if (fstat(ram->memfd, &st) || st.st_size != FILE_PAGES * PAGE)
		return false;
	for (unsigned int p = 0; p < FILE_PAGES; p++)
		if (!page_is(ram->file + p * PAGE, tag(1, p, version)))
			return false;
	return map_is(ram->map, version);
}

TEST_F(deny, punch)
{
	for (unsigned int p = 0; p < FILE_PAGES; p++) {
		if (in_buffer(p)) {
			EXPECT_EQ(-1, punch(self->ram.memfd, p, 1));
			EXPECT_EQ(EBUSY, errno);
		} else {
			EXPECT_EQ(0, punch(self->ram.memfd, p, 1));
			EXPECT_TRUE(page_is(self->ram.file + p * PAGE, 0));
			fill_page(self->ram.file + p * PAGE, tag(1, p, 1));
		}
	}
	EXPECT_TRUE(file_is(&self->ram, 1));

	/* all or nothing */
	EXPECT_EQ(-1, punch(self->ram.memfd, 0, FILE_PAGES));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(-1, punch(self->ram.memfd, USED_PAGES - 1, 3));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(-1, madvise(self->ram.file, FILE_PAGES * PAGE, MADV_REMOVE));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_TRUE(file_is(&self->ram, 1));
	EXPECT_STALE(0);
	EXPECT_PINNED(BUF_PAGES);

	/* still writable, and read by all */
	fill_file(&self->ram, 2);
	EXPECT_TRUE(file_is(&self->ram, 2));
}

TEST_F(deny, truncate)
{
	static const unsigned int sizes[] = { 0, 1, 20, USED_PAGES - 1 };
	struct stat st;

	ASSERT_TRUE(in_buffer(USED_PAGES - 1));
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(-1, ftruncate(self->ram.memfd, sizes[i] * PAGE));
		EXPECT_EQ(EBUSY, errno);
		EXPECT_TRUE(file_is(&self->ram, 1));
	}
	/* what is behind the buffer */
	EXPECT_EQ(0, ftruncate(self->ram.memfd, USED_PAGES * PAGE));
	EXPECT_TRUE(access_sigbus(self->ram.file + USED_PAGES * PAGE, false));
	EXPECT_EQ(0, ftruncate(self->ram.memfd, FILE_PAGES * PAGE));
	for (unsigned int p = USED_PAGES; p < FILE_PAGES; p++)
		fill_page(self->ram.file + p * PAGE, tag(1, p, 1));
	EXPECT_TRUE(file_is(&self->ram, 1));
	/* a page that is cut short stays */
	EXPECT_EQ(0, ftruncate(self->ram.memfd, (USED_PAGES - 1) * PAGE + 8));
	EXPECT_EQ(0, fstat(self->ram.memfd, &st));
	EXPECT_EQ((USED_PAGES - 1) * PAGE + 8, st.st_size);
	EXPECT_EQ(0, ftruncate(self->ram.memfd, FILE_PAGES * PAGE));
	for (unsigned int p = USED_PAGES - 1; p < FILE_PAGES; p++)
		fill_page(self->ram.file + p * PAGE, tag(1, p, 1));
	EXPECT_TRUE(file_is(&self->ram, 1));
	EXPECT_STALE(0);
}

/* A second buffer that lets go, and one that is not imported. */
TEST_F(deny, not_alone)
{
	int gentle = create_scattered(self->ram.dev, 0, self->ram.memfd);
	int idle = create_scattered(self->ram.dev, MEMFD_DMABUF_DENY_DISCARD,
				    self->ram.memfd);
	int handle;

	ASSERT_LE(0, gentle);
	ASSERT_LE(0, idle);
	handle = import(self->card, gentle);
	ASSERT_LT(0, handle);
	EXPECT_EQ(-1, punch(self->ram.memfd, 0, FILE_PAGES));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_TRUE(file_is(&self->ram, 1));
	EXPECT_EQ(0, gem_close(self->card, self->handle));
	EXPECT_EQ(0, punch(self->ram.memfd, 0, FILE_PAGES));
	EXPECT_EQ(0, gem_close(self->card, handle));
	close(gentle);
	close(idle);
}

/* Fences */

/* Of drivers/dma-buf/sw_sync.c, which is not in the uapi headers. */
struct sw_sync_create_fence_data {
	__u32 value;
	char name[32];
	__s32 fence;
};

#define SW_SYNC_IOC_CREATE_FENCE \
	_IOWR('W', 0, struct sw_sync_create_fence_data)
#define SW_SYNC_IOC_INC		_IOW('W', 1, __u32)

/* A fence that is signalled when the timeline reaches @value, or -1. */
static int new_fence(int timeline, unsigned int value)
{
	struct sw_sync_create_fence_data data = { .value = value };

	return ioctl(timeline, SW_SYNC_IOC_CREATE_FENCE, &data) ? -1 :
								  data.fence;
}

static int advance(int timeline)
{
	__u32 one = 1;

	return ioctl(timeline, SW_SYNC_IOC_INC, &one);
}

static int put_fence(int buf, int fence, unsigned int flags)
{
	struct dma_buf_import_sync_file arg = { .flags = flags, .fd = fence };

	return ioctl(buf, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &arg);
}

static int get_fence(int buf, unsigned int flags)
{
	struct dma_buf_export_sync_file arg = { .flags = flags };

	return ioctl(buf, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &arg) ? -1 : arg.fd;
}

/* Of POLLIN and POLLOUT those that come true within that time. */
static int ready(int fd, int events, int ms)
{
	struct pollfd p = { .fd = fd, .events = events };

	return poll(&p, 1, ms) < 0 ? -1 : p.revents;
}

static int sync_buf(int buf, unsigned int flags)
{
	struct dma_buf_sync arg = { .flags = flags };

	return ioctl(buf, DMA_BUF_IOCTL_SYNC, &arg);
}

static void on_alarm(int sig)
{
}

/* From now on, no system call waits for long: it fails with EINTR. */
static void interrupt(bool on)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct itimerval timer = {};

	sigaction(SIGALRM, &sa, NULL);
	if (on) {
		timer.it_interval.tv_usec = 50000;
		timer.it_value.tv_usec = 50000;
	}
	setitimer(ITIMER_REAL, &timer, NULL);
}

FIXTURE(fence) {
	struct ram ram;
	int card;
	int handle;
	int timeline;
	long pins;
};

FIXTURE_VARIANT(fence) {
	bool imported;
};

FIXTURE_VARIANT_ADD(fence, plain) { false };
FIXTURE_VARIANT_ADD(fence, imported) { true };

FIXTURE_SETUP(fence)
{
	catch_sigbus();
	self->pins = pinned_pages();
	self->timeline = open(SW_SYNC, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->timeline) TH_LOG("this test needs " SW_SYNC);
	self->card = OPEN_CARD("vgem");
	new_ram(_metadata, &self->ram, 0);
	fill_file(&self->ram, 1);
	if (variant->imported) {
		self->handle = import(self->card, self->ram.buf);
		ASSERT_LT(0, self->handle);
	}
}

/* Also of a fence that nobody has signalled nothing is left. */
FIXTURE_TEARDOWN(fence)
{
	close(self->card);
	end_ram(_metadata, &self->ram);
	close(self->timeline);
	EXPECT_EQ(self->pins, pinned_pages());
}

TEST_F(fence, write)
{
	int buf = self->ram.buf, fence = new_fence(self->timeline, 1), out;

	ASSERT_LE(0, fence);
	EXPECT_EQ(POLLIN | POLLOUT, ready(buf, POLLIN | POLLOUT, 0));
	ASSERT_EQ(0, put_fence(buf, fence, DMA_BUF_SYNC_WRITE));
	EXPECT_EQ(0, ready(buf, POLLIN | POLLOUT, 0));
	out = get_fence(buf, DMA_BUF_SYNC_READ);
	ASSERT_LE(0, out);
	EXPECT_EQ(0, ready(out, POLLIN, 0));
	ASSERT_EQ(0, advance(self->timeline));
	EXPECT_EQ(POLLIN, ready(out, POLLIN, LONG_MS));
	EXPECT_EQ(POLLIN | POLLOUT, ready(buf, POLLIN | POLLOUT, LONG_MS));
	close(out);
	close(fence);
}

TEST_F(fence, read)
{
	int buf = self->ram.buf, fence = new_fence(self->timeline, 1), out;

	ASSERT_LE(0, fence);
	ASSERT_EQ(0, put_fence(buf, fence, DMA_BUF_SYNC_READ));
	/* who wants to read does not wait for readers */
	EXPECT_EQ(POLLIN, ready(buf, POLLIN | POLLOUT, 0));
	out = get_fence(buf, DMA_BUF_SYNC_READ);
	ASSERT_LE(0, out);
	EXPECT_EQ(POLLIN, ready(out, POLLIN, 0));
	close(out);
	out = get_fence(buf, DMA_BUF_SYNC_WRITE);
	ASSERT_LE(0, out);
	EXPECT_EQ(0, ready(out, POLLIN, 0));
	EXPECT_EQ(0, sync_buf(buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ));
	ASSERT_EQ(0, advance(self->timeline));
	EXPECT_EQ(POLLIN, ready(out, POLLIN, LONG_MS));
	EXPECT_EQ(POLLOUT, ready(buf, POLLOUT, LONG_MS));
	close(out);
	close(fence);
}

struct call {
	int fd;
	bool *signalled;
	bool in_time;
	int ret;
};

static void *sync_start(void *arg)
{
	struct call *call = arg;

	call->ret = sync_buf(call->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
	call->in_time = PEEK(call->signalled);
	return NULL;
}

TEST_F(fence, cpu_access_waits)
{
	static const unsigned int flags[] = {
		DMA_BUF_SYNC_READ, DMA_BUF_SYNC_WRITE, DMA_BUF_SYNC_RW,
	};
	int buf = self->ram.buf, fence = new_fence(self->timeline, 1);
	bool signalled = false;
	struct call call = { .fd = buf, .signalled = &signalled };
	pthread_t thread;

	ASSERT_LE(0, fence);
	ASSERT_EQ(0, put_fence(buf, fence, DMA_BUF_SYNC_WRITE));
	interrupt(true);
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(-1, sync_buf(buf, DMA_BUF_SYNC_START | flags[i]));
		EXPECT_EQ(EINTR, errno);
	}
	interrupt(false);
	ASSERT_EQ(0, pthread_create(&thread, NULL, sync_start, &call));
	POKE(&signalled, true);
	ASSERT_EQ(0, advance(self->timeline));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, call.ret);
	EXPECT_TRUE(call.in_time);
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, sync_buf(buf, DMA_BUF_SYNC_START | flags[i]));
		EXPECT_EQ(0, sync_buf(buf, DMA_BUF_SYNC_END | flags[i]));
	}
	close(fence);
}

static void *punch_all(void *arg)
{
	struct call *call = arg;

	call->ret = punch(call->fd, 0, FILE_PAGES);
	return NULL;
}

/*
 * Nobody can be made to let go of a page by waiting for this fence: there is no
 * importer, or one that keeps what it has.
 */
TEST_F(fence, discard_does_not_wait)
{
	int fence = new_fence(self->timeline, 1);
	struct call call = { .fd = self->ram.memfd, .ret = -1 };
	struct timespec deadline;
	pthread_t thread;
	int late;

	ASSERT_LE(0, fence);
	ASSERT_EQ(0, put_fence(self->ram.buf, fence, DMA_BUF_SYNC_RW));
	EXPECT_TRUE(map_is(self->ram.map, 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, punch_all, &call));
	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += LONG_MS / 1000;
	late = pthread_timedjoin_np(thread, NULL, &deadline);
	EXPECT_EQ(0, late) TH_LOG("the discard waits for a fence");
	EXPECT_EQ(0, ready(fence, POLLIN, 0));
	if (late) {
		advance(self->timeline);
		pthread_join(thread, NULL);
	}
	EXPECT_EQ(0, call.ret);
	EXPECT_TRUE(page_is(self->ram.map, 0));
	EXPECT_EQ(variant->imported ? BUF_PAGES : 0,
		  info(_metadata, &self->ram).stale_pages);
	close(fence);
}

/* Nor does an importer that comes or goes wait for those of others. */
TEST_F(fence, import_does_not_wait)
{
	int fence = new_fence(self->timeline, 1), handle;

	ASSERT_LE(0, fence);
	ASSERT_EQ(0, put_fence(self->ram.buf, fence, DMA_BUF_SYNC_RW));
	if (variant->imported) {
		EXPECT_EQ(0, gem_close(self->card, self->handle));
		EXPECT_PINNED(0);
	}
	handle = import(self->card, self->ram.buf);
	ASSERT_LT(0, handle);
	EXPECT_PINNED(BUF_PAGES);
	EXPECT_EQ(0, ready(self->ram.buf, POLLIN, 0));
	EXPECT_EQ(0, gem_close(self->card, handle));
	EXPECT_PINNED(0);
	EXPECT_EQ(0, ready(fence, POLLIN, 0));
	/* poll() holds the buffer until then */
	ASSERT_EQ(0, advance(self->timeline));
	close(fence);
}

/* The fences of a device are those of the buffer it has imported. */
TEST_F(vgem, fences)
{
	struct drm_vgem_fence_attach attach = { .flags = VGEM_FENCE_WRITE };
	struct drm_vgem_fence_signal signal = {};
	int buf = self->ram.buf, timeline = open(SW_SYNC, O_RDWR | O_CLOEXEC);
	int fence, out;

	ASSERT_LE(0, timeline) TH_LOG("this test needs " SW_SYNC);
	attach.handle = import(self->card, buf);
	ASSERT_LT(0, (int)attach.handle);

	/* the device writes; it is given ten seconds for it */
	ASSERT_EQ(0, ioctl(self->card, DRM_IOCTL_VGEM_FENCE_ATTACH, &attach));
	EXPECT_EQ(0, ready(buf, POLLIN | POLLOUT, 0));
	out = get_fence(buf, DMA_BUF_SYNC_READ);
	ASSERT_LE(0, out);
	EXPECT_EQ(0, ready(out, POLLIN, 0));
	interrupt(true);
	EXPECT_EQ(-1, sync_buf(buf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ));
	EXPECT_EQ(EINTR, errno);
	interrupt(false);
	ASSERT_EQ(0, punch(self->ram.memfd, page_of(0), 1));
	EXPECT_EQ(0, ready(out, POLLIN, 0));
	signal.fence = attach.out_fence;
	ASSERT_EQ(0, ioctl(self->card, DRM_IOCTL_VGEM_FENCE_SIGNAL, &signal));
	EXPECT_EQ(POLLIN, ready(out, POLLIN, LONG_MS));
	EXPECT_EQ(POLLIN | POLLOUT, ready(buf, POLLIN | POLLOUT, LONG_MS));
	close(out);

	/* the device reads */
	attach.flags = 0;
	ASSERT_EQ(0, ioctl(self->card, DRM_IOCTL_VGEM_FENCE_ATTACH, &attach));
	EXPECT_EQ(POLLIN, ready(buf, POLLIN | POLLOUT, 0));
	signal.fence = attach.out_fence;
	ASSERT_EQ(0, ioctl(self->card, DRM_IOCTL_VGEM_FENCE_SIGNAL, &signal));
	EXPECT_EQ(POLLOUT, ready(buf, POLLOUT, LONG_MS));

	/* somebody else writes, and the device sees it */
	fence = new_fence(timeline, 1);
	ASSERT_LE(0, fence);
	ASSERT_EQ(0, put_fence(buf, fence, DMA_BUF_SYNC_WRITE));
	EXPECT_EQ(-1, ioctl(self->card, DRM_IOCTL_VGEM_FENCE_ATTACH, &attach));
	EXPECT_EQ(EBUSY, errno);
	ASSERT_EQ(0, advance(timeline));
	EXPECT_EQ(0, ioctl(self->card, DRM_IOCTL_VGEM_FENCE_ATTACH, &attach));

	/* this one is never signalled, but by closing the device */
	EXPECT_EQ(0, ready(buf, POLLOUT, 0));
	close(self->card);
	self->card = -1;
	EXPECT_EQ(POLLOUT, ready(buf, POLLOUT, LONG_MS));
	EXPECT_PINNED(0);
	close(fence);
	close(timeline);
}

/* vkms */

/* A mode of ten pictures a second, so that a slow machine keeps up. */
static const struct drm_mode_modeinfo mode = {
	.hdisplay = WIDTH,
	.hsync_start = WIDTH + 8,
	.hsync_end = WIDTH + 16,
	.htotal = 320,
	.vdisplay = HEIGHT,
	.vsync_start = HEIGHT + 2,
	.vsync_end = HEIGHT + 4,
	.vtotal = 150,
	.clock = 320 * 150 * 10 / 1000,
	.vrefresh = 10,
	.name = "memfd_dmabuf",
};

struct kms {
	int card;
	uint32_t crtc;
	uint32_t plane;
	uint32_t writeback;
	uint32_t mode;
};

/* The property of that name, and its value, or 0. */
static uint32_t find_prop(int card, uint32_t obj, const char *name,
			  uint64_t *value)
{
	uint32_t ids[64];
	uint64_t values[64];
	struct drm_mode_obj_get_properties get = {
		.props_ptr = (uintptr_t)ids,
		.prop_values_ptr = (uintptr_t)values,
		.count_props = 64,
		.obj_id = obj,
	};

	if (ioctl(card, DRM_IOCTL_MODE_OBJ_GETPROPERTIES, &get))
		return 0;
	for (unsigned int i = 0; i < get.count_props && i < 64; i++) {
		struct drm_mode_get_property prop = { .prop_id = ids[i] };

		if (ioctl(card, DRM_IOCTL_MODE_GETPROPERTY, &prop) ||
		    strcmp(prop.name, name))
			continue;
		if (value)
			*value = values[i];
		return ids[i];
	}
	return 0;
}

static int client_cap(int card, uint64_t cap)
{
	struct drm_set_client_cap arg = { .capability = cap, .value = 1 };

	return ioctl(card, DRM_IOCTL_SET_CLIENT_CAP, &arg);
}

static void open_kms(struct __test_metadata *_metadata, struct kms *kms)
{
	uint32_t crtcs[4], connectors[8], planes[8];
	struct drm_mode_card_res res = {
		.crtc_id_ptr = (uintptr_t)crtcs,
		.connector_id_ptr = (uintptr_t)connectors,
		.count_crtcs = 4,
		.count_connectors = 8,
	};
	struct drm_mode_get_plane_res plane_res = {
		.plane_id_ptr = (uintptr_t)planes,
		.count_planes = 8,
	};
	struct drm_mode_create_blob blob = {
		.data = (uintptr_t)&mode,
		.length = sizeof(mode),
	};

	*kms = (struct kms) { .card = OPEN_CARD("vkms") };
	ASSERT_EQ(0, client_cap(kms->card, DRM_CLIENT_CAP_ATOMIC));
	ASSERT_EQ(0, client_cap(kms->card,
				DRM_CLIENT_CAP_WRITEBACK_CONNECTORS));
	ASSERT_EQ(0, ioctl(kms->card, DRM_IOCTL_MODE_GETRESOURCES, &res));
	ASSERT_LE(1, res.count_crtcs);
	kms->crtc = crtcs[0];

	for (unsigned int i = 0; i < res.count_connectors && i < 8; i++) {
		struct drm_mode_modeinfo unused;
		struct drm_mode_get_connector c = {
			.connector_id = connectors[i],
			.modes_ptr = (uintptr_t)&unused,
			/* not 0: do not probe it */
			.count_modes = 1,
		};

		ASSERT_EQ(0, ioctl(kms->card, DRM_IOCTL_MODE_GETCONNECTOR, &c));
		if (c.connector_type == DRM_MODE_CONNECTOR_WRITEBACK)
			kms->writeback = connectors[i];
	}
	ASSERT_NE(0, kms->writeback)
		TH_LOG("this test needs vkms.enable_writeback=1");

	ASSERT_EQ(0, ioctl(kms->card, DRM_IOCTL_MODE_GETPLANERESOURCES,
			   &plane_res));
	for (unsigned int i = 0; i < plane_res.count_planes && i < 8; i++) {
		uint64_t type = -1;

		find_prop(kms->card, planes[i], "type", &type);
		/* DRM_PLANE_TYPE_PRIMARY */
		if (type == 1)
			kms->plane = planes[i];
	}
	ASSERT_NE(0, kms->plane);

	ASSERT_EQ(0, ioctl(kms->card, DRM_IOCTL_MODE_CREATEPROPBLOB, &blob));
	kms->mode = blob.blob_id;
}

/* Returns a framebuffer, or -errno. */
static int add_fb(int card, int handle)
{
	struct drm_mode_fb_cmd2 fb = {
		.width = WIDTH,
		.height = HEIGHT,
		.pixel_format = DRM_FORMAT_XRGB8888,
		.handles = { handle },
		.pitches = { PITCH },
	};

	return ioctl(card, DRM_IOCTL_MODE_ADDFB2, &fb) ? -errno : (int)fb.fb_id;
}

/* Import as a framebuffer, which keeps the buffer without its handle. */
static int import_fb(int card, int buf)
{
	int handle = import(card, buf), fb;

	if (handle < 0)
		return handle;
	fb = add_fb(card, handle);
	gem_close(card, handle);
	return fb;
}

/* Whoever asks for its properties hears that it has none, or that it is not there. */
static bool fb_exists(int card, uint32_t fb)
{
	struct drm_mode_obj_get_properties get = {
		.obj_id = fb,
		.obj_type = DRM_MODE_OBJECT_FB,
	};

	return !ioctl(card, DRM_IOCTL_MODE_OBJ_GETPROPERTIES, &get) ||
	       errno != ENOENT;
}

/* What has been written back is released by a worker. */
static bool remove_fb(int card, uint32_t fb)
{
	long deadline = now_ms() + LONG_MS;

	if (ioctl(card, DRM_IOCTL_MODE_RMFB, &fb))
		return false;
	while (fb_exists(card, fb) && now_ms() < deadline)
		usleep(1000);
	return !fb_exists(card, fb);
}

/* The buffer of such a framebuffer is let go of right after it. */
static bool released(struct __test_metadata *_metadata, const struct ram *ram)
{
	long deadline = now_ms() + LONG_MS;

	while (info(_metadata, ram).pinned_pages && now_ms() < deadline)
		usleep(1000);
	return !info(_metadata, ram).pinned_pages;
}

struct request {
	uint32_t objs[3];
	uint32_t counts[3];
	uint32_t props[32];
	uint64_t values[32];
	unsigned int nr_objs;
	unsigned int nr_props;
};

static void add_obj(struct request *rq, uint32_t obj)
{
	rq->objs[rq->nr_objs++] = obj;
}

static void add_prop(const struct kms *kms, struct request *rq,
		     const char *name, uint64_t value)
{
	unsigned int obj = rq->nr_objs - 1;

	/* an unknown one is 0, and refused */
	rq->props[rq->nr_props] = find_prop(kms->card, rq->objs[obj], name,
					    NULL);
	rq->values[rq->nr_props++] = value;
	rq->counts[obj]++;
}

/*
 * Show framebuffer @fb, and write what is seen to @target. Returns the fence
 * that tells when that is done, or -errno.
 */
static int commit(const struct kms *kms, int fb, int target, unsigned int flags)
{
	struct request rq = {};
	struct drm_mode_atomic atomic = {
		.flags = DRM_MODE_ATOMIC_ALLOW_MODESET | flags,
		.objs_ptr = (uintptr_t)rq.objs,
		.count_props_ptr = (uintptr_t)rq.counts,
		.props_ptr = (uintptr_t)rq.props,
		.prop_values_ptr = (uintptr_t)rq.values,
	};
	int32_t fence = -1;

	add_obj(&rq, kms->crtc);
	add_prop(kms, &rq, "MODE_ID", kms->mode);
	add_prop(kms, &rq, "ACTIVE", 1);
	add_obj(&rq, kms->plane);
	add_prop(kms, &rq, "FB_ID", fb);
	add_prop(kms, &rq, "CRTC_ID", kms->crtc);
	add_prop(kms, &rq, "SRC_X", 0);
	add_prop(kms, &rq, "SRC_Y", 0);
	add_prop(kms, &rq, "SRC_W", WIDTH << 16);
	add_prop(kms, &rq, "SRC_H", HEIGHT << 16);
	add_prop(kms, &rq, "CRTC_X", 0);
	add_prop(kms, &rq, "CRTC_Y", 0);
	add_prop(kms, &rq, "CRTC_W", WIDTH);
	add_prop(kms, &rq, "CRTC_H", HEIGHT);
	add_obj(&rq, kms->writeback);
	add_prop(kms, &rq, "CRTC_ID", kms->crtc);
	add_prop(kms, &rq, "WRITEBACK_FB_ID", target);
	add_prop(kms, &rq, "WRITEBACK_OUT_FENCE_PTR", (uintptr_t)&fence);
	atomic.count_objs = rq.nr_objs;

	if (ioctl(kms->card, DRM_IOCTL_MODE_ATOMIC, &atomic))
		return -errno;
	return fence;
}

/* The device has done what the fence stands for, and without an error. */
static bool finished(int fence)
{
	struct sync_file_info info = {};
	bool done = ready(fence, POLLIN, LONG_MS) == POLLIN &&
		    !ioctl(fence, SYNC_IOC_FILE_INFO, &info) &&
		    info.status == 1;

	close(fence);
	return done;
}

/* A colour that says what it is, with something in the byte that has none. */
static uint32_t colour(unsigned int page, unsigned int i, unsigned int version)
{
	uint32_t x = page * PAGE_PIXELS + i + version * 0x10000000;

	return ((x * 2654435761u) >> 8) | version << 24;
}

static void draw_page(const struct ram *ram, unsigned int page,
		      unsigned int version)
{
	uint32_t *pixels = (uint32_t *)in_file(ram, page);

	for (unsigned int i = 0; i < PAGE_PIXELS; i++)
		POKE(&pixels[i], version ? colour(page, i, version) : 0);
}

static void draw(const struct ram *ram, unsigned int version)
{
	for (unsigned int page = 0; page < BUF_PAGES; page++)
		draw_page(ram, page, version);
}

/* How many pixels of a page are not as drawn; version 0 is black. */
static unsigned int wrong(const void *addr, unsigned int page,
			  unsigned int version)
{
	const uint32_t *pixels = addr;
	unsigned int nr = 0;

	for (unsigned int i = 0; i < PAGE_PIXELS; i++) {
		uint32_t want = version ? colour(page, i, version) : 0;

		nr += ((PEEK(&pixels[i]) ^ want) & 0xffffff) != 0;
	}
	return nr;
}

FIXTURE(vkms) {
	struct ram ram;
	struct ram target;
	struct kms kms;
	long pins;
};

FIXTURE_SETUP(vkms)
{
	catch_sigbus();
	self->pins = pinned_pages();
	ASSERT_LE(0, self->pins);
	open_kms(_metadata, &self->kms);
	new_ram(_metadata, &self->ram, 0);
	new_ram(_metadata, &self->target, 0);
}

FIXTURE_TEARDOWN(vkms)
{
	close(self->kms.card);
	end_ram(_metadata, &self->ram);
	end_ram(_metadata, &self->target);
	EXPECT_EQ(self->pins, pinned_pages());
	EXPECT_EQ(0, live_buffers());
}

/* Show @fb and have it written to self->target, which is imported for that. */
#define SHOW(fb) do {							\
	int _target = import_fb(self->kms.card, self->target.buf);	\
	int _fence;							\
									\
	ASSERT_LT(0, _target);						\
	_fence = commit(&self->kms, fb, _target, 0);			\
	ASSERT_LE(0, _fence);						\
	EXPECT_TRUE(finished(_fence));					\
	ASSERT_TRUE(remove_fb(self->kms.card, _target));		\
	EXPECT_TRUE(released(_metadata, &self->target));		\
} while (0)

/* What has been shown: these pages of these versions, and others of others. */
#define EXPECT_SHOWN(first, last, version, others) do {			\
	for (unsigned int _i = 0; _i < BUF_PAGES; _i++) {		\
		EXPECT_EQ(0, wrong(in_file(&self->target, _i), _i,	\
				   _i - (first) <= (last) - (first) ?	\
					(version) : (others)));		\
	}								\
} while (0)

#define EXPECT_ALL_SHOWN(version) \
	EXPECT_SHOWN(0, BUF_PAGES - 1, version, version)

TEST_F(vkms, scanout)
{
	int fb = import_fb(self->kms.card, self->ram.buf);

	ASSERT_LT(0, fb);
	EXPECT_PINNED(BUF_PAGES);
	for (unsigned int version = 1; version <= 3; version++) {
		draw(&self->ram, version);
		SHOW(fb);
		EXPECT_ALL_SHOWN(version);
		/* so does the buffer's own mapping */
		for (unsigned int i = 0; i < BUF_PAGES; i++) {
			EXPECT_EQ(0, wrong(in_map(&self->target, i), i,
					   version));
		}
	}
	/* the import, and the kernel's mapping of what is being shown */
	EXPECT_PINNED(2 * BUF_PAGES);
	EXPECT_STALE(0);
	ASSERT_TRUE(remove_fb(self->kms.card, fb));
	EXPECT_PINNED(0);
}

/* To memory of the device. */
TEST_F(vkms, dumb_target)
{
	int fb = import_fb(self->kms.card, self->ram.buf), target, fence;
	struct drm_mode_create_dumb dumb = create_dumb(self->kms.card);
	long offset;
	char *map;

	ASSERT_LT(0, fb);
	ASSERT_NE(0, dumb.handle);
	ASSERT_EQ(PITCH, dumb.pitch);
	target = add_fb(self->kms.card, dumb.handle);
	ASSERT_LT(0, target);
	offset = map_dumb(self->kms.card, dumb.handle);
	ASSERT_LT(0, offset);
	map = mmap(NULL, dumb.size, PROT_READ | PROT_WRITE, MAP_SHARED,
		   self->kms.card, offset);
	ASSERT_NE(MAP_FAILED, map);

	draw(&self->ram, 1);
	fence = commit(&self->kms, fb, target, 0);
	ASSERT_LE(0, fence);
	ASSERT_TRUE(finished(fence));
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_EQ(0, wrong(map + i * PAGE, i, 1));
	}
	/* the test can tell */
	draw_page(&self->ram, 0, 2);
	EXPECT_EQ(PAGE_PIXELS, wrong(in_file(&self->ram, 0), 0, 1));
	munmap(map, dumb.size);
	ASSERT_TRUE(remove_fb(self->kms.card, target));
}

/*
 * Discarded while it is shown: the screen keeps what it has, as long as the
 * kernel's mapping of it lives, and that is the old page.
 */
TEST_F(vkms, discard)
{
	int fb = import_fb(self->kms.card, self->ram.buf), other;

	ASSERT_LT(0, fb);
	draw(&self->ram, 1);
	SHOW(fb);
	EXPECT_ALL_SHOWN(1);

	for (unsigned int i = 8; i < 16; i++) {
		ASSERT_EQ(0, punch(self->ram.memfd, page_of(i), 1));
		EXPECT_TRUE(page_is(in_map(&self->ram, i), 0));
	}
	/* in both, the import and the kernel's mapping */
	EXPECT_STALE(2 * 8);
	SHOW(fb);
	EXPECT_ALL_SHOWN(1);
	draw(&self->ram, 2);
	SHOW(fb);
	EXPECT_SHOWN(8, 15, 1, 2);
	EXPECT_STALE(2 * 8);

	/* something else in between: the mapping is new, the import is not */
	other = add_fb(self->kms.card, create_dumb(self->kms.card).handle);
	ASSERT_LT(0, other);
	SHOW(other);
	EXPECT_ALL_SHOWN(0);
	EXPECT_PINNED(BUF_PAGES);
	EXPECT_STALE(8);
	SHOW(fb);
	EXPECT_ALL_SHOWN(2);
	EXPECT_STALE(8);

	/* imported anew */
	ASSERT_TRUE(remove_fb(self->kms.card, fb));
	EXPECT_PINNED(0);
	EXPECT_STALE(0);
	fb = import_fb(self->kms.card, self->ram.buf);
	ASSERT_LT(0, fb);
	SHOW(fb);
	EXPECT_ALL_SHOWN(2);
	EXPECT_STALE(0);
	draw(&self->ram, 3);
	SHOW(fb);
	EXPECT_ALL_SHOWN(3);
}

/* All of the memory is gone, but not from the screen. */
TEST_F(vkms, truncate)
{
	int fb = import_fb(self->kms.card, self->ram.buf);

	ASSERT_LT(0, fb);
	draw(&self->ram, 1);
	SHOW(fb);
	ASSERT_EQ(0, ftruncate(self->ram.memfd, 0));
	EXPECT_EQ(2 * BUF_PAGES, info(_metadata, &self->ram).stale_pages);
	SHOW(fb);
	EXPECT_ALL_SHOWN(1);
	ASSERT_TRUE(remove_fb(self->kms.card, fb));
	EXPECT_PINNED(0);
	EXPECT_EQ(-EFAULT, import_fb(self->kms.card, self->ram.buf));
	EXPECT_PINNED(0);
}

TEST_F(vkms, deny)
{
	int buf = create_scattered(self->ram.dev, MEMFD_DMABUF_DENY_DISCARD,
				   self->ram.memfd);
	int fb = import_fb(self->kms.card, buf);

	ASSERT_LE(0, buf);
	ASSERT_LT(0, fb);
	draw(&self->ram, 1);
	SHOW(fb);
	EXPECT_ALL_SHOWN(1);
	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		EXPECT_EQ(-1, punch(self->ram.memfd, page_of(i), 1));
		EXPECT_EQ(EBUSY, errno);
	}
	EXPECT_EQ(-1, ftruncate(self->ram.memfd, 0));
	EXPECT_EQ(EBUSY, errno);
	SHOW(fb);
	EXPECT_ALL_SHOWN(1);
	draw(&self->ram, 2);
	SHOW(fb);
	EXPECT_ALL_SHOWN(2);
	ASSERT_TRUE(remove_fb(self->kms.card, fb));
	EXPECT_EQ(0, punch(self->ram.memfd, 0, FILE_PAGES));
	EXPECT_EQ(0, ftruncate(self->ram.memfd, 0));
	close(buf);
}

/* What only the device has written is not lost when the page is reclaimed. */
TEST_F(vkms, written_pages_are_dirty)
{
	int fb = import_fb(self->kms.card, self->ram.buf);
	long left = -1;

	ASSERT_LT(0, fb);
	draw(&self->ram, 1);
	/* the target has no pages yet */
	ASSERT_EQ(0, resident(self->target.memfd, FILE_PAGES));
	SHOW(fb);
	ASSERT_EQ(BUF_PAGES, resident(self->target.memfd, FILE_PAGES));
	/* mapped once, for MADV_PAGEOUT to take them; but not written to */
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		PEEK(in_file(&self->target, i));
	drain_lru();
	for (int i = 0; i < 50 && left; i++) {
		ASSERT_EQ(0, madvise(self->target.file, FILE_PAGES * PAGE,
				     MADV_PAGEOUT));
		left = resident(self->target.memfd, FILE_PAGES);
	}
	EXPECT_EQ(0, left) TH_LOG("this test needs swap space");
	EXPECT_ALL_SHOWN(1);
}

/* The screen waits for who draws, and a discard for neither of them. */
TEST_F(vkms, implicit_fence)
{
	int fb = import_fb(self->kms.card, self->ram.buf);
	int target = import_fb(self->kms.card, self->target.buf);
	int timeline = open(SW_SYNC, O_RDWR | O_CLOEXEC);
	int fence, out;

	ASSERT_LE(0, timeline) TH_LOG("this test needs " SW_SYNC);
	fence = new_fence(timeline, 1);
	ASSERT_LE(0, fence);
	ASSERT_LT(0, fb);
	ASSERT_LT(0, target);
	draw(&self->ram, 1);
	ASSERT_EQ(0, put_fence(self->ram.buf, fence, DMA_BUF_SYNC_WRITE));
	out = commit(&self->kms, fb, target, DRM_MODE_ATOMIC_NONBLOCK);
	ASSERT_LE(0, out);
	/* the time of some pictures, so that one would have been shown */
	EXPECT_EQ(0, ready(out, POLLIN, 500));
	ASSERT_EQ(0, punch(self->ram.memfd, page_of(0), 1));
	draw(&self->ram, 2);
	ASSERT_EQ(0, advance(timeline));
	ASSERT_TRUE(finished(out));
	EXPECT_SHOWN(0, 0, 1, 2);
	ASSERT_TRUE(remove_fb(self->kms.card, target));
	EXPECT_TRUE(released(_metadata, &self->target));
	close(fence);
	close(timeline);
}

/* Nobody closes anything, and the screen is on. */
TEST_F(vkms, exit)
{
	int status;
	pid_t pid;

	/* who comes first is the master */
	close(self->kms.card);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fb, target, fence;
		struct kms kms;

		open_kms(_metadata, &kms);
		fb = import_fb(kms.card, self->ram.buf);
		target = import_fb(kms.card, self->target.buf);
		draw(&self->ram, 1);
		fence = commit(&kms, fb, target, 0);
		EXPECT_LE(0, fence);
		EXPECT_TRUE(finished(fence));
		EXPECT_EQ(2 * BUF_PAGES,
			  info(_metadata, &self->ram).pinned_pages);
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	self->kms.card = OPEN_CARD("vkms");
	EXPECT_TRUE(released(_metadata, &self->ram));
	EXPECT_TRUE(released(_metadata, &self->target));
	EXPECT_PINNED(0);
	EXPECT_ALL_SHOWN(1);
}

/* Compared with udmabuf */

static int create_by(bool udmabuf, const struct ram *ram)
{
	struct memfd_dmabuf_range r[BUF_PAGES];

	if (!udmabuf)
		return create_scattered(ram->dev, 0, ram->memfd);
	for (unsigned int i = 0; i < BUF_PAGES; i++)
		r[i] = range(ram->memfd, page_of(i), 1);
	return create_udmabuf(r, BUF_PAGES);
}

/* How many pages can be moved to the other node. */
static long move_all(char *file)
{
	long nr = 0;

	for (unsigned int i = 0; i < BUF_PAGES; i++) {
		char *addr = file + page_of(i) * PAGE;
		int from;

		PEEK(addr);
		from = move_page(addr, -1);
		nr += from >= 0 && move_page(addr, !from) == !from;
	}
	return nr;
}

enum { CREATED, READ, IMPORTED, RELEASED, CLOSED, STATES };
enum { SEEN_BY_CPU, SHOWN, SHOWN_ANEW, LOOKS };

struct column {
	long pinned[STATES];
	long moved[STATES];
	/* 1 what the file has now, 0 what it has discarded, -1 neither */
	int fresh[LOOKS];
};

/* Which version a page of the picture has, if all of its pixels have it. */
static int freshness(const void *addr, unsigned int page)
{
	if (!wrong(addr, page, 2))
		return 1;
	return wrong(addr, page, 1) ? -1 : 0;
}

TEST_F(vkms, compared)
{
	static const char * const states[] = {
		"created", "mapped and read", "imported by vgem",
		"handle closed", "buffer closed",
	};
	static const char * const looks[] = {
		"CPU mapping", "importer that showed it", "imported anew",
	};
	static const char * const words[] = { "neither", "old", "new" };
	int card = OPEN_CARD("vgem");
	struct column column[2];
	struct ram *ram = &self->ram;
	bool pins = false;		/* the second one, unless it is ours */

	ASSERT_EQ(0, access("/sys/devices/system/node/node1", F_OK))
		TH_LOG("this test needs two NUMA nodes");
	munmap(ram->map, BUF_PAGES * PAGE);
	close(ram->buf);
	ASSERT_EQ(0, fcntl(ram->memfd, F_ADD_SEALS, F_SEAL_SHRINK));

	for (int u = 0; u < 2; u++) {
		struct column *c = &column[u];
		int buf, handle = 0, fb;
		char *map = NULL;

		draw(ram, 1);
		for (int state = 0; state < STATES; state++) {
			switch (state) {
			case CREATED:
				buf = create_by(u, ram);
				ASSERT_LE(0, buf);
				pins = !is_ours(ram->dev, buf);
				break;
			case READ:
				map = map_shared(buf, BUF_PAGES);
				ASSERT_NE(MAP_FAILED, map);
				for (unsigned int i = 0; i < BUF_PAGES; i++) {
					EXPECT_EQ(0, wrong(map + i * PAGE, i,
							   1));
				}
				break;
			case IMPORTED:
				handle = import(card, buf);
				ASSERT_LT(0, handle);
				break;
			case RELEASED:
				ASSERT_EQ(0, gem_close(card, handle));
				break;
			case CLOSED:
				munmap(map, BUF_PAGES * PAGE);
				close(buf);
				break;
			}
			c->pinned[state] = pinned_pages() - self->pins;
			c->moved[state] = move_all(ram->file);
		}

		buf = create_by(u, ram);
		ASSERT_LE(0, buf);
		map = map_shared(buf, BUF_PAGES);
		ASSERT_NE(MAP_FAILED, map);
		EXPECT_EQ(0, wrong(map, 0, 1));
		fb = import_fb(self->kms.card, buf);
		ASSERT_LT(0, fb);
		SHOW(fb);
		EXPECT_ALL_SHOWN(1);
		ASSERT_EQ(0, punch(ram->memfd, page_of(0), 1));
		draw_page(ram, 0, 2);
		c->fresh[SEEN_BY_CPU] = freshness(map, 0);
		SHOW(fb);
		c->fresh[SHOWN] = freshness(in_file(&self->target, 0), 0);
		ASSERT_TRUE(remove_fb(self->kms.card, fb));
		fb = import_fb(self->kms.card, buf);
		ASSERT_LT(0, fb);
		SHOW(fb);
		c->fresh[SHOWN_ANEW] = freshness(in_file(&self->target, 0), 0);
		ASSERT_TRUE(remove_fb(self->kms.card, fb));
		munmap(map, BUF_PAGES * PAGE);
		close(buf);
	}

	TH_LOG("of %d pages            memfd_dmabuf    %s", BUF_PAGES,
	       pins ? "udmabuf" : "the same as /dev/udmabuf");
	TH_LOG("                       pinned  moved   pinned  moved");
	for (int i = 0; i < STATES; i++) {
		bool pinned = i == IMPORTED;

		TH_LOG("%-20s %8ld %6ld %8ld %6ld", states[i],
		       column[0].pinned[i], column[0].moved[i],
		       column[1].pinned[i], column[1].moved[i]);
		EXPECT_EQ(pinned ? BUF_PAGES : 0, column[0].pinned[i]);
		EXPECT_EQ(pinned ? 0 : BUF_PAGES, column[0].moved[i]);
		pinned = pins ? i != CLOSED : i == IMPORTED;
		EXPECT_EQ(pinned ? BUF_PAGES : 0, column[1].pinned[i]);
		EXPECT_EQ(pinned ? 0 : BUF_PAGES, column[1].moved[i]);
	}
	TH_LOG("a page that has been discarded and filled again:");
	for (int i = 0; i < LOOKS; i++) {
		TH_LOG("%-25s %8s %15s", looks[i],
		       words[column[0].fresh[i] + 1],
		       words[column[1].fresh[i] + 1]);
		EXPECT_EQ(i != SHOWN, column[0].fresh[i]);
		EXPECT_EQ(!pins && i != SHOWN, column[1].fresh[i]);
	}

	close(card);
	ram->buf = create_scattered(ram->dev, 0, ram->memfd);
	ram->map = map_shared(ram->buf, BUF_PAGES);
}

TEST_HARNESS_MAIN

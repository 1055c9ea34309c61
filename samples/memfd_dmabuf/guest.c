// SPDX-License-Identifier: GPL-2.0
/*
 * guest DRIVER SOCKET IMAGE FOLDER CGROUP: a virtual machine, as far as memory
 * goes.
 *
 * Its RAM is a memfd. The pages of its framebuffer are scattered over it, and
 * are made one dma-buf with DRIVER (memfd_dmabuf or udmabuf) for a viewer at
 * SOCKET. Between frames, RAM is treated as hosts do: swapped out, migrated,
 * punched (a balloon), truncated. For each frame a line of tab separated
 * columns says what came of it: step, stale pages, pinned pages, what happened.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <png.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/memfd_dmabuf.h>
#include <linux/mempolicy.h>
#include <linux/udmabuf.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "demo.h"
#include "pinned.h"

#define RAM_PAGES	16384UL		/* 64 MiB */

static int memfd;
static unsigned char *ram;
static const char *cgroup;
static unsigned char image[FRAME_BYTES];

/* Where in RAM page @i of the framebuffer is: no two are adjacent. */
static unsigned long ram_page(unsigned long i)
{
	return (i * 5077 + 1234) % RAM_PAGES;
}

static void load_image(const char *path)
{
	png_image png = { .version = PNG_IMAGE_VERSION };
	unsigned char *pixels;

	if (!png_image_begin_read_from_file(&png, path))
		errx(1, "%s: %s", path, png.message);
	png.format = PNG_FORMAT_BGRA;
	pixels = malloc(PNG_IMAGE_SIZE(png));
	if (!pixels || !png_image_finish_read(&png, NULL, pixels, 0, NULL))
		errx(1, "%s: %s", path, png.message);
	/* scaled to the screen */
	for (unsigned int y = 0; y < HEIGHT; y++) {
		for (unsigned int x = 0; x < WIDTH; x++)
			memcpy(image + (y * WIDTH + x) * 4,
			       pixels + ((size_t)y * png.height / HEIGHT *
					 png.width +
					 (size_t)x * png.width / WIDTH) * 4, 4);
	}
	free(pixels);
}

/*
 * Frame @n: the image moved on by a part of the screen and in another colour,
 * so that every page differs from every other frame's. Into RAM and @copy.
 */
static void draw(unsigned int n, unsigned char *copy)
{
	for (unsigned int y = 0; y < HEIGHT; y++) {
		for (unsigned int x = 0; x < WIDTH; x++) {
			unsigned int from = (x + n * WIDTH / 8) % WIDTH;
			const unsigned char *in = image + (y * WIDTH + from) * 4;
			unsigned char *out = copy + (y * WIDTH + x) * 4;

			for (unsigned int c = 0; c < 3; c++)
				out[c] = c == n % 3 ? 255 - (255 - in[c]) / 2 :
						      in[c] * (8 - n) / 8;
			out[3] = 255;
		}
	}
	for (unsigned int i = 0; i < FRAME_PAGES; i++)
		memcpy(ram + ram_page(i) * PAGE, copy + i * PAGE, PAGE);
}

static int make_memfd_dmabuf(void)
{
	static struct memfd_dmabuf_range ranges[FRAME_PAGES];
	struct memfd_dmabuf_create create = {
		.flags = MEMFD_DMABUF_CLOEXEC | MEMFD_DMABUF_RDONLY,
		.count = FRAME_PAGES,
		.ranges = (uintptr_t)ranges,
	};
	int dev = open("/dev/memfd_dmabuf", O_RDWR);

	for (unsigned int i = 0; i < FRAME_PAGES; i++) {
		ranges[i].fd = memfd;
		ranges[i].offset = ram_page(i) * PAGE;
		ranges[i].size = PAGE;
	}
	return dev < 0 ? -1 : ioctl(dev, MEMFD_DMABUF_CREATE, &create);
}

static int make_udmabuf(void)
{
	struct udmabuf_create_list *list =
		calloc(1, sizeof(*list) + FRAME_PAGES * sizeof(list->list[0]));
	int dev = open("/dev/udmabuf", O_RDWR);

	/* udmabuf insists: the file must never shrink */
	fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK);
	list->flags = UDMABUF_FLAGS_CLOEXEC;
	list->count = FRAME_PAGES;
	for (unsigned int i = 0; i < FRAME_PAGES; i++) {
		list->list[i].memfd = memfd;
		list->list[i].offset = ram_page(i) * PAGE;
		list->list[i].size = PAGE;
	}
	return dev < 0 ? -1 : ioctl(dev, UDMABUF_CREATE_LIST, list);
}

static void send_look(int sock, const struct look *look, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { (void *)look, sizeof(*look) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *cmsg;

		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	}
	if (sendmsg(sock, &msg, 0) != sizeof(*look))
		err(1, "sendmsg");
}

static unsigned int in_memory(void)
{
	unsigned int nr = 0;
	unsigned char vec;

	for (unsigned int i = 0; i < FRAME_PAGES; i++) {
		if (mincore(ram + ram_page(i) * PAGE, PAGE, &vec))
			err(1, "mincore");
		nr += vec & 1;
	}
	return nr;
}

/* What is done to RAM before a frame; each says in @text what came of it. */

static bool nothing(char *text)
{
	sprintf(text, "-");
	return true;
}

static bool punch(char *text)
{
	unsigned int left;

	for (unsigned int i = 0; i < FRAME_PAGES; i++)
		if (fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      ram_page(i) * PAGE, PAGE))
			return sprintf(text, "%s", strerror(errno)), false;
	left = in_memory();
	sprintf(text, "%u of %u pages punched", FRAME_PAGES - left, FRAME_PAGES);
	return !left;
}

static bool truncate_and_regrow(char *text)
{
	if (ftruncate(memfd, 0) || ftruncate(memfd, RAM_PAGES * PAGE)) {
		sprintf(text, "%s", strerror(errno));
		return false;
	}
	sprintf(text, "truncated and grown again");
	return true;
}

static bool swap_out(char *text)
{
	unsigned int left = FRAME_PAGES;
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/memory.reclaim", cgroup);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		err(1, "%s", path);
	/* as much as goes: it fails when nothing is left to reclaim */
	for (int i = 0; i < 64 && left; i++) {
		(void)!write(fd, "4M swappiness=200", 17);
		left = in_memory();
	}
	close(fd);
	sprintf(text, "%u of %u pages swapped out", FRAME_PAGES - left,
		FRAME_PAGES);
	return !left;
}

/* On which node each page is, or an error if there is no telling. */
static void ask_nodes(void **pages, int *nodes)
{
	if (syscall(SYS_move_pages, 0, (unsigned long)FRAME_PAGES, pages, NULL,
		    nodes, 0))
		err(1, "move_pages");
}

static bool migrate(char *text)
{
	static int before[FRAME_PAGES], target[FRAME_PAGES], after[FRAME_PAGES];
	static void *pages[FRAME_PAGES];
	unsigned int moved = 0;

	for (unsigned int i = 0; i < FRAME_PAGES; i++) {
		pages[i] = ram + ram_page(i) * PAGE;
		__atomic_load_n((char *)pages[i], __ATOMIC_RELAXED);
	}
	ask_nodes(pages, before);
	for (unsigned int i = 0; i < FRAME_PAGES; i++)
		target[i] = !before[i];
	if (syscall(SYS_move_pages, 0, (unsigned long)FRAME_PAGES, pages,
		    target, after, MPOL_MF_MOVE_ALL) < 0)
		err(1, "move_pages");
	/* it leaves the status of pages that did not move as it was */
	ask_nodes(pages, after);
	for (unsigned int i = 0; i < FRAME_PAGES; i++)
		moved += before[i] >= 0 && after[i] == target[i];
	sprintf(text, "%u of %u pages moved", moved, FRAME_PAGES);
	return moved == FRAME_PAGES;
}

static const struct step {
	const char *name;
	bool (*act)(char *text);
} steps[] = {
	{ "first frame", nothing },
	{ "swap out", swap_out },
	{ "migrate", migrate },
	{ "hole punch", punch },
	{ "truncate", truncate_and_regrow },
};

int main(int argc, char **argv)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	static unsigned char frame[FRAME_BYTES];
	int sock, conn, buf;
	long pinned;

	if (argc != 6)
		errx(2, "usage: guest DRIVER SOCKET IMAGE FOLDER CGROUP");
	load_image(argv[3]);
	cgroup = argv[5];

	memfd = memfd_create("guest-ram", MFD_ALLOW_SEALING);
	if (memfd < 0 || ftruncate(memfd, RAM_PAGES * PAGE))
		err(1, "memfd");
	ram = mmap(NULL, RAM_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		   memfd, 0);
	if (ram == MAP_FAILED)
		err(1, "mmap");

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", argv[2]);
	sock = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	if (bind(sock, (struct sockaddr *)&addr, sizeof(addr)) ||
	    listen(sock, 1))
		err(1, "%s", argv[2]);
	conn = accept(sock, NULL, NULL);

	pinned = all_pinned();
	buf = strcmp(argv[1], "udmabuf") ? make_memfd_dmabuf() : make_udmabuf();
	if (buf < 0)
		err(1, "/dev/%s", argv[1]);

	for (unsigned int n = 0; n < sizeof(steps) / sizeof(*steps); n++) {
		unsigned int stale = 0;
		struct look look;
		struct seen seen;
		char text[256];
		bool done = steps[n].act(text);

		draw(n, frame);
		snprintf(look.picture, sizeof(look.picture), "%s/%s-%u.png",
			 argv[4], argv[1], n);
		send_look(conn, &look, n ? -1 : buf);
		if (read(conn, &seen, sizeof(seen)) != sizeof(seen))
			errx(1, "the viewer has gone");
		for (unsigned int i = 0; i < FRAME_PAGES; i++)
			stale += seen.sums[i] != page_sum(frame + i * PAGE);
		printf("%s\t%u\t%ld\t%s\t%s\n", steps[n].name, stale,
		       all_pinned() - pinned, done ? "yes" : "NO", text);
		fflush(stdout);
	}
	return 0;
}

// SPDX-License-Identifier: GPL-2.0
/*
 * draw: all there is of a virtual machine's user space. It is init, and draws
 * into a dumb buffer of virtio-gpu what it is told over the second serial port.
 *
 *	mode WIDTH HEIGHT	show a new buffer of that size
 *	draw SEED		draw into it what SEED gives
 *	flush			have the host look at it again
 *	free			show nothing, give the buffer back
 *	fragment COUNT		leave COUNT free pages that have no free neighbours
 *
 * Each is answered with a line: "done", or "error: ...". What a seed gives is for
 * scripts/vm-qemu to know as well.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>
#include <libdrm/drm.h>
#include <libdrm/drm_mode.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define PAGE		4096
#define WIDTH_MAX	8192
#define PIPES		64

static FILE *port;			/* where answers go */
static int card = -1;
static __u32 crtc, connector;

static __u32 width, height, handle, fb;
static __u32 *pixels;
static size_t size;

static bool fail(const char *what)
{
	fprintf(port, "error: %s: %s\n", what, strerror(errno));
	return false;
}

/* There may be other cards: find the one of virtio-gpu. */
static bool open_card(void)
{
	struct drm_mode_card_res res = {
		.count_crtcs = 1, .crtc_id_ptr = (uintptr_t)&crtc,
		.count_connectors = 1, .connector_id_ptr = (uintptr_t)&connector,
	};

	for (int i = 0; i < 8 && card < 0; i++) {
		char path[32], name[32] = "";
		struct drm_version version = {
			.name = name, .name_len = sizeof(name) - 1,
		};

		snprintf(path, sizeof(path), "/dev/dri/card%d", i);
		card = open(path, O_RDWR);
		if (card < 0)
			continue;
		if (ioctl(card, DRM_IOCTL_VERSION, &version) ||
		    strcmp(name, "virtio_gpu")) {
			close(card);
			card = -1;
		}
	}
	if (card < 0)
		return fail("virtio-gpu");
	if (ioctl(card, DRM_IOCTL_MODE_GETRESOURCES, &res))
		return fail("GETRESOURCES");
	return true;
}

static bool set_crtc(void)
{
	struct drm_mode_crtc set = {
		.crtc_id = crtc,
		.fb_id = fb,
		.set_connectors_ptr = (uintptr_t)&connector,
		.count_connectors = fb ? 1 : 0,
		.mode_valid = fb ? 1 : 0,
		/* nobody has to keep to these times */
		.mode = {
			.clock = (width + 160) * (height + 40) * 60 / 1000,
			.hdisplay = width, .hsync_start = width + 40,
			.hsync_end = width + 80, .htotal = width + 160,
			.vdisplay = height, .vsync_start = height + 10,
			.vsync_end = height + 20, .vtotal = height + 40,
			.vrefresh = 60,
			.name = "any",
		},
	};

	return !ioctl(card, DRM_IOCTL_MODE_SETCRTC, &set) || fail("SETCRTC");
}

static bool free_buffer(void)
{
	struct drm_mode_destroy_dumb destroy = { .handle = handle };
	__u32 old = fb;

	if (!fb)
		return true;
	munmap(pixels, size);
	fb = 0;
	if (!set_crtc())
		return false;
	if (ioctl(card, DRM_IOCTL_MODE_RMFB, &old))
		return fail("RMFB");
	if (ioctl(card, DRM_IOCTL_MODE_DESTROY_DUMB, &destroy))
		return fail("DESTROY_DUMB");
	return true;
}

static bool new_buffer(void)
{
	struct drm_mode_create_dumb create = {
		.width = width, .height = height, .bpp = 32,
	};
	struct drm_mode_map_dumb map = { 0 };
	struct drm_mode_fb_cmd add = {
		.width = width, .height = height, .bpp = 32, .depth = 24,
	};

	if (ioctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &create))
		return fail("CREATE_DUMB");
	handle = create.handle;
	size = create.size;
	map.handle = handle;
	if (ioctl(card, DRM_IOCTL_MODE_MAP_DUMB, &map))
		return fail("MAP_DUMB");
	pixels = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, card,
		      map.offset);
	if (pixels == MAP_FAILED)
		return fail("mmap");
	add.handle = handle;
	add.pitch = create.pitch;
	if (create.pitch != width * 4) {
		errno = EINVAL;
		return fail("pitch");
	}
	if (ioctl(card, DRM_IOCTL_MODE_ADDFB, &add))
		return fail("ADDFB");
	fb = add.fb_id;
	return set_crtc();
}

static bool mode(const char *arg)
{
	__u32 w, h;

	if (sscanf(arg, "%u %u", &w, &h) != 2 || !w || !h || w > WIDTH_MAX) {
		errno = EINVAL;
		return fail("mode");
	}
	if (!free_buffer())
		return false;
	width = w;
	height = h;
	return new_buffer();
}

static bool flush(void)
{
	struct drm_mode_fb_dirty_cmd dirty = { .fb_id = fb };

	return !ioctl(card, DRM_IOCTL_MODE_DIRTYFB, &dirty) || fail("DIRTYFB");
}

/*
 * One colour for each of eight successive seeds, so that stale pages are seen,
 * with noise in its lower bits that is changed by the row: no two pages are the
 * same.
 */
static bool draw(const char *arg)
{
	static __u32 noise[WIDTH_MAX];
	__u32 seed = strtoul(arg, NULL, 10), tint = 0x404040;
	__u32 state = seed * 2654435761u | 1;

	for (unsigned int i = 0; i < 3; i++)
		if (seed >> i & 1)
			tint ^= 0xa0 << i * 8;
	for (__u32 x = 0; x < width; x++) {
		state ^= state << 13;
		state ^= state >> 17;
		state ^= state << 5;
		noise[x] = (state & 0x1f1f1f) | tint;
	}
	for (__u32 y = 0; y < height; y++) {
		__u32 row = (y & 0x1f) | (y & 0x3e0) << 3 | (y & 0x7c00) << 6;

		for (__u32 x = 0; x < width; x++)
			pixels[y * width + x] = noise[x] ^ row;
	}
	return flush();
}

/*
 * A write to a pipe that is O_DIRECT takes a page of its own, of the kind that
 * buffers are made of. Fill pipes in turns, and close every other one.
 */
static bool fragment(const char *arg)
{
	unsigned long count = strtoul(arg, NULL, 10);
	int fds[2][PIPES][2];
	unsigned int used = 0;

	for (unsigned long i = 0; i < count; i++) {
		if (i / 256 == used) {
			for (int k = 0; k < 2; k++) {
				if (used == PIPES) {
					errno = EINVAL;
					return fail("fragment");
				}
				if (pipe2(fds[k][used], O_DIRECT) ||
				    fcntl(fds[k][used][1], F_SETPIPE_SZ,
					  256 * PAGE) < 0)
					return fail("pipe");
			}
			used++;
		}
		for (int k = 0; k < 2; k++)
			if (write(fds[k][used - 1][1], "", 1) != 1)
				return fail("write");
	}
	for (unsigned int i = 0; i < used; i++) {
		close(fds[1][i][0]);
		close(fds[1][i][1]);
	}
	return true;
}

static void command(char *line)
{
	char *arg = strchr(line, ' ');
	bool done;

	line[strcspn(line, "\n")] = '\0';
	if (arg)
		*arg++ = '\0';
	else
		arg = "";
	errno = EINVAL;
	if (!strcmp(line, "mode"))
		done = mode(arg);
	else if (!strcmp(line, "fragment"))
		done = fragment(arg);
	else if (!fb)
		done = fail(line);
	else if (!strcmp(line, "draw"))
		done = draw(arg);
	else if (!strcmp(line, "flush"))
		done = flush();
	else if (!strcmp(line, "free"))
		done = free_buffer();
	else
		done = fail(line);
	if (done)
		fprintf(port, "done\n");
}

int main(void)
{
	struct termios raw;
	FILE *commands;
	char line[64];
	int fd;

	mkdir("/dev", 0755);
	mkdir("/proc", 0755);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY);
	if (fd < 0 || tcgetattr(fd, &raw))
		return 1;
	cfmakeraw(&raw);
	tcsetattr(fd, TCSANOW, &raw);
	commands = fdopen(fd, "r");
	port = fdopen(dup(fd), "w");
	setvbuf(port, NULL, _IOLBF, BUFSIZ);
	if (open_card())
		fprintf(port, "done\n");
	while (fgets(line, sizeof(line), commands))
		command(line);
	return 1;
}
